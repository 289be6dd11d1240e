"""Checks that the workflow makes a file that it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from vrpo.config.base import shown
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.messages import require_known
from vrpo.config.resolved import CollectedRun
from vrpo.errors import UserError
from vrpo.plan.jobs import collection, represented
from vrpo.plan.paths import file_step


class Targets:
    """Names that targets may have.

    Each method raises a `UserError` for a name that is not in the config or not made.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.rows: Mapping[str, CollectedRun] = collection(config).runs

    def require_run(self, run: str) -> None:
        """Refuse a run that is not in the config."""
        _require_known("run", run, self.rows, "runs` or `checkpoints")

    def require_milestone(self, run: str, seed: str, step: str) -> None:
        """Refuse a run, seed or step, as file names have them, that is not trained."""
        self.require_run(run)
        row = self.rows[run]
        if seed not in map(str, row.seeds):
            raise UserError(
                f"target: seed {seed} of `{run}` is not in `{self._option(run, 'seeds')}` "
                f"{shown(row.seeds)}; add it there, or name another file"
            )
        if step not in map(file_step, row.milestones):
            raise UserError(
                f"target: step {step} of `{run}` is not in `{self._option(run, 'milestones')}` "
                f"{shown(row.milestones)}; add it there, or name another file"
            )

    def require_samples(self, run: str, seed: str, step: str, sampler: str) -> None:
        """Refuse samples that are not made."""
        self.require_milestone(run, seed, step)
        _require_known("sampler", sampler, self.config.samplers, "samplers")
        steps = self.rows[run].samplers
        rewarded = self.config.samplers[sampler].guidance.rewarded
        if rewarded and not self.config.is_projected(run):
            raise UserError(
                f"target: sampler `{sampler}` guides by the aligned representation, and `{run}` "
                f"has no projector; name one of {', '.join(steps)}, or a run that is aligned"
            )
        if sampler not in steps:
            raise UserError(
                f"target: sampler `{sampler}` does not serve `{run}`, whose process is "
                f"`{self.config.process_of(run)}`; name one of {', '.join(steps)}"
            )
        if step not in map(file_step, steps[sampler]):
            raise UserError(
                f"target: sampler `{sampler}` has `milestones: last`, step {step} of `{run}` "
                f"is not the last; name step {file_step(steps[sampler][-1])}"
            )

    def require_aligned(self, run: str, seed: str, step: str) -> None:
        """Refuse a milestone without a projector to an encoder."""
        self.require_milestone(run, seed, step)
        if not self.config.is_projected(run):
            raise UserError(
                f"target: `{run}` has no projector to an encoder, so no semantic reward; "
                "name a run that is aligned"
            )

    def require_represented(self, run: str, seed: str, step: str) -> None:
        """Refuse a representation that is not measured."""
        self.require_milestone(run, seed, step)
        if (run, int(seed), int(step)) not in set(represented(self.config)):
            raise UserError(
                f"target: the representation of `{run}` is not measured at step {step}; "
                "name the last milestone of one of `runs`"
            )

    def require_encoder(self, encoder: str) -> None:
        """Refuse an encoder that is not in the config."""
        _require_known("encoder", encoder, self.config.encoders, "encoders")

    def require_fitted_encoder(self, encoder: str) -> None:
        """Refuse an encoder whose weights are not trained here."""
        self.require_encoder(encoder)
        weights = self.config.encoders[encoder].weights
        if weights != "trained":
            raise UserError(
                f"target: encoder `{encoder}` has `weights: {weights}`, so none are trained; "
                "name another file"
            )

    def require_extra_network(self, name: str) -> None:
        """Refuse a further evaluation network that is not trained here."""
        networks = self.config.evaluation.extra_networks
        fitted = {key: net for key, net in networks.items() if net.weights == "trained"}
        _require_known("network", name, fitted, "evaluation.extra_networks` with `weights: trained")

    def _option(self, run: str, name: str) -> str:
        """The option that gives a run or checkpoint its `seeds` or `milestones`."""
        if run in self.config.checkpoints:
            return f"checkpoints.{run}.{'seed' if name == 'seeds' else 'step'}"
        return f"runs.{run}.{name}" if getattr(self.config.runs[run], name) else name


def _require_known(kind: str, name: str, known: Mapping[str, object], section: str) -> None:
    try:
        require_known(f"target: {kind}", name, known, section)
    except ValueError as error:
        raise UserError(str(error)) from None
