"""`python -m vrpo STAGE ...`: one command a stage; the workflow's rules call these, and so can a person.

Stages are imported when called, so that figures need no torch and `--help` is quick.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrpo.errors import InterruptionError, UserError

if TYPE_CHECKING:
    import torch

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Config = Annotated[Path, typer.Option("--config", help="resolved config of the stage (YAML)")]
Output = Annotated[Path, typer.Option("--output", help="file to write")]
Images = Annotated[Path, typer.Option("--images", help="images.h5, or the folder of its shards")]
Latents = Annotated[Path, typer.Option("--latents", help="latents.h5, or the folder of its shards")]
Weights = Annotated[Path | None, typer.Option("--weights", help="weights of a trained network; without it the pretrained ones that the config names")]
ExtraWeights = Annotated[list[str] | None, typer.Option("--extra-weights", help="NAME=FILE, once for each trained network of evaluation.extra_networks")]
Collected = Annotated[Path, typer.Option("--collected", help="folder of the collected results")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads; CPU results are bitwise reproducible for a fixed number", min=1)]


def _device(name: str, threads: int) -> torch.device:
    import torch

    from vrpo.training.distributed import choose_device

    torch.set_num_threads(threads)
    return choose_device(name)


def _pairs(option: str, values: list[str]) -> dict[str, Path]:
    """`NAME=FILE` arguments as a mapping."""
    pairs = dict(value.partition("=")[::2] for value in values)
    if not all(pairs.values()):
        raise UserError(f"{option}: {' '.join(values)} is not of the form NAME=FILE")
    return {name: Path(path) for name, path in pairs.items()}


def _one_of(option: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{option}: `{value}` is none of {', '.join(name for name in allowed if name)}")


@app.command("images")
def images(config: Config, output: Output) -> None:
    """Read the image source into HDF5, centre-cropped to the resolution; --output shard-00003-of-00016.h5 means that part of it."""
    from vrpo.config import load_resolved
    from vrpo.config.options import DataOptions
    from vrpo.prepare.images import write_images

    write_images(load_resolved(DataOptions, config), output)


@app.command("manifest")
def manifest(config: Config, images: Images, output: Output) -> None:
    """Check that the images are those of the source, in all their shards, and write counts, classes and fingerprint (JSON)."""
    from vrpo.config import load_resolved
    from vrpo.config.options import DataOptions
    from vrpo.prepare.manifest import write_manifest

    write_manifest(load_resolved(DataOptions, config), images, output)


@app.command("check")
def check(places: Annotated[list[Path], typer.Argument(help="files of images, latents, features or samples, or folders of shards")]) -> None:
    """Compare all rows with their checksums; stages do so by themselves before they first use a file."""
    from vrpo.data.shards import open_arrays

    for place in places:
        arrays = open_arrays(place)
        typer.echo(f"{place}: {arrays.shape(arrays.keys()[0])[0]:,} rows of {', '.join(arrays.keys())}, whole")


@app.command("fit-tokenizer")
def fit_tokenizer(config: Config, images: Images, output: Output, device: Device = "auto", threads: Threads = 1) -> None:
    """Train the miniature's VAE."""
    from vrpo.config import load_resolved
    from vrpo.config.options import TokenizerOptions
    from vrpo.prepare import tokenizer

    tokenizer.fit_tokenizer(load_resolved(TokenizerOptions, config), images, output, _device(device, threads))


