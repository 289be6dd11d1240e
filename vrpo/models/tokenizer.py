"""The VAE between images and latents: diffusers' AutoencoderKL, pretrained or fitted here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.models.checkpoints import build_loaded, listed, read_network
from vrpo.models.digest import state_sha256
from vrpo.models.normalisation import Normalisation, file_normalisation, normalisation_of
from vrpo.models.weights import check_finite, printable

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from vrpo.config.networks import TokenizerOptions


class Tokenizer(nn.Module):
    """Images uint8 to scaled latents and back.

    Latents are the VAE's minus `shift`, times `scale`, so that they have about unit variance
    (Rombach et al., arXiv:2112.10752, appendix G). Both are a number, or a list of one a channel.
    """

    def __init__(
        self, vae: AutoencoderKL, scale: float | list[float], shift: float | list[float] = 0.0
    ) -> None:
        super().__init__()
        self.vae = vae
        self.scale, self.shift = scale, shift
        self.sha256 = state_sha256(vae)
        for name, value in (("_scale", scale), ("_shift", shift)):
            if isinstance(value, list):
                by_channel = torch.tensor(value).view(-1, 1, 1)  # (C, 1, 1)
                self.register_buffer(name, by_channel, persistent=False)
            else:
                setattr(self, name, value)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation `[B, C, h, w]` of scaled latents of images uint8 `[B, 3, H, W]`."""
        posterior = self.vae.encode(images.float() / 127.5 - 1).latent_dist
        return self.normalised(posterior.mean, posterior.std)

    def normalised(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation `[B, C, h, w]` of scaled latents, from those of the VAE's latents."""
        return (mean - self._shift) * self._scale, std * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` float of scaled latents `[B, C, h, w]`, not clamped to [-1, 1]."""
        return self.vae.decode(latents / self._scale + self._shift).sample

    @property
    def normalisation(self) -> Normalisation:
        """Shift and scale."""
        return Normalisation(self.scale, self.shift)

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


def load_tokenizer(
    options: TokenizerOptions, weights: Path | str | None, device: torch.device | str
) -> Tokenizer:
    """The tokenizer, frozen, in evaluation mode and fp32.

    Args:
        options: `weights: trained` needs the file `weights`; anything else is a hub name or a local
            folder of diffusers.
        weights: file of `fit_tokenizer`, or None.
        device: where to put it.

    Raises:
        UserError: the weights are missing, damaged or of another architecture (says what to fetch),
            or the VAE's config contradicts itself.
    """
    if options.weights == "trained":
        if weights is None:
            raise UserError(
                "tokenizer.weights: `trained` needs the fitted weights; "
                "give them by `--weights` (the rule `fit_tokenizer` makes them)"
            )
        state, description = read_network(weights, "tokenizer")
        vae = build_loaded(lambda: build_vae(description["arguments"]), state, weights)
        config, where = {"scaling_factor": description.get("scale")}, str(weights)
    else:
        vae = _pretrained(options.weights, options.subfolder)
        config, where = vae.config, f"tokenizer.weights: `{options.weights}`"
    if options.statistics:
        channels = vae.config.latent_channels
        normalisation = file_normalisation(options.statistics, channels, options.scale)
    else:
        normalisation = normalisation_of(config, options.scale, where)
    return Tokenizer(vae, *normalisation).to(device).eval().requires_grad_(False)


def _pretrained(name: str, subfolder: str | None) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    where = f"tokenizer.weights: `{name}`" + (f", folder `{subfolder}`" if subfolder else "")
    expected, place = AutoencoderKL.__name__, {"subfolder": subfolder} if subfolder else {}
    try:
        kind = AutoencoderKL.load_config(name, **place).get("_class_name") or expected
        if kind != expected:
            raise UserError(
                f"{where} is a VAE of the class {kind}; give one of the class {expected}"
            )
        with torch.random.fork_rng(devices=[]):
            vae, found = AutoencoderKL.from_pretrained(
                name,
                use_safetensors=True,
                torch_dtype=torch.float32,
                output_loading_info=True,
                **place,
            )
    except UserError:
        raise
    except (
        Exception
    ) as error:  # diffusers, the hub's client, safetensors and torch raise many kinds
        reason = printable(" ".join(str(error).split()))[:200] or type(error).__name__
        raise UserError(
            f"{where} could not be loaded ({reason}); on a machine with network fetch "
            "`config.json` and `diffusion_pytorch_model.safetensors` of "
            f"https://huggingface.co/{name}, put both into one folder and set "
            "`tokenizer.weights` to that folder"
        ) from error
    faults = [f"{key} is missing" for key in sorted(found["missing_keys"])]
    faults += [f"{key} is not in the network" for key in sorted(found["unexpected_keys"])]
    if faults:  # diffusers would leave the missing at their initial values, and the others out
        raise UserError(
            f"{where}: its weights and its config.json do not fit: {listed(faults)}; "
            "fetch both again"
        )
    check_finite(vae.state_dict(), where, "fetch its weights again, or give another VAE")
    given, decoded = vae.config.in_channels, vae.config.out_channels
    if (given, decoded) != (3, 3):
        raise UserError(
            f"{where}: its images have {given} channels, {decoded} when decoded; "
            "give a VAE of images of 3"
        )
    return vae
