"""Files that the jobs of an experiment read, and the command-line options that name them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

from vrpo.config.alignments import AnyAlignment
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.messages import nearest
from vrpo.config.published import read_published
from vrpo.errors import UserError
from vrpo.plan.paths import Paths
from vrpo.plan.targets import Targets


class Fitting(NamedTuple):
    """Config and command of a network's training."""

    config: Path
    stage: str


class Inputs:
    """Inputs of the rules. Names are those of a target's wildcards.

    Raises:
        UserError: a name is not in the config, or the experiment does not make the target.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config, self.paths, self.targets = config, Paths.of(config), Targets(config)

    # ---- stored arrays ---------------------------------------------------------------------------

    @property
    def images(self) -> list[Path]:
        """All training images."""
        return self.paths.files(self.paths.images)

    @property
    def latents(self) -> list[Path]:
        """All latents."""
        return self.paths.files(self.paths.latents)

    @property
    def listing(self) -> list[Path]:
        """The listing of the images, if several jobs write them."""
        data = self.config.data
        return [self.paths.listing] if data.shards > 1 and data.source != "digits" else []

    def features(self, encoders: Iterable[str]) -> list[Path]:
        """All features of `encoders`."""
        return [
            path for place in self.places(encoders).values() for path in self.paths.files(place)
        ]

    def places(self, encoders: Iterable[str]) -> dict[str, Path]:
        """{encoder: folder of its features, or its description if it is online}."""
        for encoder in encoders:
            self.targets.require_encoder(encoder)
        return {encoder: self.paths.features(encoder) for encoder in encoders}

    # ---- networks that are trained here: `weights: trained` in the config ------------------------

    @cached_property
    def fitted(self) -> dict[str, Fitting]:
        """How each of these networks is trained, by the name that its file has."""
        config, evaluation = self.config, self.config.evaluation
        images = {"tokenizer": (config.tokenizer, "tokenizer", "fit-tokenizer")}
        for name, encoder in config.encoders.items():
            images[f"encoder-{name}"] = encoder, f"encoders/{name}", "fit-classifier"
        fit = "fit-classifier --section"
        if evaluation.network == "trained":
            images["evaluation"] = evaluation.trained, "evaluation", f"{fit} trained"
        for name, network in evaluation.extra_networks.items():
            images[f"evaluation-{name}"] = network, "evaluation", f"{fit} extra_networks.{name}"
        return {
            name: Fitting(self.paths.config(file), stage)
            for name, (network, file, stage) in images.items()
            if network.weights == "trained"
        }

    def fitting(self, network: str) -> Fitting:
        """How a network is trained."""
        if network in self.fitted:
            return self.fitted[network]
        kind, _, name = network.partition("-")
        if kind == "encoder" and name:
            self.targets.require_fitted_encoder(name)
        if kind == "evaluation" and name:
            self.targets.require_extra_network(name)
        known = nearest(network, self.fitted)
        raise UserError(f"target: network: `{network}` is not trained here; {known}")

    @property
    def tokenizer(self) -> list[Path]:
        """The tokenizer."""
        return self._fitted("tokenizer")

    def encoder(self, name: str) -> list[Path]:
        """An encoder."""
        self.targets.require_encoder(name)
        return self._fitted(f"encoder-{name}")

    @property
    def evaluation(self) -> list[Path]:
        """The evaluation network."""
        return self._fitted("evaluation")

    @property
    def extra(self) -> dict[str, Path]:
        """{name: file} of the further evaluation networks."""
        names = self.config.evaluation.extra_networks
        return {name: path for name in names for path in self._fitted(f"evaluation-{name}")}

    def critics(self, run: str) -> dict[str, Path]:
        """{encoder: latent critic} for a run's perceptual reward."""
        encoders = self.encoders_of(run) if self._alignment(run).needs_critic else []
        return {encoder: self.paths.network(f"critic-{encoder}") for encoder in encoders}

    @property
    def networks(self) -> list[Path]:
        """All networks that are trained before the runs."""
        critics = [path for run in self.config.runs for path in self.critics(run).values()]
        return sorted({*map(self.paths.network, self.fitted), *critics})

    # ---- runs ------------------------------------------------------------------------------------

    def encoders_of(self, run: str) -> list[str]:
        """Encoders that a run is aligned to."""
        return self._alignment(run).encoders

    def previous(self, run: str, seed: str, step: str) -> list[Path]:
        """The milestone before, which makes a run's jobs a chain."""
        self.targets.require_milestone(run, seed, step)
        earlier = [before for before in self.config.milestones_of(run) if before < int(step)]
        return [self.paths.milestone(run, seed, before) for before in earlier[-1:]]

    def sampled(self, run: str, seed: str, step: str, sampler: str) -> Path:
        """The milestone that images are sampled from."""
        self.targets.require_samples(run, seed, step, sampler)
        return self.paths.milestone(run, seed, step)

    def samples(self, run: str, seed: str, step: str, sampler: str) -> Path:
        """The images that are scored."""
        self.targets.require_samples(run, seed, step, sampler)
        return self.paths.samples(run, seed, step, sampler)

    def targets_of(self, run: str, sampler: str) -> dict[str, Path]:
        """{encoder: tokens} that a sampler guides a run's images by."""
        guidance = self.config.samplers[sampler].guidance
        encoders = self.encoders_of(run) if guidance.rewarded else []
        if not encoders or guidance.target is None:
            return {encoder: self.paths.class_tokens(encoder) for encoder in encoders}
        return {encoder: self.paths.image_tokens(encoder, sampler) for encoder in encoders}

    def moments_of(self, run: str, seed: str, step: str, sampler: str) -> list[Path]:
        """Moments of the reward, where a sampler standardises it."""
        standardised = self.config.samplers[sampler].guidance.standardised
        return [self.paths.moments(run, seed, step)] if standardised else []

    def target_image(self, encoder: str, sampler: str) -> Path:
        """The image that a sampler is guided by."""
        self.targets.require_encoder(encoder)
        target = self.config.samplers[sampler].guidance.target
        return _existing(f"samplers.{sampler}.guidance.target", target)

    def aligned(self, run: str, seed: str, step: str) -> Path:
        """The milestone whose reward is measured."""
        self.targets.require_aligned(run, seed, step)
        return self.paths.milestone(run, seed, step)

    def represented(self, run: str, seed: str, step: str) -> Path:
        """The milestone whose hidden representations are measured."""
        self.targets.require_represented(run, seed, step)
        return self.paths.milestone(run, seed, step)

    @property
    def compared_encoders(self) -> list[str]:
        """Encoders that hidden representations are compared with."""
        chosen = self.config.representation.encoders if self.config.representation else []
        return list(self.config.encoders) if chosen is None else chosen

    # ---- files that the config names -------------------------------------------------------------

    @property
    def published(self) -> list[Path]:
        """Published numbers, which are read to refuse a malformed file before any work."""
        if not (path := self.config.report.published):
            return []
        read_published(_existing("report.published", path))
        return [Path(path)]

    def checkpoint(self, name: str, seed: str, step: str) -> Path:
        """The official code's file, which is needed until it is imported."""
        self.targets.require_milestone(name, seed, step)
        path = self.config.checkpoints[name].file
        imported = self.paths.milestone(name, seed, step).exists()
        return Path(path) if imported else _existing(f"checkpoints.{name}.file", path)

    def import_options(self, name: str) -> str:
        """Options of `import-checkpoint`."""
        options, model = self.config.checkpoints[name], self.config.model_of(name)
        kind = f"--family {options.family} --weights {options.weights}"
        return f"{kind} --model {shlex.quote(model.name)} --heads {model.heads}"

    def refused(self, reason: str) -> NoReturn:
        """Input of a target that this config does not have."""
        raise UserError(reason)

    def _alignment(self, run: str) -> AnyAlignment:
        self.targets.require_run(run)
        return self.config.alignments[self.config.runs[run].alignment]

    def _fitted(self, network: str) -> list[Path]:
        return [self.paths.network(network)] if network in self.fitted else []


def flag(name: str, paths: Iterable[Path]) -> str:
    """`--name FILE` for each of `paths`."""
    return " ".join(f"--{name} {shlex.quote(str(path))}" for path in paths)


def flags(name: str, files: Mapping[str, Path]) -> str:
    """`--name KEY=FILE` for each of `files`."""
    return " ".join(f"--{name} {shlex.quote(f'{key}={path}')}" for key, path in files.items())


def import_memory(path: str) -> int:
    """Megabytes of a job that imports a checkpoint: its file, and its weights in fp32."""
    size = Path(path).stat().st_size if Path(path).exists() else 0
    return 4_000 + 2 * size // 10**6


def _existing(option: str, path: str | Path) -> Path:
    if not Path(path).is_file():
        raise UserError(f"{option}: there is no file {path}; correct the path")
    return Path(path)