@app.command("fit-classifier")
def fit_classifier(
    config: Config,
    images: Images,
    output: Output,
    section: Annotated[
        str, typer.Option(help="`encoder`: --config is an encoder's; `trained` or `extra_networks.NAME`: it is the evaluation's, and this section of it")
    ] = "encoder",
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Train the miniature's visual encoder or evaluation network, as a classifier."""
    from vrpo.config import load_resolved
    from vrpo.config.options import EncoderOptions
    from vrpo.config.scoring import EvaluationOptions
    from vrpo.prepare import classifier

    options = load_resolved(EncoderOptions, config) if section == "encoder" else load_resolved(EvaluationOptions, config).network_of(section)
    classifier.fit_classifier(options, images, output, _device(device, threads))


@app.command("encode-latents")
def encode_latents(config: Config, images: Images, output: Output, weights: Weights = None, device: Device = "auto", threads: Threads = 1) -> None:
    """Encode all images into latent means and standard deviations."""
    from vrpo.config import load_resolved
    from vrpo.config.options import TokenizerOptions
    from vrpo.prepare import latents

    latents.encode_latents(load_resolved(TokenizerOptions, config), images, weights, output, _device(device, threads))


@app.command("encode-features")
def encode_features(
    config: Config,
    images: Images,
    output: Output,
    name: Annotated[str, typer.Option(help="the encoder's name")],
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Encode all images into the patch tokens of a visual encoder."""
    from vrpo.config import load_resolved
    from vrpo.config.options import EncoderOptions
    from vrpo.prepare import features

    features.encode_features(load_resolved(EncoderOptions, config), name, images, weights, output, _device(device, threads))


@app.command("fit-critic")
def fit_critic(
    config: Config,
    latents: Latents,
    features: Annotated[Path, typer.Option(help="features of one encoder: a file, or the folder of its shards")],
    output: Output,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Distil the latent perceptual critic from cached features."""
    from vrpo.config import load_resolved
    from vrpo.config.options import CriticOptions
    from vrpo.prepare import critic

    critic.fit_critic(load_resolved(CriticOptions, config), latents, features, output, _device(device, threads))


@app.command("train")
def train(
    config: Config,
    latents: Latents,
    output: Output,
    milestone: Annotated[int, typer.Option(help="steps at which this job ends", min=1)],
    features: Annotated[list[str] | None, typer.Option(help="ENCODER=FILE, once for each encoder of the alignment")] = None,
    critic: Annotated[list[str] | None, typer.Option(help="ENCODER=FILE, once for each latent critic")] = None,
    save_minutes: Annotated[float, typer.Option(help="minutes between saved states")] = 10.0,
    max_minutes: Annotated[float | None, typer.Option(help="wall-time budget in minutes; then the state is saved and the exit status is 75")] = None,
    log_every: Annotated[int, typer.Option(help="steps averaged in a row of train.csv", min=1)] = 100,
    max_skipped: Annotated[int, typer.Option(help="non-finite steps in a row that are put up with", min=0)] = 10,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Train a run to a milestone, going on from its state; under `torchrun`, on several GPUs."""
    import torch

    from vrpo.config import RunConfig, load_resolved
    from vrpo.training.run import train as train_run

    torch.set_num_threads(threads)
    train_run(
        load_resolved(RunConfig, config),
        latents=latents,
        features=_pairs("--features", features or []),
        critics=_pairs("--critic", critic or []),
        milestone=milestone,
        output=output,
        device=device,
        save_minutes=save_minutes,
        max_minutes=max_minutes,
        log_every=log_every,
        max_skipped=max_skipped,
    )


@app.command("sample")
def sample(
    config: Config,
    milestone: Annotated[Path, typer.Option(help="weights of a run at a milestone")],
    tokenizer_config: Annotated[Path, typer.Option(help="resolved config of the tokenizer")],
    output: Output,
    tokenizer_weights: Annotated[Path | None, typer.Option(help="weights of a trained tokenizer")] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Sample images from a milestone; one seed an image; under `torchrun`, on several GPUs."""
    import torch

    from vrpo.config import load_resolved
    from vrpo.config.options import TokenizerOptions
    from vrpo.config.scoring import SamplerOptions
    from vrpo.sampling.generate import sample_images
    from vrpo.training.distributed import joined_ranks

    torch.set_num_threads(threads)
    options, tokenizer = load_resolved(SamplerOptions, config), load_resolved(TokenizerOptions, tokenizer_config)
    with joined_ranks(device) as ranks:
        sample_images(options, milestone, tokenizer, tokenizer_weights, output, ranks.device, ranks)


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="`.pt` file of the official DiT, SiT or REPA code")],
    output: Output,
    family: Annotated[str | None, typer.Option(help="dit, sit or repa: whose code wrote it; without it, as the file says")] = None,
    weights: Annotated[str, typer.Option(help="ema or model: averaged or plain weights")] = "ema",
    heads: Annotated[int | None, typer.Option(help="attention heads, for sizes that are none of the papers'", min=1)] = None,
    run: Annotated[str | None, typer.Option(help="its name in tables; without it, the file's")] = None,
    step: Annotated[int | None, typer.Option(help="training steps; without it, as the file says", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="training seed; without it, as the file says", min=0)] = None,
    model: Annotated[str | None, typer.Option(help="what it must be, e.g. SiT-XL/2; anything else is refused")] = None,
) -> None:
    """Convert an official checkpoint to a milestone that `sample` takes."""
    from vrpo.models import official

    _one_of("--family", family, (None, "dit", "sit", "repa"))
    _one_of("--weights", weights, ("ema", "model"))
    official.import_checkpoint(file, output, family=family, weights=weights, heads=heads, run=run, step=step, seed=seed, model=model)


