"""Options of the diffusion processes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vrpo.config.base import Options, option


class InterpolantOptions(Options):
    """SiT: a stochastic interpolant with velocity prediction (arXiv:2401.08740)."""

    kind: Literal["interpolant"] = option(..., "SiT's process")
    path: Literal["linear", "cosine"] = option(
        "linear", "`linear`: x_t = (1-t) x_0 + t eps; `cosine`: GVP, cos and sin of pi t / 2"
    )
    time: Literal["uniform", "logit-normal", "lognormal"] = option(
        "uniform", "distribution of the training times"
    )


class DDPMOptions(Options):
    """DiT: denoising diffusion, epsilon prediction, learned range variance (arXiv:2212.09748)."""

    kind: Literal["ddpm"] = option(..., "DiT's process")
    betas: Literal["linear", "cosine"] = option("linear", "noise schedule")
    steps: int = option(1000, "discrete noise levels", "levels", ge=2)
    loss_weight_limit: float = option(
        1.0,
        "limit of the weight 1 / alpha_bar of the noise's squared error, which makes it "
        "the velocity's (arXiv:2202.00512); 1: DiT's own loss",
        ge=1,
    )


ProcessOptions = Annotated[InterpolantOptions | DDPMOptions, Field(discriminator="kind")]
