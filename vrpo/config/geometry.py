"""Sides of latents and encoders' tokens, as options tell them before anything is loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vrpo.config.experiment import ExperimentConfig
    from vrpo.config.networks import EncoderOptions, TokenizerOptions

MOST_HALVINGS = 64  # of a side; more give a number too long for a message


def trained_downsampling(tokenizer: TokenizerOptions) -> int:
    """Pixels along a trained VAE's latent pixel: all its levels but the last halve the image."""
    return 2 ** min(len(tokenizer.block_channels) - 1, MOST_HALVINGS)


def latent_side(config: ExperimentConfig) -> int:
    """Side of the latents, in latent pixels."""
    tokenizer = config.tokenizer
    trained = tokenizer.weights == "trained"
    return config.data.resolution // (
        trained_downsampling(tokenizer) if trained else tokenizer.downsampling
    )


def encoder_patch(encoder: EncoderOptions) -> int | None:
    """Side of a ViT's patch in pixels, from its arguments or else its timm name; None: unknown."""
    named = re.search(r"patch(\d+)", encoder.architecture)
    given = encoder.arguments.get("patch_size", named and int(named[1]))
    return given if type(given) is int and given > 0 else None


def check_geometry(config: ExperimentConfig) -> None:
    """Check that sides divide, and that encoders have as many tokens as the networks they align.

    Raises:
        ValueError: they do not; what the options do not tell is checked when it is loaded.
    """
    tokenizer, resolution = config.tokenizer, config.data.resolution
    trained = tokenizer.weights == "trained"
    if trained and resolution % (downsampling := trained_downsampling(tokenizer)):
        raise ValueError(
            f"tokenizer.block_channels: {len(tokenizer.block_channels)} levels divide by "
            f"{downsampling}, images of {resolution} pixels cannot be; give fewer levels"
        )
    side = latent_side(config)
    for section, names in (("runs", config.runs), ("checkpoints", config.checkpoints)):
        for name in names:
            patch = config.model_of(name).patch_size
            if trained and side % patch:
                raise ValueError(
                    f"{section}.{name}.model: latents with a side of {side} cannot "
                    f"be cut into patches of {patch}; choose another patch or data.resolution"
                )
    for name, run in config.runs.items():
        model = config.model_of(name)
        if side % model.patch_size:  # a pretrained VAE decides
            continue
        for encoder in config.alignments[run.alignment].encoders:
            _check_tokens(config, encoder, f"{model.name} of run {name}", side // model.patch_size)


def _check_tokens(config: ExperimentConfig, name: str, network: str, wanted: int) -> None:
    encoder, tokenizer = config.encoders[name], config.tokenizer
    patch = encoder_patch(encoder)
    if patch is None or encoder.image_size // patch == wanted:
        return
    found = encoder.image_size // patch
    remedy = f"set it to {wanted * patch}, or align this run to an encoder that has it"
    if tokenizer.weights != "trained":
        remedy += f", or tokenizer.downsampling, {tokenizer.downsampling} here, to that of the VAE"
    raise ValueError(
        f"encoders.{name}.image_size: {encoder.image_size} pixels are {found}x{found} tokens, but "
        f"{network} has {wanted}x{wanted}; {remedy}"
    )
