"""Commands of the runs: training and sampling."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrpo.cli.arguments import (
    Config,
    Device,
    FeaturesByEncoder,
    Latents,
    Milestone,
    Output,
    Threads,
    Tracking,
    pairs_of,
    use_threads,
)
from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.config.tracking import TrackingOptions
    from vrpo.training.run import PreviewMaker

app = typer.Typer()


@app.command("train", rich_help_panel="Train")
def train(
    config: Config,
    latents: Latents,
    output: Output,
    milestone: Annotated[int, typer.Option(help="steps at which this job ends", min=1)],
    features: FeaturesByEncoder = None,
    critic: Annotated[
        list[str] | None, typer.Option(help="ENCODER=FILE, once for each latent critic")
    ] = None,
    save_minutes: Annotated[float, typer.Option(help="minutes between saved states")] = 10.0,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help="minutes until it must have ended; before, the state is saved, exit status 75; "
            "default: the time that a SLURM job has left"
        ),
    ] = None,
    log_every: Annotated[
        int, typer.Option(help="steps averaged in a row of train.csv", min=1)
    ] = 100,
    max_skipped: Annotated[
        int, typer.Option(help="tolerated non-finite steps in a row", min=0)
    ] = 10,
    tracking: Tracking = None,
    preview_tokenizer: Annotated[
        Path | None, typer.Option(help="resolved config of the tokenizer that decodes previews")
    ] = None,
    preview_weights: Annotated[
        Path | None, typer.Option(help="weights of that tokenizer, if it was trained here")
    ] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Train a run to a milestone, going on from its state; under `torchrun`, on several GPUs."""
    from vrpo.config import RunConfig, load_resolved
    from vrpo.runtime.queue import minutes_left, resumed_by_queue
    from vrpo.runtime.ranks import is_first
    from vrpo.training.run import train as train_run

    use_threads(threads)
    tracked = _tracking_options(tracking)
    with resumed_by_queue():
        train_run(
            load_resolved(RunConfig, config),
            latents=latents,
            features=pairs_of("--features", features or []),
            critics=pairs_of("--critic", critic or []),
            milestone=milestone,
            output=output,
            device=device,
            save_minutes=save_minutes,
            max_minutes=minutes_left() if max_minutes is None and is_first() else max_minutes,
            log_every=log_every,
            max_skipped=max_skipped,
            tracking=tracked,
            preview=_preview_maker(tracked, preview_tokenizer, preview_weights),
        )
    return output


def _tracking_options(path: Path | None) -> TrackingOptions | None:
    from vrpo.config import load_resolved
    from vrpo.config.tracking import TrackingOptions

    return load_resolved(TrackingOptions, path) if path else None


def _preview_maker(
    tracking: TrackingOptions | None, tokenizer: Path | None, weights: Path | None
) -> PreviewMaker | None:
    """Makes the sampler of previews, where they are wanted."""
    if tracking is None or tracking.preview is None:
        return None
    if tokenizer is None:
        raise UserError(
            "--preview-tokenizer: missing, and `tracking.preview` needs its decoder; "
            "give the tokenizer's resolved config"
        )
    from vrpo.config import load_resolved
    from vrpo.config.networks import TokenizerOptions
    from vrpo.sampling.preview import PreviewSampler

    options = load_resolved(TokenizerOptions, tokenizer)
    return functools.partial(PreviewSampler, tracking.preview, options, weights)


@app.command("sample", rich_help_panel="Sample")
def sample(
    config: Config,
    milestone: Milestone,
    tokenizer_config: Annotated[Path, typer.Option(help="resolved config of the tokenizer")],
    output: Output,
    tokenizer_weights: Annotated[
        Path | None, typer.Option(help="weights of a trained tokenizer")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="ENCODER=FILE, targets of guidance by representation, for each encoder"),
    ] = None,
    moments: Annotated[
        Path | None, typer.Option(help="moments of the reward that guidance standardises")
    ] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Sample images from a milestone; one seed an image; under `torchrun`, on several GPUs."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import TokenizerOptions
    from vrpo.config.scoring import SamplerOptions
    from vrpo.runtime.distributed import joined_ranks
    from vrpo.sampling.generate import sample_images

    use_threads(threads)
    options = load_resolved(SamplerOptions, config)
    tokenizer = load_resolved(TokenizerOptions, tokenizer_config)
    targets = pairs_of("--target", target or [])
    with joined_ranks(device) as ranks:
        own = output, ranks.device, ranks
        sample_images(
            options, milestone, tokenizer, tokenizer_weights, *own, targets=targets, moments=moments
        )
    return output
