"""Images from a milestone, each with a random generator for its label and all its noise.

So an image depends on the sampler's seed and its own number, not on batches, ranks or
interruptions. On the CPU this holds bitwise: matrix kernels round differently for different batch
shapes, so there the shapes are fixed and the last batch is filled up. On a GPU the shape is
`batch_size`, and images of different batch sizes agree up to rounding.

Ranks take the batches in turn. The first one gathers and writes them, so that there is one file, in
order, and any number of ranks can resume.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed
from tqdm import tqdm

import vrpo
from vrpo.data.arrays import ArrayWriter, Shapes
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.models.checkpoints import load_milestone
from vrpo.models.normalisation import check_normalisation
from vrpo.models.tokenizer import Tokenizer, load_tokenizer
from vrpo.processes.guidance import Guided
from vrpo.processes.registry import described_process
from vrpo.processes.samplers import check_sampler, sample
from vrpo.runtime.compiler import require_compiler
from vrpo.runtime.distributed import Ranks
from vrpo.runtime.precision import use_tf32
from vrpo.sampling.network import SamplingNetwork
from vrpo.seeds import torch_generator

if TYPE_CHECKING:
    from vrpo.config.networks import TokenizerOptions
    from vrpo.config.scoring import SamplerOptions
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
    ranks: Ranks | None = None,
) -> None:
    """Write `images` uint8 [N,H,W,3] and `labels` int64 [N]; a killed run resumes.

    Args:
        options: sampler, guidance, labels, rounding, count and seed.
        milestone: averaged weights of a run.
        tokenizer: the VAE that decodes.
        tokenizer_weights: its file if it was trained here, else None.
        output: HDF5 file to write; its attributes are the protocol.
        device: where to compute.
        ranks: this process among those that share the work; None: alone.

    Raises:
        UserError: sampler, milestone and tokenizer do not fit each other, or are missing or
            damaged; the network gives values that are not finite.
    """
    device = torch.device(device)
    ranks = ranks or Ranks(0, 1, device)
    if options.compile:
        require_compiler(device, "samplers.<name>.compile")
    if options.decoder:
        tokenizer = tokenizer.model_copy(update={"weights": options.decoder})
    network, description = load_milestone(milestone, device)
    process = described_process(description)
    check_sampler(process, options)
    use_tf32(options.precision == "tf32", device)
    network = SamplingNetwork(network, options.precision, options.compile)
    decoder = load_tokenizer(tokenizer, tokenizer_weights, device)
    channels, height, width = shape = tuple(description["latent_shape"])
    _check_channels(options, channels, decoder, milestone)
    named = f"the tokenizer `{tokenizer.weights}`"
    check_normalisation(description, decoder.normalisation, milestone, named)
    batch_size = options.batch_size if device.type == "cuda" else CPU_BATCH
    side = (height * decoder.downsampling, width * decoder.downsampling)
    shapes = {
        "images": ((options.images, *side, 3), np.uint8),
        "labels": ((options.images,), np.int64),
    }
    attributes = _protocol(options, description, milestone, tokenizer, decoder)
    with _writer(ranks, output, shapes, attributes) as writer:
        collected = _Collector(ranks, batch_size, (*side, 3), writer)
        waiting = None
        for rows in _rounds(ranks, writer, options.images, batch_size):
            first = rows.start + ranks.rank * batch_size
            wanted = max(0, min(batch_size, rows.stop - first))
            finished = waiting
            waiting = _Batch(rows, wanted)
            if wanted:
                draws = ImageDraws(options.seed, range(first, first + batch_size), shape, device)
                labels = draws.labels(options.labels, network.null_label)
                latents = _sample_latents(options, network, process, labels, draws)
                waiting.decode(decoder, latents, labels, options.rounding)
            if finished:
                collected.add(finished, milestone)
        if waiting:
            collected.add(waiting, milestone)
        collected.finish()
    if ranks.is_main:
        how = f"{options.kind} with {options.steps} steps"
        log.info("samples: %d of %dx%d, %s", options.images, *side, how)


class ImageDraws:
    """All that is random about the images `numbers`.

    One CPU generator an image gives its label, then its normal draws [*shape] in order.
    """

    def __init__(
        self, seed: int, numbers: range, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.numbers, self.shape, self.device = numbers, shape, device
        self.generators = [torch_generator("sample", seed, number) for number in numbers]

    def labels(self, kind: str, num_classes: int) -> Tensor:
        """Classes [B] int64: `random`, uniform and drawn first; `balanced`, in turn, not drawn."""
        if kind == "balanced":
            return torch.tensor([each % num_classes for each in self.numbers], device=self.device)
        drawn = [torch.randint(num_classes, (1,), generator=each) for each in self.generators]
        return torch.cat(drawn).to(self.device)

    def normal(self) -> Tensor:
        """The next standard normal draw of every image [B,*shape] float32."""
        on_gpu = self.device.type == "cuda"
        draws = torch.empty(len(self.generators), *self.shape, pin_memory=on_gpu)
        for draw, generator in zip(draws, self.generators, strict=True):
            draw.normal_(generator=generator)
        return draws.to(self.device, non_blocking=True)


def to_uint8(images: Tensor, rounding: str) -> Tensor:
    """Images [B,3,H,W] in [-1, 1] to uint8 [B,H,W,3].

    `truncate`: 255 (x + 1) / 2 cut off (REPA); `round`: 127.5 x + 128 cut off (DiT, SiT).
    """
    scaled = 255 * ((images + 1) / 2) if rounding == "truncate" else 127.5 * images + 128
    return scaled.clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)


def _sample_latents(
    options: SamplerOptions,
    network: SamplingNetwork,
    process: Process,
    labels: Tensor,
    draws: ImageDraws,
) -> Tensor:
    chosen = options.guidance
    denoiser = Guided(network, process, labels, chosen.scale, chosen.interval, chosen.channels)
    return sample(process, options, denoiser, draws.normal(), draws.normal)


class _Batch:
    """A rank's batch, from latents to images.

    On a GPU it is decoded on a separate stream, while the next batch is sampled.
    """

    def __init__(self, rows: slice, wanted: int) -> None:
        self.rows, self.wanted = rows, wanted

    def decode(self, decoder: Tokenizer, latents: Tensor, labels: Tensor, rounding: str) -> None:
        """Begin to decode the first `wanted` of `latents` [B,C,h,w], in batches of one shape."""
        with _decoding_stream(latents, labels):
            self.finite = torch.isfinite(latents[: self.wanted]).all()
            self.labels = labels[: self.wanted].to("cpu", non_blocking=True)
            padding = latents.new_zeros(-len(latents) % DECODE_BATCH, *latents.shape[1:])
            padded = self.wanted + -self.wanted % DECODE_BATCH
            batches = torch.cat([latents, padding])[:padded].split(DECODE_BATCH)
            decoded = torch.cat([to_uint8(decoder.decode(batch), rounding) for batch in batches])
            self.images = decoded[: self.wanted].to("cpu", non_blocking=True)
            self.done = None
            if latents.is_cuda:
                self.done = torch.cuda.current_stream(latents.device).record_event()

    def wait(self) -> bool:
        """Wait until the images are there; whether the latents were finite."""
        if not self.wanted:
            return True
        if self.done is not None:
            self.done.synchronize()
        return bool(self.finite)


@contextlib.contextmanager
def _decoding_stream(*inputs: Tensor) -> Iterator[None]:
    """On a GPU, run the work inside on a separate stream, after the work that makes `inputs`."""
    device = inputs[0].device
    if device.type != "cuda":
        yield
        return
    stream = _side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    for tensor in inputs:
        tensor.record_stream(stream)
    with torch.cuda.stream(stream):
        yield


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class _Collector:
    """Brings the batches of all ranks to the first one, which writes them and shows images/s."""

    def __init__(
        self,
        ranks: Ranks,
        batch_size: int,
        image_shape: tuple[int, ...],
        writer: ArrayWriter | None,
    ) -> None:
        self.ranks, self.writer = ranks, writer
        self.batch_size, self.image_shape = batch_size, image_shape
        self.group = distributed.new_group(backend="gloo") if ranks.world > 1 else None
        self.progress = tqdm(
            total=writer.count if writer else None,
            initial=writer.done if writer else 0,
            desc="samples",
            unit="image",
            mininterval=1.0,
            disable=writer is None,
        )

    def add(self, batch: _Batch, milestone: Path | str) -> None:
        """Gather one batch of every rank, and write them.

        Raises:
            UserError: on every rank, when latents of one were not finite.
        """
        if not self._all(batch.wait()):
            raise UserError(
                f"{milestone}: not finite at images {batch.rows.start} to {batch.rows.stop - 1}; "
                "the training diverged, lower its learning rate"
            )
        padded = torch.zeros(self.batch_size, *self.image_shape, dtype=torch.uint8)
        images = self._gathered(getattr(batch, "images", None), padded)
        padded = torch.zeros(self.batch_size, dtype=torch.int64)
        labels = self._gathered(getattr(batch, "labels", None), padded)
        if self.writer is not None:
            count = batch.rows.stop - batch.rows.start
            rows = {"images": images[:count].numpy(), "labels": labels[:count].numpy()}
            self.writer.write(batch.rows.start, rows)
            self.progress.update(count)

    def finish(self) -> None:
        """Give the file its name, and wait for the first rank to have done so."""
        self.progress.close()
        if self.writer is not None:
            self.writer.finish()
        self.ranks.barrier()

    def _all(self, flag: bool) -> bool:
        """Whether `flag` is set on every rank; over the CPU, not to wait for a GPU's queue."""
        if self.group is None:
            return flag
        unset = torch.tensor(int(not flag))
        distributed.all_reduce(unset, group=self.group)
        return not unset

    def _gathered(self, own: Tensor | None, padded: Tensor) -> Tensor:
        """On the first rank the rows of all ranks, in order."""
        if self.group is None:
            return own
        if own is not None:
            padded[: len(own)] = own
        parts = None
        if self.ranks.is_main:
            parts = [torch.empty_like(padded) for _ in range(self.ranks.world)]
        distributed.gather(padded, parts, dst=0, group=self.group)
        return torch.cat(parts) if parts else padded


