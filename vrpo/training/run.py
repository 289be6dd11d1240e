"""One training job: from a resolved run, or its newest state, to a milestone's weights."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vrpo.alignment.moments import moments_beside, write_moments
from vrpo.config import RunConfig
from vrpo.config.tracking import TrackingOptions
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.files import exclusive_lock, write_text
from vrpo.models.checkpoints import save_milestone
from vrpo.models.normalisation import recorded_normalisation
from vrpo.models.online import open_features
from vrpo.runtime.compiler import require_compiler
from vrpo.runtime.distributed import Ranks, joined_ranks
from vrpo.runtime.memory import is_out_of_memory
from vrpo.runtime.precision import require_precision
from vrpo.tracking.backends import require_installed
from vrpo.tracking.runs import TrackedRun
from vrpo.tracking.trackers import Trackers, follow_training
from vrpo.training.backend import configure_backend
from vrpo.training.building import build_objective
from vrpo.training.history import History, tracked_rows
from vrpo.training.interrupt import Interrupt
from vrpo.training.memory import too_little_memory
from vrpo.training.previews import Draw, Previews
from vrpo.training.state import StateStore, config_differences, config_hash
from vrpo.training.trainer import Trainer

log = logging.getLogger(__name__)
PreviewMaker = Callable[[RunConfig, TrainingData, torch.device], Draw]
"""Makes what samples previews of a run; stages that sample are above this package."""


def train(
    config: RunConfig,
    *,
    latents: Path,
    features: dict[str, Path],
    critics: dict[str, Path],
    milestone: int,
    output: Path,
    device: str = "auto",
    save_minutes: float = 10.0,
    max_minutes: float | None = None,
    log_every: int = 100,
    max_skipped: int = 10,
    tracking: TrackingOptions | None = None,
    preview: PreviewMaker | None = None,
) -> None:
    """Train `config` to `milestone` steps and write its averaged weights to `output`.

    Resumes from the newest state in `output`'s folder. On a CPU, a killed and resumed training
    produces the same bytes as an undisturbed one. Under `torchrun` all ranks call this.

    Args:
        config: the resolved run.
        latents: folder of the latents, or one .h5 file.
        features: features/<encoder>.h5 by encoder, for the encoders of the alignment; or the .json
            of one whose tokens are computed from the images.
        critics: networks/critic-<encoder>.safetensors by encoder, where the alignment uses them.
        milestone: steps at which it ends.
        output: safetensors file of the averaged network and projectors.
        device: `auto`, `cpu` or `cuda`.
        save_minutes: time between saved states.
        max_minutes: time after the call when this must have ended; before it the state is saved and
            `InterruptionError` raised.
        log_every: steps in a row of train.csv.
        max_skipped: tolerated non-finite steps in a row.
        tracking: trackers and previews, which change no result; None: none.
        preview: makes the sampler of `tracking.preview`.

    Raises:
        UserError: inputs that do not fit each other, a training of this run already under way, a
            state of another version, a full disk, a tracker that is not installed, too little
            memory.
    """
    started = time.monotonic()
    tracking = tracking or TrackingOptions()
    require_installed(tracking.trackers)
    with joined_ranks(device) as ranks, _alone(config, output, ranks):
        options, plain = config.training, config.model_dump(mode="json")
        try:
            micro_batch = options.micro_batch(ranks.world, config.alignment.group)
        except ValueError as error:
            raise UserError(f"training.batch_size: {error}") from None
        require_precision(options.precision, ranks.device, "training.precision")
        if options.compile:
            require_compiler(ranks.device, "training.compile")
        data = _open_data(latents, features, ranks)
        objective = build_objective(config, data, critics, ranks.device)
        backend = configure_backend(options, objective, ranks)
        trainer = Trainer(objective, data, options, seed=config.seed, ranks=ranks)
        store = StateStore(output.parent, plain)
        if ranks.is_main:
            store.announce_other_configs()
            store.remove_leftovers()
            store.require_space(sum(parameter.numel() for parameter in trainer.parameters))
        state = store.load(at_most=milestone)
        if state is not None:
            _go_on_from(trainer, state, store)
        log.info(
            "%s, seed %d: steps %d to %d on %s; batch %d global = %d ranks x %d accumulation x %d",
            config.run, config.seed, trainer.step, milestone, ranks.device, options.batch_size,
            ranks.world, options.accumulation, micro_batch,
        )  # fmt: skip
        log.info("%s", ", ".join(f"{name} {value}" for name, value in backend.items()))
        history, previews, trackers = None, None, Trackers()
        if ranks.is_main:
            draw = preview(config, data, ranks.device) if preview and tracking.preview else None
            write_text(output.parent / "backend.json", json.dumps(backend, indent=1) + "\n")
            trackers = follow_training(
                tracking.trackers, _tracked(config, tracking, output.parent, trainer.step),
                states=store.folder, earlier=tracked_rows(trainer.tables),
            )  # fmt: skip
            history = History(
                output.parent, options.batch_size, trainer.step, trainer.tables, trackers
            )
            if draw is not None:
                every = tracking.preview.every
                previews = Previews(draw, every, output.parent, trainer.step, trackers)
        interrupt = Interrupt(
            ranks, save_minutes=save_minutes, max_minutes=max_minutes, since=started
        )
        with contextlib.closing(trackers):
            failure = None
            try:
                trainer.train(
                    milestone, store, history, interrupt,
                    log_every=log_every, max_skipped=max_skipped, previews=previews,
                )  # fmt: skip
            except RuntimeError as error:
                if not is_out_of_memory(error, ranks.device):
                    raise
                failure = str(error)
            if failure is not None:  # and the step's tensors are gone
                raise UserError(too_little_memory(trainer, failure))
            if ranks.is_main:
                _save_averaged(trainer, plain, milestone, output)


def _alone(
    config: RunConfig, output: Path, ranks: Ranks
) -> contextlib.AbstractContextManager[None]:
    """The lock of the run, on the first rank."""
    if not ranks.is_main:
        return contextlib.nullcontext()
    what = f"a training of run {config.run}, seed {config.seed},"
    return exclusive_lock(output.parent / "state" / "lock", what)


def _tracked(config: RunConfig, tracking: TrackingOptions, folder: Path, step: int) -> TrackedRun:
    """The run as its trackers show it."""
    project, plain = tracking.project or "vrpo", config.model_dump(mode="json")
    return TrackedRun("", config.run, config.seed, folder, project, step=step, options=plain)


def _save_averaged(trainer: Trainer, plain: dict[str, Any], milestone: int, output: Path) -> None:
    data, process = trainer.data, trainer.objective.process
    joint = trainer.objective.joint
    description = {
        "step": milestone,
        "latent_shape": list(data.latent_shape),
        "out_channels": process.prediction_channels(data.latent_shape[0]),
        "config_sha256": config_hash(plain),
        **({"class_token": joint.width} if joint is not None else {}),
        **{name: plain[name] for name in ("run", "seed", "model", "process", "alignment")},
    }
    normalisation = recorded_normalisation(data.latents.attributes)
    if normalisation is not None:
        description["normalisation"] = normalisation._asdict()
    moments = trainer.objective.alignment.reward_moments()
    if moments:  # before the milestone: where that is, they are
        write_moments(moments_beside(output), moments, "training", description["config_sha256"])
    network, alignment = trainer.ema.network, trainer.ema.alignment
    parameters = dict(network.named_parameters()), dict(alignment.named_parameters())
    save_milestone(output, *parameters, description)


def _go_on_from(trainer: Trainer, state: dict[str, Any], store: StateStore) -> None:
    """Restore `trainer` from a whole state of this config.

    Raises:
        UserError: the state is of other data, or of another version of the code.
    """
    differences = config_differences(state["data"], trainer.data.origin())
    if differences:
        raise UserError(
            f"{store.folder}: its states were trained on other latents or features than those of "
            f"now ({'; '.join(differences)}); give those, or remove the folder to begin the "
            "training anew"
        )
    try:
        trainer.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        found = " ".join(str(error).split())[-200:]
        raise UserError(
            f"{store.folder}: its states were written by another version of vrpo ({found}); "
            "finish the training with that version, or remove the folder to begin it anew"
        ) from error


def _open_data(latents: Path, features: dict[str, Path], ranks: Ranks) -> TrainingData:
    """The data; the first rank checks them for all, where they were not checked before."""

    def opened() -> TrainingData:
        return TrainingData(
            latents, {name: open_features(path, ranks.device) for name, path in features.items()}
        )

    if ranks.is_main:
        data = opened()
    ranks.barrier()
    return data if ranks.is_main else opened()
