"""The VAE between images and latents: diffusers' AutoencoderKL, pretrained or the miniature's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.models.checkpoints import build_loaded, read_network
from vrpo.models.digest import state_sha256
from vrpo.models.weights import check_finite

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from vrpo.config.options import TokenizerOptions


class Tokenizer(nn.Module):
    """Images uint8 to scaled latents and back.

    Latents are the VAE's minus `shift`, times `scale`, so that they have about unit variance (Rombach et al., arXiv:2112.10752, appendix G).
    """

    def __init__(self, vae: AutoencoderKL, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.vae = vae
        self.scale = scale
        self.shift = shift
        self.sha256 = state_sha256(vae)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[B, C, h, w]` of the scaled latents of `images` uint8 `[B, 3, H, W]`."""
        posterior = self.vae.encode(images.float() / 127.5 - 1).latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` of scaled latents `[B, C, h, w]`: float, in [-1, 1] up to overshoot, not clamped."""
        return self.vae.decode(latents / self.scale + self.shift).sample

    @property
    def downsampling(self) -> int:
        """Pixels of the image per pixel of the latent, along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)


def vae_arguments(options: TokenizerOptions, resolution: int) -> dict[str, Any]:
    """Construction arguments of a trained tokenizer's AutoencoderKL, JSON-able."""
    levels = len(options.block_channels)
    return {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(options.block_channels),
        "layers_per_block": 1,
        "latent_channels": options.latent_channels,
        "norm_num_groups": math.gcd(8, *options.block_channels),
        "sample_size": resolution,
    }


def build_vae(arguments: dict[str, Any]) -> AutoencoderKL:
    """An AutoencoderKL with PyTorch's initial weights, drawn from the global generator."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**arguments)


def load_tokenizer(options: TokenizerOptions, weights: Path | str | None, device: torch.device | str) -> Tokenizer:
    """The tokenizer, frozen, in evaluation mode and fp32.

    Args:
        options: `weights: trained` needs the file `weights`; anything else is a hub name or a local folder of diffusers.
        weights: file of `fit_tokenizer`, or None.
        device: where to put it.

    Raises:
        UserError: the weights are missing, damaged or of another architecture; says what to fetch.
    """
    if options.weights == "trained":
        if weights is None:
            raise UserError("tokenizer.weights: `trained` needs the fitted weights; give them by `--weights` (the rule `fit_tokenizer` makes them)")
        state, description = read_network(weights, "tokenizer")
        vae = build_loaded(lambda: build_vae(description["arguments"]), state, weights)
        tokenizer = Tokenizer(vae, scale=options.scale or description["scale"])
    else:
        vae = _pretrained(options.weights)
        tokenizer = Tokenizer(vae, scale=options.scale or vae.config.scaling_factor, shift=vae.config.get("shift_factor") or 0.0)
    return tokenizer.to(device).eval().requires_grad_(False)


def _pretrained(name: str) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    try:
        with torch.random.fork_rng(devices=[]):
            vae = AutoencoderKL.from_pretrained(name, use_safetensors=True, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"tokenizer.weights: `{name}` could not be loaded ({reason}); on a machine with network fetch `config.json` and "
            f"`diffusion_pytorch_model.safetensors` of https://huggingface.co/{name}, put both into one folder and set `tokenizer.weights` to that folder"
        ) from error
    check_finite(vae.state_dict(), f"tokenizer.weights: `{name}`", "fetch its weights again, or give another VAE")
    return vae
