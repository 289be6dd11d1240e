"""`python -m benchmarks COMMAND ...`: the measurements on the command line.

Measurements are imported when called, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrpo.cli import refuse_empty, show_user_errors
from vrpo.cli.arguments import Device, Threads, chosen_device, require_one_of
from vrpo.errors import UserError

if TYPE_CHECKING:
    import torch


def _writable(output: Path | None) -> Path | None:
    """Refuse an output that cannot be written, before anything is measured."""
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise UserError(
            f"--output: {output} is a folder or in none; name a file in an existing one"
        )
    return output


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure speed and memory; run from the root of the repository (benchmarks/README.md).",
)

DEFAULT_CONFIGS = [Path("config/imagenet256.yaml")]
PRECISIONS = ("fp32", "bf16")

Configs = Annotated[
    list[Path],
    typer.Option(
        "--config", help="the experiment's config file; several are merged, later ones win"
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="an option over those of the config, e.g. training.batch_size=8; can be repeated",
    ),
]
Steps = Annotated[int, typer.Option("--steps", help="steps in a row", min=1)]
Rounds = Annotated[int, typer.Option("--rounds", help="times that each has its turn", min=1)]
Samples = Annotated[int, typer.Option("--samples", help="samples in the synthetic data set", min=1)]
JSONFile = Annotated[
    Path | None,
    typer.Option("--output", help="JSON file to write", callback=_writable),
]


def main() -> None:
    """Run a command; errors are shown as those of `vrpo` are."""
    with show_user_errors():
        refuse_empty(sys.argv[1:])
        app()


@app.command("train")
def train(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="runs, timed in turn")],
    config: Configs = DEFAULT_CONFIGS,
    settings: Settings = None,
    steps: Steps = 10,
    rounds: Rounds = 5,
    samples: Samples = 2048,
    output: JSONFile = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Training: images/s, the parts of a step, share of the matrix peak, memory."""
    from benchmarks import train
    from vrpo.config.reading import read_experiment

    experiment = read_experiment(config, settings or [])
    train.comparable_runs(experiment, runs)
    where = _prepared(device, threads, "training.compile", experiment.training.compile)
    record = train.bench_train(
        experiment, runs, where, steps=steps, rounds=rounds, samples=samples, output=output
    )
    typer.echo(train.table(record))


@app.command("against-published")
def against_published(
    run: Annotated[str, typer.Argument(help="a run of REPA on SiT")],
    config: Configs = DEFAULT_CONFIGS,
    settings: Settings = None,
    published_precision: Annotated[
        str, typer.Option(help=f"{' or '.join(PRECISIONS)}, of the published loop")
    ] = "fp32",
    workers: Annotated[
        int, typer.Option(help="reading processes of the published loop", min=0)
    ] = 4,
    steps: Steps = 10,
    rounds: Rounds = 5,
    samples: Samples = 2048,
    output: JSONFile = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Training of REPA, in turn with a transcription of the published loop."""
    from benchmarks import against_published
    from vrpo.config.reading import read_experiment

    require_one_of("--published-precision", published_precision, PRECISIONS)
    experiment = read_experiment(config, settings or [])
    against_published.published_run(experiment, run)
    record = against_published.bench_against_published(
        experiment,
        run,
        _prepared(device, threads, "training.compile", experiment.training.compile),
        published_precision=published_precision,
        workers=workers,
        steps=steps,
        rounds=rounds,
        samples=samples,
        output=output,
    )
    typer.echo(against_published.table(record))


@app.command("sample")
def sample(
    run: Annotated[str, typer.Argument(help="a run, whose network is timed")],
    sampler: Annotated[str, typer.Argument(help="a sampler of the config, e.g. sde")],
    config: Configs = DEFAULT_CONFIGS,
    settings: Settings = None,
    timed_steps: Annotated[
        int, typer.Option(help="steps that are timed, as they are of all of them", min=1)
    ] = 20,
    decode: Annotated[
        bool, typer.Option(help="time the VAE's decoder too, where diffusers is installed")
    ] = True,
    output: JSONFile = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Sampling with random weights: images/s, latency of the network, VAE decoder."""
    from benchmarks import sample
    from benchmarks.experiment import timed_run
    from vrpo.config.reading import read_experiment

    experiment = read_experiment(config, settings or [])
    timed_run(experiment, run)
    compiled = sample.timed_sampler(experiment, run, sampler).compile
    record = sample.bench_sample(
        experiment,
        run,
        sampler,
        _prepared(device, threads, f"samplers.{sampler}.compile", compiled),
        timed_steps=timed_steps,
        decode=decode,
        output=output,
    )
    typer.echo(sample.table(record))


@app.command("data")
def data(
    images: Annotated[int, typer.Option(help="images that are decoded and encoded", min=8)] = 256,
    gigabytes: Annotated[
        float, typer.Option(help="size of the sparse file, which takes no disk", min=0.1)
    ] = 30.0,
    folder: Annotated[
        Path | None,
        typer.Option(help="folder on the disk to be measured; without it the temporary one"),
    ] = None,
    output: JSONFile = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Decoding, encoding and random reads of generated files, against what training needs."""
    from benchmarks import data

    where = chosen_device(device, threads)
    typer.echo(data.table(data.bench_data(images, gigabytes, where, folder, output)))


@app.command("metrics")
def metrics(
    images: Annotated[
        int, typer.Option(help="images in each of the two compared sets", min=8)
    ] = 200,
    at_scale: Annotated[
        bool,
        typer.Option("--at-scale", help="FID, precision and recall of 50,000 features as well"),
    ] = False,
    output: JSONFile = None,
    threads: Threads = 1,
) -> None:
    """Scores against torch-fidelity's on the same random images, on the CPU: time and memory."""
    from benchmarks import metrics

    typer.echo(metrics.table(metrics.bench_metrics(images, threads, at_scale, output)))


def _prepared(device: str, threads: int, option: str, compiled: bool) -> torch.device:
    """The device, where code can be compiled if the config's `option` asks for that."""
    from vrpo.runtime.compiler import require_compiler

    chosen = chosen_device(device, threads)
    if compiled:
        require_compiler(chosen, option, f"give --set {option}=false")
    return chosen
