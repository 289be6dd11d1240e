"""Commands of guidance by the aligned representation (docs/guidance.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.arguments import (
    Collected,
    Config,
    Configs,
    Device,
    Features,
    FeaturesByEncoder,
    Latents,
    Milestone,
    Output,
    Threads,
    Weights,
    chosen_device,
    pairs_of,
)

app = typer.Typer()
Name = Annotated[str, typer.Option(help="name of the encoder")]
Data = Annotated[Path, typer.Option("--data", help="resolved config of the images")]


@app.command("class-tokens", rich_help_panel="Sample")
def class_tokens(
    data: Data,
    name: Name,
    latents: Latents,
    features: Features,
    output: Output,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Average an encoder's tokens over the images of each class: targets of guidance."""
    from vrpo.config import load_resolved
    from vrpo.config.data import DataOptions
    from vrpo.prepare import targets

    options, chosen = load_resolved(DataOptions, data), chosen_device(device, threads)
    targets.class_tokens(options, name, latents, features, output, chosen)
    return output


@app.command("image-tokens", rich_help_panel="Sample")
def image_tokens(
    config: Config,
    data: Data,
    name: Name,
    image: Annotated[Path, typer.Option(help="square image of the experiment's resolution")],
    output: Output,
    weights: Weights = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Compute an encoder's tokens of one image: a target of guidance."""
    from vrpo.config import load_resolved
    from vrpo.config.data import DataOptions
    from vrpo.config.networks import EncoderOptions
    from vrpo.prepare import targets

    options, chosen = load_resolved(EncoderOptions, config), chosen_device(device, threads)
    described = load_resolved(DataOptions, data)
    targets.image_tokens(options, name, described, image, weights, output, chosen)
    return output


@app.command("reward-moments", rich_help_panel="Sample")
def reward_moments(
    milestone: Milestone,
    latents: Latents,
    output: Output,
    features: FeaturesByEncoder = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> Path:
    """Give the semantic reward's deviation by noise level: of VRPO's training, else measured."""
    from vrpo.sampling import moments

    chosen, pairs = chosen_device(device, threads), pairs_of("--features", features or [])
    moments.reward_moments(milestone, latents, pairs, output, chosen)
    return output


@app.command("guidance", rich_help_panel="Report")
def guidance(
    config: Configs,
    collected: Collected,
    output_folder: Annotated[Path, typer.Option(help="folder of the table and figures")],
) -> Path:
    """Write a table and figures of all samplers, and README.md, which shows them."""
    from vrpo.config import load_experiment
    from vrpo.report.guidance_page import write_guidance

    write_guidance(load_experiment(*config), collected, output_folder)
    return output_folder
