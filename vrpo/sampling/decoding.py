"""From sampled latents to images; on a GPU beside the sampling of the next batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from vrpo.models.tokenizer import Tokenizer

DECODE_BATCH = 16  # images in the tokenizer's decoder at once, on any device


def to_uint8(images: Tensor, rounding: str) -> Tensor:
    """Images [B,3,H,W] in [-1, 1] to uint8 [B,H,W,3].

    `truncate`: 255 (x + 1) / 2 cut off (REPA); `round`: 127.5 x + 128 cut off (DiT, SiT).
    """
    scaled = 255 * ((images + 1) / 2) if rounding == "truncate" else 127.5 * images + 128
    return scaled.clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)


class DecodedBatch:
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
