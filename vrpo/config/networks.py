"""Options of the networks around the transformer: tokenizer, encoders, critic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from vrpo.config.base import Ascending, Options, Place, Positive, Text, distinct, option


class FitOptions(Options):
    """How one of the pipeline's own networks is trained (Adam, cosine decay to zero)."""

    steps: int = option(500, "optimiser steps", "steps", ge=1)
    batch_size: int = option(64, "samples in a step", "samples", ge=1)
    learning_rate: float = option(1e-3, "peak learning rate of Adam", gt=0)
    seed: int = option(0, "seed of initial weights and data order")


class TokenizerOptions(Options):
    """The VAE between images and latents (diffusers AutoencoderKL)."""

    weights: Place = option(
        "trained",
        "`trained`: fit a small one on the images; "
        "else a local folder or a hub name such as `stabilityai/sd-vae-ft-ema`",
    )
    scale: float | None = option(
        None,
        "factor of the latents (docs/data.md), 0.18215 for Stable Diffusion's VAE; "
        "null: the VAE's `scaling_factor`, or 1 / measured standard deviation when trained",
        gt=0,
    )
    subfolder: Text | None = option(
        None, "folder of the VAE within `weights`, as `vae` of a whole pipeline; null: none"
    )
    statistics: Place | None = option(
        None,
        "file of each channel's mean and deviation, as LightningDiT's `latents_stats.pt`, in the "
        "place of the VAE's own normalisation (docs/data.md); null: none",
    )
    encoded: Place | None = option(
        None,
        "folder of latents of all images that were encoded elsewhere, in the layout of REPA's "
        "preprocessing (docs/data.md); null: encode the images",
    )
    latent_channels: int = option(4, "channels of the latent", ge=1)
    downsampling: int = option(
        8, "pixels of an image along a pixel of a pretrained VAE's latent, for plan and cost", ge=1
    )
    block_channels: list[Positive] = option(
        lambda: [32, 64, 64],
        "widths of a trained tokenizer's levels; all but the last halve the resolution",
        min_length=1,
    )
    kl_weight: float = option(1e-4, "weight of the KL term when trained", ge=0)
    batch_size: int = option(64, "images encoded at once", "images", ge=1)
    storage: Literal["float32", "float16"] = option("float32", "type of the stored latent moments")
    training: FitOptions = option(FitOptions, "how a trained tokenizer is fitted")

    @model_validator(mode="after")
    def _fits_the_weights(self) -> TokenizerOptions:
        for name in ("subfolder", "statistics", "encoded"):
            if self.weights == "trained" and getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` is for a pretrained VAE, and `weights` are `trained`; leave it out"
                )
        return self


class NetworkOptions(Options):
    """A timm network, as a visual encoder or as an evaluation network."""

    architecture: Text = option(..., "timm model name, e.g. `vit_base_patch14_dinov2.lvd142m`")
    weights: Place = option(
        "timm", "`timm`: pretrained; `trained`: fit on the images; else a local .safetensors file"
    )
    arguments: dict[str, Any] = option(dict, "further keyword arguments of `timm.create_model`")
    image_size: int = option(
        224, "side of the image fed to the network (REPA feeds DINOv2 224 for 256)", "pixels", ge=8
    )
    training: FitOptions = option(FitOptions, "how a trained network is fitted, as a classifier")


class SpaceOptions(NetworkOptions):
    """A further feature space of the scores."""

    scores: Annotated[list[Literal["fd", "kd", "cmmd"]], AfterValidator(distinct)] = option(
        lambda: ["fd"],
        "scores in this space: `fd` Frechet distance, `kd` kernel distance (KDD with DINOv2), "
        "`cmmd` CMMD, with CLIP's embeddings (docs/evaluation.md)",
        min_length=1,
    )
    features: Literal["pooled", "embedding"] = option(
        "pooled",
        "`pooled`: class token, or what the network pools; "
        "`embedding`: CLIP's projected one of length 1",
    )
    validation_fd: float | None = option(
        None,
        "Frechet distance of held-out real images in this space, by which FDr divides; "
        "null: the space is no part of FDr",
        gt=0,
    )

    @property
    def keeps_features(self) -> bool:
        """Whether a score needs features of single images beside their mean and covariance."""
        return self.scores != ["fd"]

    @model_validator(mode="after")
    def _makes_sense(self) -> SpaceOptions:
        if self.weights == "trained" and self.features == "embedding":
            raise ValueError(
                "`features: embedding` needs a pretrained CLIP, and `weights` are `trained`; "
                "set `features: pooled`"
            )
        if self.validation_fd is not None and "fd" not in self.scores:
            raise ValueError("`validation_fd` needs `fd` among `scores`; add it")
        return self


class EncoderOptions(NetworkOptions):
    """A visual encoder whose patch tokens are the alignment targets."""

    features: Literal["cached", "online"] = option(
        "cached", "`cached`: store all tokens once; `online`: compute them in every step, no disk"
    )
    storage: Literal["int8", "float8", "float16"] = option(
        "int8",
        "type of the cached tokens; int8 and float8 (e4m3) keep a float16 scale per token "
        "(errors: docs/data.md)",
    )
    attention: Ascending = option(
        list,
        "blocks, from 1, whose queries and keys are cached for HASTE; "
        "each takes twice the disk of the tokens",
        "blocks",
    )
    class_token: bool = option(False, "whether the class token is cached too, for REG")
    batch_size: int = option(64, "images encoded at once", "images", ge=1)


class CriticOptions(Options):
    """Latent perceptual critic: convolutions from latents to encoder tokens, one per encoder."""

    width: int = option(64, "channels of its convolutions", ge=1)
    depth: int = option(2, "residual blocks", ge=0)
    training: FitOptions = option(FitOptions, "how it is distilled from the cached features")