@app.command("export-checkpoint")
def export_checkpoint(
    milestone: Annotated[Path, typer.Argument(help="weights of a run at a milestone")],
    output: Output,
    family: Annotated[str | None, typer.Option(help="dit, sit or repa: whose code is to read it; without it, as the milestone says")] = None,
) -> None:
    """Write a milestone as a `.pt` file that the official DiT, SiT and REPA scripts load."""
    from vrpo.models import official

    _one_of("--family", family, (None, "dit", "sit", "repa"))
    official.export_checkpoint(milestone, output, family=family)


@app.command("reference")
def reference(
    config: Config,
    images: Images,
    output: Output,
    weights: Weights = None,
    extra_weights: ExtraWeights = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Compute the reference statistics of the training images."""
    from vrpo.config import load_resolved
    from vrpo.config.scoring import EvaluationOptions
    from vrpo.metrics.reference import compute_reference

    compute_reference(
        load_resolved(EvaluationOptions, config), images, weights, output, _device(device, threads), _pairs("--extra-weights", extra_weights or [])
    )


@app.command("evaluate")
def evaluate(
    samples: Annotated[Path, typer.Argument(help="sampled images: our HDF5, an .npz with `arr_0`, or a folder of PNGs")],
    reference: Annotated[Path, typer.Argument(help="what they are compared with: reference .npz, ours or ADM's, or real images, as .h5 or a folder of PNGs")],
    config: Annotated[Path | None, typer.Option("--config", help="options of the evaluation; without it Inception and ADM's protocol")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write, with protocol and provenance")] = None,
    weights: Weights = None,
    extra_weights: ExtraWeights = None,
    force_sfid: Annotated[bool, typer.Option("--force-sfid", help="give sFID also for fewer images than its features")] = False,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Score samples: FID, sFID, IS, precision, recall, KID; one line for people, and a JSON record for `--output`."""
    from vrpo.config import load_resolved
    from vrpo.config.scoring import ADM_PROTOCOL, EvaluationOptions
    from vrpo.metrics import evaluate as scoring

    options = load_resolved(EvaluationOptions, config) if config else ADM_PROTOCOL
    extra = _pairs("--extra-weights", extra_weights or [])
    record = scoring.evaluate(options, samples, reference, weights, output, _device(device, threads), force_sfid, extra)
    typer.echo(scoring.summary(record))
    for warning in record["protocol"]["warnings"]:
        typer.echo(f"  {warning}", err=True)


@app.command("export-npz")
def export_npz(
    samples: Annotated[Path, typer.Argument(help="sampled images: our HDF5 or a folder of PNGs")],
    output: Annotated[Path, typer.Argument(help=".npz to write")],
) -> None:
    """Write samples as the .npz that ADM's own evaluator reads (`arr_0`)."""
    from vrpo.metrics import export

    typer.echo(f"{export.export_npz(samples, output):,} images in {output}")


@app.command("representation")
def representation(
    config: Config,
    milestone: Annotated[Path, typer.Option(help="weights of a run at a milestone, ours or imported")],
    latents: Latents,
    output: Output,
    features: Annotated[list[str] | None, typer.Option(help="ENCODER=FILE, once for each encoder to compare with")] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Measure hidden representations, block by block: linear probe, and CKNNA with the encoders."""
    from vrpo.config import load_resolved
    from vrpo.config.scoring import RepresentationOptions
    from vrpo.metrics.representation import measure_representation

    pairs = _pairs("--features", features or [])
    measure_representation(load_resolved(RepresentationOptions, config), milestone, latents, pairs, output, _device(device, threads))


@app.command("collect")
def collect(
    config: Annotated[list[Path], typer.Option(help="the experiment's config file; several are merged, later ones win")],
    output_folder: Annotated[Path, typer.Option(help="folder of the collected results")],
) -> None:
    """Gather scores, training histories and sample grids: all that figures and tables read."""
    from vrpo.config import load_experiment
    from vrpo.reporting.collect import collect as collect_results

    collect_results(load_experiment(*config), output_folder)


@app.command("figure")
def figure(name: Annotated[str, typer.Argument(help="which figure")], config: Config, collected: Collected, output: Output) -> None:
    """Draw a figure from collected results (.pdf, .png and the .csv behind it)."""
    from vrpo.config import load_resolved
    from vrpo.config.options import ReportOptions
    from vrpo.reporting.figures import draw

    draw(name, load_resolved(ReportOptions, config), collected, output)


@app.command("table")
def table(name: Annotated[str, typer.Argument(help="which table")], config: Config, collected: Collected, output: Output) -> None:
    """Write a table from collected results (.csv, .md and .tex)."""
    from vrpo.config import load_resolved
    from vrpo.config.options import ReportOptions
    from vrpo.reporting.tables import write

    write(name, load_resolved(ReportOptions, config), collected, output)


@app.command("report")
def report(config: Config, folder: Annotated[Path, typer.Option(help="results of the experiment")], output: Output) -> None:
    """Write report.html: figures, tables and provenance in one file."""
    from vrpo.config import load_resolved
    from vrpo.config.options import ReportOptions
    from vrpo.reporting.report import write_report

    write_report(load_resolved(ReportOptions, config), folder, output)


@app.command("methods")
def methods(
    config: Config,
    report_config: Annotated[Path, typer.Option(help="resolved config of the report")],
    collected: Collected,
    output_folder: Annotated[Path, typer.Option(help="folder of the benchmark's tables, figures and verdict")],
) -> None:
    """Write the method benchmark's tables, figures and verdict from collected results."""
    from vrpo.config import load_resolved
    from vrpo.config.methods import MethodsOptions
    from vrpo.config.options import ReportOptions
    from vrpo.reporting.methods_report import write_methods

    write_methods(load_resolved(MethodsOptions, config), load_resolved(ReportOptions, report_config), collected, output_folder)


@app.command("methods-snapshot")
def methods_snapshot(
    config: Annotated[list[Path], typer.Option(help="the experiment's config file; several are merged, later ones win")],
    output_folder: Annotated[Path, typer.Option(help="folder that the small results are copied to, e.g. docs/methods")],
) -> None:
    """Copy the method benchmark's small results, with provenance and machine, where they can be committed."""
    from vrpo.config import load_experiment
    from vrpo.reporting.snapshot import write_snapshot

    write_snapshot(load_experiment(*config), output_folder)


bench = typer.Typer(no_args_is_help=True, help="Measure speed and memory.")
app.add_typer(bench, name="bench")


@bench.command("metrics")
def bench_metrics(
    images: Annotated[int, typer.Option(help="images in each of the two compared sets", min=8)] = 200,
    at_scale: Annotated[bool, typer.Option("--at-scale", help="also FID and precision and recall of 50,000 random features")] = False,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write")] = None,
    threads: Threads = 1,
) -> None:
    """Scores against torch-fidelity's on the same random images, on the CPU: time and peak memory of each."""
    from vrpo.bench import metrics

    typer.echo(metrics.table(metrics.bench_metrics(images, threads, at_scale, output)))


@bench.command("data")
def bench_data(
    images: Annotated[int, typer.Option(help="images that are decoded and encoded", min=8)] = 256,
    gigabytes: Annotated[float, typer.Option(help="size of the sparse file that is read at random; it takes no disk", min=0.1)] = 30.0,
    folder: Annotated[Path | None, typer.Option(help="folder on the disk to be measured; without it the system's temporary one")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write")] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Decoding, encoding and random reads, against the images/s that training needs; on generated files."""
    from vrpo.bench import data

    typer.echo(data.table(data.bench_data(images, gigabytes, _device(device, threads), folder, output)))


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@bench.command("train", context_settings=PASSED_ON)
def bench_train(context: typer.Context) -> None:
    """Training speed on synthetic data: images/s, the parts of a step, share of the matrix peak, memory (`bench train --help`)."""
    from vrpo.bench.commands import train_command

    typer.echo(train_command(context.args, context.command_path))


@bench.command("sample", context_settings=PASSED_ON)
def bench_sample(context: typer.Context) -> None:
    """Sampling speed with random weights: images/s, latency of the network, VAE decode, and what 50,000 images take (`bench sample --help`)."""
    from vrpo.bench.commands import sample_command

    typer.echo(sample_command(context.args, context.command_path))


@app.command("cost")
def cost(config: Annotated[list[Path], typer.Option(help="the experiment's config file")]) -> None:
    """Compute the GPU hours and the disk that an experiment takes."""
    from vrpo.config import load_experiment
    from vrpo.reporting.cost import describe_cost

    typer.echo(describe_cost(load_experiment(*config)))


@app.command("docs")
def docs(folder: Annotated[Path, typer.Option(help="folder of the generated files")] = Path("docs")) -> None:
    """Generate the option reference, the JSON schema and the table of encoders."""
    from vrpo.config.docs import write_docs
    from vrpo.models.encoder_table import write_encoder_docs

    write_docs(folder)
    write_encoder_docs(folder)


def main() -> None:
    """Run a command; a `UserError` is printed as its line, with exit status 2, an interrupted training exits with 75."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        app()
    except UserError as error:
        sys.exit(_fail(f"vrpo: error: {error}", 2))
    except InterruptionError as error:
        sys.exit(_fail(f"vrpo: {error}", 75))  # EX_TEMPFAIL: the same command goes on


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