@contextlib.contextmanager
def _writer(
    ranks: Ranks, output: Path | str, shapes: Shapes, attributes: dict[str, Any]
) -> Iterator[ArrayWriter | None]:
    """The writer on the first rank, None on the others."""
    if not ranks.is_main:
        yield None
        return
    with ArrayWriter(output, shapes, attributes) as writer:
        yield writer


def _rounds(
    ranks: Ranks, writer: ArrayWriter | None, count: int, batch_size: int
) -> Iterator[slice]:
    """Rows still to be made, a batch of each rank at a time; the first rank knows the start."""
    size, begin = batch_size * ranks.world, 0
    if writer:
        begin = next((rows.start for rows in writer.batches(size)), count)
    begin = int(ranks.all_reduce(torch.tensor(begin, device=ranks.device)))
    return (slice(start, min(start + size, count)) for start in range(begin, count, size))


def _check_channels(
    options: SamplerOptions, channels: int, decoder: Tokenizer, milestone: Path | str
) -> None:
    own = decoder.vae.config.latent_channels
    if own != channels:
        raise UserError(
            f"{milestone}: was trained on latents of {channels} channels, "
            f"the tokenizer has {own}; give the tokenizer that made its latents"
        )
    guided = options.guidance.channels
    if guided is not None and guided > channels:
        raise UserError(
            f"sampler guidance.channels: {guided} are more than the latent's {channels}; "
            f"choose at most {channels}, or null for all"
        )


def _protocol(
    options: SamplerOptions,
    description: dict[str, Any],
    milestone: Path | str,
    tokenizer: TokenizerOptions,
    decoder: Tokenizer,
) -> dict[str, Any]:
    """Attributes of the output: all that the images depend on, so without e.g. the batch size."""
    unused = {"preset", "decoder", "batch_size", "milestones", "compile"}
    if options.kind != "ode-dopri5":
        unused |= {"rtol", "atol"}
    used = {"weights": tokenizer.weights, "scale": decoder.scale, "sha256": decoder.sha256}
    if decoder.shift:
        used["shift"] = decoder.shift
    return {
        "run": description["run"],
        "seed": description["seed"],
        "step": description["step"],
        "milestone_sha256": sha256(milestone),
        "sampler": options.model_dump(mode="json", exclude=unused),
        "tokenizer": used,
        "versions": {"vrpo": vrpo.__version__, "torch": torch.__version__.split("+")[0]},
    }
