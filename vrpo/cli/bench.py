"""`bench`: speed and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.arguments import Device, Threads, chosen_device

app = typer.Typer(no_args_is_help=True, help="Measure speed and memory.")


@app.command("metrics")
def bench_metrics(
    images: Annotated[
        int, typer.Option(help="images in each of the two compared sets", min=8)
    ] = 200,
    at_scale: Annotated[
        bool,
        typer.Option(
            "--at-scale", help="also FID and precision and recall of 50,000 random features"
        ),
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write")] = None,
    threads: Threads = 1,
) -> None:
    """Scores against torch-fidelity's on the same random images, on the CPU: time and peak memory of each."""
    from vrpo.bench import metrics

    typer.echo(metrics.table(metrics.bench_metrics(images, threads, at_scale, output)))


@app.command("data")
def bench_data(
    images: Annotated[int, typer.Option(help="images that are decoded and encoded", min=8)] = 256,
    gigabytes: Annotated[
        float,
        typer.Option(
            help="size of the sparse file that is read at random; it takes no disk", min=0.1
        ),
    ] = 30.0,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="folder on the disk to be measured; without it the system's temporary one"
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write")] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Decoding, encoding and random reads, against the images/s that training needs; on generated files."""
    from vrpo.bench import data

    typer.echo(
        data.table(
            data.bench_data(images, gigabytes, chosen_device(device, threads), folder, output)
        )
    )


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("train", context_settings=PASSED_ON)
def bench_train(context: typer.Context) -> None:
    """Training speed on synthetic data: images/s, the parts of a step, share of the matrix peak, memory (`bench train --help`)."""
    from vrpo.bench.commands import train_command

    typer.echo(train_command(context.args, context.command_path))


@app.command("sample", context_settings=PASSED_ON)
def bench_sample(context: typer.Context) -> None:
    """Sampling speed with random weights: images/s, latency of the network, VAE decode, and what 50,000 images take (`bench sample --help`)."""
    from vrpo.bench.commands import sample_command

    typer.echo(sample_command(context.args, context.command_path))
