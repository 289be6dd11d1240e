"""Images from a milestone, one seed an image: label, initial noise and the noise of every step come from a generator of its own.

So an image depends on the sampler's seed and its own number, not on batches, ranks or interruptions. On the CPU this holds bitwise: matrix
kernels round differently for different batch shapes, so there the shapes are fixed and the last batch is filled up. On a GPU
the shape is `batch_size`, and images of different batch sizes agree up to rounding.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import vrpo
from vrpo.data.arrays import ArrayWriter
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.models.checkpoints import load_milestone
from vrpo.models.tokenizer import Tokenizer, load_tokenizer
from vrpo.processes.guidance import Guided
from vrpo.processes.process import build_process
from vrpo.processes.samplers import check_sampler, sample
from vrpo.seeds import torch_generator

if TYPE_CHECKING:
    from vrpo.config.options import SamplerOptions, TokenizerOptions
    from vrpo.models.transformer import DiffusionTransformer
    from vrpo.processes.process import Process

log = logging.getLogger(__name__)

CPU_BATCH = 64  # images in the transformer at once on the CPU, whatever `batch_size` says
DECODE_BATCH = 16  # images in the tokenizer's decoder at once, on any device


@torch.inference_mode()
def sample_images(
    options: SamplerOptions,
    milestone: Path | str,
    tokenizer: TokenizerOptions,
    tokenizer_weights: Path | str | None,
    output: Path | str,
    device: torch.device | str,
) -> None:
    """Write `images` uint8 [N,H,W,3] and `labels` int64 [N]; a killed run goes on where it was.

    Args:
        options: sampler, guidance, labels, rounding, count and seed.
        milestone: averaged weights of a run.
        tokenizer: the VAE that decodes.
        tokenizer_weights: its file if it was trained here, else None.
        output: HDF5 file to write; its attributes are the protocol.
        device: where to compute.

    Raises:
        UserError: sampler, milestone and tokenizer do not fit each other, or are missing or damaged; the network gives values that are not finite.
    """
    device = torch.device(device)
    network, description = load_milestone(milestone, device)
    process = build_process(SimpleNamespace(**description["process"]))
    check_sampler(process, options)
    decoder = load_tokenizer(tokenizer, tokenizer_weights, device)
    channels, height, width = shape = tuple(description["latent_shape"])
    _check_channels(options, channels, decoder, milestone)
    batch_size = options.batch_size if device.type == "cuda" else CPU_BATCH
    side = (height * decoder.downsampling, width * decoder.downsampling)
    shapes = {"images": ((options.images, *side, 3), np.uint8), "labels": ((options.images,), np.int64)}
    attributes = _protocol(options, description, milestone, tokenizer, decoder)
    with (
        ArrayWriter(output, shapes, attributes) as writer,
        tqdm(total=options.images, initial=writer.done, desc="samples", unit="image", mininterval=1.0) as progress,
    ):
        for rows in writer.batches(batch_size):
            draws = ImageDraws(options.seed, range(rows.start, rows.start + batch_size), shape, device)
            labels = draws.labels(options.labels, network.null_label)
            latents = _sample_latents(options, network, process, labels, draws)
            wanted = rows.stop - rows.start
            if not torch.isfinite(latents[:wanted]).all():
                raise UserError(f"{milestone}: not finite at images {rows.start} to {rows.stop - 1}; the training diverged, lower its learning rate")
            images = to_uint8(_decode(decoder, latents, wanted), options.rounding)
            writer.write(rows.start, {"images": images.cpu().numpy(), "labels": labels[:wanted].cpu().numpy()})
            progress.update(wanted)
        writer.finish()
    log.info("samples: %d of %dx%d, %s with %d steps", options.images, *side, options.kind, options.steps)


class ImageDraws:
    """All that is random about the images `numbers`: one CPU generator an image gives its label, then its normal draws [*shape] in order."""

    def __init__(self, seed: int, numbers: range, shape: tuple[int, ...], device: torch.device) -> None:
        self.numbers, self.shape, self.device = numbers, shape, device
        self.generators = [torch_generator("sample", seed, number) for number in numbers]

    def labels(self, kind: str, num_classes: int) -> Tensor:
        """Classes [B] int64: `random`, uniform and drawn first; or `balanced`, the classes in turn, without a draw."""
        if kind == "balanced":
            return torch.tensor([number % num_classes for number in self.numbers], device=self.device)
        return torch.cat([torch.randint(num_classes, (1,), generator=generator) for generator in self.generators]).to(self.device)

    def normal(self) -> Tensor:
        """The next standard normal draw of every image [B,*shape] float32."""
        draws = torch.empty(len(self.generators), *self.shape, pin_memory=self.device.type == "cuda")
        for draw, generator in zip(draws, self.generators, strict=True):
            draw.normal_(generator=generator)
        return draws.to(self.device, non_blocking=True)


def to_uint8(images: Tensor, rounding: str) -> Tensor:
    """Images [B,3,H,W] in [-1, 1] to uint8 [B,H,W,3]: `truncate`, 255 (x + 1) / 2 cut off (REPA); `round`, 127.5 x + 128 cut off (DiT, SiT)."""
    scaled = 255 * ((images + 1) / 2) if rounding == "truncate" else 127.5 * images + 128
    return scaled.clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)


def _sample_latents(options: SamplerOptions, network: DiffusionTransformer, process: Process, labels: Tensor, draws: ImageDraws) -> Tensor:
    guidance = options.guidance
    denoiser = Guided(network, process, labels, guidance.scale, guidance.interval, guidance.channels)
    return sample(process, options, denoiser, draws.normal(), draws.normal)


def _decode(decoder: Tokenizer, latents: Tensor, wanted: int) -> Tensor:
    """The first `wanted` images, decoded in batches of one shape."""
    full = torch.cat([latents, latents.new_zeros(-len(latents) % DECODE_BATCH, *latents.shape[1:])])
    batches = full[: wanted + -wanted % DECODE_BATCH].split(DECODE_BATCH)
    return torch.cat([decoder.decode(batch) for batch in batches])[:wanted]


def _check_channels(options: SamplerOptions, channels: int, decoder: Tokenizer, milestone: Path | str) -> None:
    own = decoder.vae.config.latent_channels
    if own != channels:
        raise UserError(f"{milestone}: was trained on latents of {channels} channels, the tokenizer has {own}; give the tokenizer that made its latents")
    if options.guidance.channels is not None and options.guidance.channels > channels:
        raise UserError(
            f"sampler guidance.channels: {options.guidance.channels} are more than the latent's {channels}; choose at most {channels}, or null for all"
        )


def _protocol(options: SamplerOptions, description: dict[str, Any], milestone: Path | str, tokenizer: TokenizerOptions, decoder: Tokenizer) -> dict[str, Any]:
    """Attributes of the output: all that the images depend on, and so neither batch size nor the choice of milestones."""
    return {
        "run": description["run"],
        "seed": description["seed"],
        "step": description["step"],
        "milestone_sha256": sha256(milestone),
        "sampler": options.model_dump(mode="json", exclude={"batch_size", "milestones"}),
        "tokenizer": {"weights": tokenizer.weights, "scale": decoder.scale, "sha256": decoder.sha256},
        "versions": {"vrpo": vrpo.__version__, "torch": torch.__version__.split("+")[0]},
    }
