"""PyTorch's attention kernel on a GPU: chosen by name, or by a measurement at the shape at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.errors import UserError
from vrpo.seeds import torch_generator

log = logging.getLogger(__name__)
WARM_UP, TIMED = 3, 10  # passes

SWITCHES: dict[str, Callable[[bool], None]] = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "math": torch.backends.cuda.enable_math_sdp,
}


def choose_attention(
    name: str,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    backward: bool = True,
    agree: Callable[[Tensor], Tensor] = lambda seconds: seconds,
) -> str:
    """Make `scaled_dot_product_attention` use one kernel in this process, and return its name.

    Call it before anything is compiled: the choice is part of the compiled code. A CPU has only
    one kernel, so nothing is done there.

    Args:
        name: `flash`, `cudnn`, `efficient`, `math`, or `auto`: the fastest of them here.
        shape: of queries, keys and values (B, heads, N, d).
        dtype: type of queries, keys and values.
        device: their device.
        backward: whether the backward pass is timed, too.
        agree: sums times [4] over ranks, so that all choose the same.

    Raises:
        UserError: the kernel that is asked for does not take this shape and type.
    """
    if device.type != "cuda":
        return "cpu"
    if name == "auto":
        own = [_seconds(each, shape, dtype, device, backward) for each in SWITCHES]
        seconds = agree(torch.tensor(own, device=device)).tolist()
        times = dict(zip(SWITCHES, seconds, strict=True))
        chosen = min(times, key=times.__getitem__)
        listed = ", ".join(f"{each} {1e3 * value:.3f} ms" for each, value in times.items())
        size = "x".join(map(str, shape))
        log.info("attention %s %s: %s takes %s", size, dtype, chosen, listed)
    else:
        chosen = name
        if _seconds(name, shape, dtype, device, backward) == float("inf"):
            raise UserError(
                f"training.attention: `{name}` does not compute heads of {shape[3]} "
                f"in {dtype} on this GPU; set it to auto"
            )
    _only(chosen)
    return chosen


def _only(name: str) -> None:
    for each, switch in SWITCHES.items():
        switch(each == name)


def _seconds(
    name: str,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    backward: bool,
) -> float:
    """Time of a pass on random values in the network's layout; infinite if the kernel refuses."""
    _only(name)
    B, heads, N, d = shape
    try:
        how = {
            "device": device,
            "dtype": dtype,
            "generator": torch_generator("attention", device=device),
        }
        qkv = torch.randn(B, N, 3, heads, d, **how).requires_grad_(backward)
        grad = torch.randn(shape, **how)
        with torch.set_grad_enabled(backward):
            for repeat in range(WARM_UP + TIMED):
                if repeat == WARM_UP:
                    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    begin.record()
                q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
                out = F.scaled_dot_product_attention(q, k, v)
                if backward:
                    out.backward(grad)
                    qkv.grad = None
        end.record()
        end.synchronize()
    except RuntimeError:  # no kernel of this kind, or out of memory
        return float("inf")
    return begin.elapsed_time(end) / TIMED / 1e3
