"""Commands of the preparation: images, networks, latents, features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.arguments import (
    Config,
    Device,
    Images,
    Latents,
    Output,
    Threads,
    Weights,
    chosen_device,
)

app = typer.Typer()


@app.command("list-images")
def list_images(config: Config, output: Output) -> None:
    """List the image source once (.npz), for the commands that write its shards."""
    from vrpo.config import load_resolved
    from vrpo.config.data import DataOptions
    from vrpo.prepare.images import list_images

    list_images(load_resolved(DataOptions, config), output)


@app.command("images")
def images(
    config: Config,
    output: Output,
    listing: Annotated[
        Path | None,
        typer.Option(
            help="output of list-images; without it, or where the data have changed since, the source is listed"
        ),
    ] = None,
) -> None:
    """Read the image source into HDF5, centre-cropped to the resolution; --output shard-00003-of-00016.h5 means that part of it."""
    from vrpo.config import load_resolved
    from vrpo.config.data import DataOptions
    from vrpo.prepare.images import write_images

    write_images(load_resolved(DataOptions, config), output, listing)


@app.command("manifest")
def manifest(config: Config, images: Images, output: Output) -> None:
    """Check that the images are those of the source, in all their shards, and write counts, classes and fingerprint (JSON)."""
    from vrpo.config import load_resolved
    from vrpo.config.data import DataOptions
    from vrpo.prepare.manifest import write_manifest

    write_manifest(load_resolved(DataOptions, config), images, output)


@app.command("verify")
def verify(
    places: Annotated[
        list[Path],
        typer.Argument(help="files of images, latents, features or samples, or folders of shards"),
    ],
) -> None:
    """Compare all rows with their checksums; stages do so by themselves before they first use a file."""
    from vrpo.data.shards import open_arrays

    for place in places:
        arrays = open_arrays(place)
        typer.echo(
            f"{place}: {arrays.shape(arrays.keys()[0])[0]:,} rows of {', '.join(arrays.keys())}, whole"
        )


@app.command("fit-tokenizer")
def fit_tokenizer(
    config: Config, images: Images, output: Output, device: Device = "auto", threads: Threads = 1
) -> None:
    """Train the miniature's VAE."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import TokenizerOptions
    from vrpo.prepare import tokenizer

    tokenizer.fit_tokenizer(
        load_resolved(TokenizerOptions, config), images, output, chosen_device(device, threads)
    )


@app.command("fit-classifier")
def fit_classifier(
    config: Config,
    images: Images,
    output: Output,
    section: Annotated[
        str,
        typer.Option(
            help="`encoder`: --config is an encoder's; `trained` or `extra_networks.NAME`: it is the evaluation's, and this section of it"
        ),
    ] = "encoder",
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Train the miniature's visual encoder or evaluation network, as a classifier."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import EncoderOptions
    from vrpo.config.scoring import EvaluationOptions
    from vrpo.prepare import classifier

    options = (
        load_resolved(EncoderOptions, config)
        if section == "encoder"
        else load_resolved(EvaluationOptions, config).network_of(section)
    )
    classifier.fit_classifier(options, images, output, chosen_device(device, threads))


@app.command("encode-latents")
def encode_latents(
    config: Config,
    images: Images,
    output: Output,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Encode all images into latent means and standard deviations."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import TokenizerOptions
    from vrpo.prepare import latents

    latents.encode_latents(
        load_resolved(TokenizerOptions, config),
        images,
        weights,
        output,
        chosen_device(device, threads),
    )


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
    from vrpo.config.networks import EncoderOptions
    from vrpo.prepare import features

    features.encode_features(
        load_resolved(EncoderOptions, config),
        name,
        images,
        weights,
        output,
        chosen_device(device, threads),
    )


@app.command("fit-critic")
def fit_critic(
    config: Config,
    latents: Latents,
    features: Annotated[
        Path, typer.Option(help="features of one encoder: a file, or the folder of its shards")
    ],
    output: Output,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Distil the latent perceptual critic from cached features."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import CriticOptions
    from vrpo.prepare import critic

    critic.fit_critic(
        load_resolved(CriticOptions, config),
        latents,
        features,
        output,
        chosen_device(device, threads),
    )
