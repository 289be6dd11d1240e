"""Commands of the scores and of representation quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.arguments import (
    Config,
    Device,
    ExtraWeights,
    FeaturesByEncoder,
    Latents,
    Milestone,
    Output,
    Threads,
    Tracking,
    Weights,
    chosen_device,
    pairs_of,
)

app = typer.Typer()


@app.command("reference", rich_help_panel="Score")
def reference(
    config: Config,
    images: Annotated[
        Path,
        typer.Option(help="real images: .h5, a folder of shards or images, or .npz with `arr_0`"),
    ],
    output: Output,
    resolution: Annotated[
        int | None,
        typer.Option(help="side to crop and resize a folder's images to, as stage `images`", min=8),
    ] = None,
    weights: Weights = None,
    extra_weights: ExtraWeights = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Compute the reference statistics of the training images, or of other real images."""
    from vrpo.config import load_resolved
    from vrpo.config.scoring import EvaluationOptions
    from vrpo.metrics.compute_reference import compute_reference

    options = load_resolved(EvaluationOptions, config)
    extra, chosen = pairs_of("--extra-weights", extra_weights or []), chosen_device(device, threads)
    compute_reference(options, images, weights, output, chosen, extra, resolution)
    return output


@app.command("evaluate", rich_help_panel="Score")
def evaluate(
    samples: Annotated[
        Path,
        typer.Argument(help="sampled images: our HDF5, an .npz with `arr_0`, or a folder of PNGs"),
    ],
    reference: Annotated[
        Path,
        typer.Argument(help="reference: .npz of statistics, or real images (.h5, .npz, folder)"),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="evaluation options; default: Inception, ADM's protocol"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="JSON file to write, with protocol and provenance"),
    ] = None,
    weights: Weights = None,
    extra_weights: ExtraWeights = None,
    force_sfid: Annotated[
        bool, typer.Option("--force-sfid", help="give sFID also for fewer images than its features")
    ] = False,
    tracking: Tracking = None,
    run_folder: Annotated[
        Path | None, typer.Option(help="folder of the training whose trackers get the scores")
    ] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path | None:
    """Score samples: FID, sFID, IS, precision, recall, KID; `--output` takes a JSON record."""
    from vrpo.config import load_resolved
    from vrpo.config.scoring import EvaluationOptions
    from vrpo.config.tracking import TrackingOptions
    from vrpo.metrics import score, summary
    from vrpo.tracking.backends import require_installed
    from vrpo.tracking.trackers import log_scores

    tracked = load_resolved(TrackingOptions, tracking) if tracking else TrackingOptions()
    require_installed(tracked.trackers)
    record = score(
        samples,
        reference,
        weights=weights,
        options=load_resolved(EvaluationOptions, config) if config else None,
        output=output,
        extra_weights=pairs_of("--extra-weights", extra_weights or []),
        device=chosen_device(device, threads),
        force_sfid=force_sfid,
    )
    typer.echo(summary(record))
    for warning in record["protocol"]["warnings"]:
        typer.echo(f"  {warning}", err=True)
    if run_folder is not None and record["step"] is not None:
        log_scores(
            tracked.trackers,
            tracked.project or "vrpo",
            run_folder,
            step=record["step"],
            sampler=samples.stem,
            scores=record["scores"],
        )
    return output


@app.command("export-npz", rich_help_panel="Score")
def export_npz(
    samples: Annotated[Path, typer.Argument(help="sampled images: our HDF5 or a folder of PNGs")],
    output: Annotated[Path, typer.Argument(help=".npz to write")],
) -> Path:
    """Write samples as the .npz that ADM's own evaluator reads (`arr_0`)."""
    from vrpo.metrics import export

    export.export_npz(samples, output)
    return output


@app.command("representation", rich_help_panel="Score")
def representation(
    config: Config,
    milestone: Milestone,
    latents: Latents,
    output: Output,
    features: FeaturesByEncoder = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Measure hidden representations, block by block: linear probe, and CKNNA with the encoders."""
    from vrpo.config import load_resolved
    from vrpo.config.scoring import RepresentationOptions
    from vrpo.metrics.representation import measure_representation

    options, chosen = load_resolved(RepresentationOptions, config), chosen_device(device, threads)
    pairs = pairs_of("--features", features or [])
    measure_representation(options, milestone, latents, pairs, output, chosen)
    return output
