"""Commands of the preparation: images, networks, latents, features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.arguments import (
    Config,
    Device,
    Features,
    Images,
    Latents,
    Output,
    Threads,
    Weights,
    chosen_device,
)

app = typer.Typer()


@app.command("list-images", rich_help_panel="Prepare")
def list_images(config: Config, output: Output) -> Path:
    """List the image source once (.npz), for the commands that write its shards."""
    from vrpo.config import load_resolved
    from vrpo.config.data import DataOptions
    from vrpo.prepare.images import list_images

    list_images(load_resolved(DataOptions, config), output)
    return output


@app.command("images", rich_help_panel="Prepare")
def images(
    config: Config,
    output: Output,
    listing: Annotated[
        Path | None,
        typer.Option(help="output of list-images; listed again if missing or outdated"),
    ] = None,
) -> Path:
    """Read the image source into HDF5, centre-cropped to the resolution.

    --output shard-00003-of-00016.h5 writes that part of the images.
    """
    from vrpo.config import load_resolved
    from vrpo.config.data import DataOptions
    from vrpo.prepare.images import write_images

    write_images(load_resolved(DataOptions, config), output, listing)
    return output


@app.command("manifest", rich_help_panel="Prepare")
def manifest(config: Config, images: Images, output: Output) -> Path:
    """Check all shards against the source, and write counts, classes and fingerprint (JSON)."""
    from vrpo.config import load_resolved
    from vrpo.config.data import DataOptions
    from vrpo.prepare.manifest import write_manifest

    write_manifest(load_resolved(DataOptions, config), images, output)
    return output


@app.command("verify", rich_help_panel="Prepare")
def verify(
    places: Annotated[
        list[Path],
        typer.Argument(help="files of images, latents, features or samples, or folders of shards"),
    ],
) -> None:
    """Compare all rows with their checksums, as stages do before they first use a file."""
    from vrpo.data.shards import open_arrays

    for place in places:
        arrays = open_arrays(place)
        names = arrays.keys()
        typer.echo(f"{place}: {arrays.shape(names[0])[0]:,} rows of {', '.join(names)}, whole")


@app.command("fit-tokenizer", rich_help_panel="Prepare")
def fit_tokenizer(
    config: Config, images: Images, output: Output, device: Device = "auto", threads: Threads = 1
) -> Path:
    """Train the miniature's VAE."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import TokenizerOptions
    from vrpo.prepare import tokenizer

    options = load_resolved(TokenizerOptions, config)
    tokenizer.fit_tokenizer(options, images, output, chosen_device(device, threads))
    return output


@app.command("fit-classifier", rich_help_panel="Prepare")
def fit_classifier(
    config: Config,
    images: Images,
    output: Output,
    section: Annotated[
        str,
        typer.Option(
            help="`encoder` (its config), or the evaluation's `trained` or `extra_networks.NAME`"
        ),
    ] = "encoder",
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Train the miniature's visual encoder or evaluation network, as a classifier."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import EncoderOptions
    from vrpo.config.scoring import EvaluationOptions
    from vrpo.prepare import classifier

    if section == "encoder":
        options = load_resolved(EncoderOptions, config)
    else:
        options = load_resolved(EvaluationOptions, config).network_of(section)
    classifier.fit_classifier(options, images, output, chosen_device(device, threads))
    return output


@app.command("encode-latents", rich_help_panel="Prepare")
def encode_latents(
    config: Config,
    images: Images,
    output: Output,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Encode all images into latent means and standard deviations."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import TokenizerOptions
    from vrpo.prepare import latents

    options = load_resolved(TokenizerOptions, config)
    latents.encode_latents(options, images, weights, output, chosen_device(device, threads))
    return output


@app.command("encode-features", rich_help_panel="Prepare")
def encode_features(
    config: Config,
    images: Images,
    output: Output,
    name: Annotated[str, typer.Option(help="the encoder's name")],
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Encode all images into the patch tokens of a visual encoder."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import EncoderOptions
    from vrpo.prepare import features

    options, chosen = load_resolved(EncoderOptions, config), chosen_device(device, threads)
    features.encode_features(options, name, images, weights, output, chosen)
    return output


@app.command("fit-critic", rich_help_panel="Prepare")
def fit_critic(
    config: Config,
    latents: Latents,
    features: Features,
    output: Output,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Distil the latent perceptual critic from cached features."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import CriticOptions
    from vrpo.prepare import critic

    options = load_resolved(CriticOptions, config)
    critic.fit_critic(options, latents, features, output, chosen_device(device, threads))
    return output
