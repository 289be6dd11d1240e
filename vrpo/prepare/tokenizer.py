"""Fitting the miniature's tokenizer: a small AutoencoderKL on the images themselves."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from vrpo.config.geometry import trained_downsampling
from vrpo.data.batches import sample_indices
from vrpo.data.kinds import IMAGES
from vrpo.data.shards import StoredArrays, open_arrays
from vrpo.errors import UserError
from vrpo.models.checkpoints import save_network
from vrpo.models.tokenizer import Tokenizer, build_vae, vae_arguments
from vrpo.prepare.fitting import fit, initial_weights
from vrpo.prepare.pixels import image_batch
from vrpo.seeds import torch_generator

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from vrpo.config.networks import TokenizerOptions

log = logging.getLogger(__name__)


def fit_tokenizer(
    options: TokenizerOptions, images: Path | str, output: Path | str, device: torch.device | str
) -> None:
    """Fit a VAE to `images`; write its weights, arguments, measured scale and PSNR.

    The loss is the mean absolute plus the mean squared error of pixels in [-1, 1], plus `kl_weight`
    times the mean KL divergence of a latent element from a standard normal. Images as small as the
    miniature's need no perceptual or adversarial part.

    Raises:
        UserError: the images are missing, or their side is not divisible by the VAE's downsampling.
    """
    data = open_arrays(images, IMAGES)
    count, side = data.shape("images")[:2]
    downsampling = trained_downsampling(options)
    if side % downsampling:
        raise UserError(
            f"tokenizer.block_channels: {len(options.block_channels)} levels divide by "
            f"{downsampling}, images of {side} pixels cannot be; give fewer levels"
        )
    seed = options.training.seed
    arguments = vae_arguments(options, side)
    with initial_weights("tokenizer-weights", seed):
        vae = build_vae(arguments).to(device, memory_format=torch.channels_last)

    def loss_of_step(step: int) -> Tensor:
        indices = sample_indices(count, options.training.batch_size, seed, step)
        batch = image_batch(data, indices, device)
        x = (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        generator = torch_generator("tokenizer-noise", seed, step)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        error = vae.decode(posterior.mean + posterior.std * noise).sample - x
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return error.abs().mean() + error.square().mean() + options.kl_weight * kl

    fit(vae, options.training, loss_of_step, "tokenizer")
    scale, psnr = _measure(vae, data, options.batch_size, seed, device)
    said = "tokenizer: reconstructions of the training images at %.1f dB PSNR, latent scale %.4f"
    log.info(said, psnr, scale)
    description = {
        "kind": "tokenizer",
        "arguments": arguments,
        "scale": scale,
        "psnr": round(psnr, 3),
        "images": data.attributes["fingerprint"],
        "training": options.training.model_dump(mode="json"),
        "kl_weight": options.kl_weight,
    }
    save_network(output, vae.to(memory_format=torch.contiguous_format).state_dict(), description)


@torch.inference_mode()
def _measure(
    vae: AutoencoderKL, data: StoredArrays, batch_size: int, seed: int, device: torch.device | str
) -> tuple[float, float]:
    """1 / standard deviation of latents sampled over all images, and their images' PSNR in dB."""
    tokenizer = Tokenizer(vae, scale=1.0)
    count = data.shape("images")[0]
    total, squares, errors, elements, pixels = 0.0, 0.0, 0.0, 0, 0
    starts = range(0, count, batch_size)
    for start in tqdm(starts, desc="latent scale", unit="batch", mininterval=1.0):
        batch = image_batch(data, slice(start, start + batch_size), device)
        mean, std = tokenizer.encode(batch)
        generator = torch_generator("tokenizer-scale", seed, start)
        noise = torch.randn(mean.shape, generator=generator).to(device)
        latents = mean + std * noise
        reconstructions = tokenizer.decode(latents).clamp(-1, 1)
        total += latents.double().sum().item()
        squares += latents.double().square().sum().item()
        elements += latents.numel()
        errors += (reconstructions - (batch.float() / 127.5 - 1)).double().square().sum().item()
        pixels += batch.numel()
    variance = squares / elements - (total / elements) ** 2
    if not (variance > 0 and math.isfinite(variance) and math.isfinite(errors)):
        raise UserError(
            "tokenizer.training: the latents of all images are equal or not finite after it; "
            "lower its `learning_rate`"
        )
    return 1 / math.sqrt(variance), 10 * math.log10(4 * pixels / errors)
