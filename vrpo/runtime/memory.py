"""Memory: its size, the bytes of tensors, the peak of some work, and failed allocations."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile

GIB = 1 << 30
OF_HOST = re.compile(r"can't allocate memory")
OF_GPU = re.compile(r"(CUDA|HIP).*out of memory|Cuda failure.*out of memory|ALLOC_FAILED")
WANTED = re.compile(r"[Tt]ried to allocate ([\d.]+) ?([A-Za-z]+)")
TOTAL = re.compile(r"total capacity of ([\d.]+ [A-Za-z]+)")


def is_out_of_memory(error: BaseException, device: torch.device | None = None) -> bool:
    """Whether an allocation failed, of the memory of `device`; None: of any memory."""
    text = str(error)
    of_host = isinstance(error, MemoryError) or bool(OF_HOST.search(text))
    of_gpu = isinstance(error, torch.OutOfMemoryError) or bool(OF_GPU.search(text))
    if device is None:
        return of_host or of_gpu
    return of_gpu if device.type == "cuda" else of_host


def memory_of(device: torch.device) -> int:
    """Bytes of memory that `device` has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def tensor_bytes(tree: object) -> int:
    """Bytes of all tensors in nested mappings and sequences; shared memory is counted once."""
    storages: dict[int, int] = {}

    def visit(node: object) -> None:
        if isinstance(node, torch.Tensor):
            storages[node.untyped_storage().data_ptr()] = node.untyped_storage().nbytes()
        elif isinstance(node, Mapping):
            for value in node.values():
                visit(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                visit(value)

    visit(tree)
    return sum(storages.values())


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that were alive at once during `work`, above those before it.

    They are those of the GPU's allocator, or of the CPU as the profiler saw it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    changes = (
        event.nbytes()
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    return max(itertools.accumulate(changes, initial=0))


def memory_text(device: torch.device) -> str:
    """The memory of `device` for people, e.g. `the memory of NVIDIA L4, 22.0 GiB`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine"
    return f"the memory of {name}, {memory_of(device) / GIB:.1f} GiB,"


def failed_size(message: str) -> str:
    """Size of a failed allocation, from PyTorch's message: text in parentheses, or nothing.

    E.g. ` (could not allocate 2.00 GiB of 23.65 GiB)`, with the space.
    """
    wanted, total = WANTED.search(message), TOTAL.search(message)
    if wanted is None:
        return ""
    number, unit = wanted.groups()
    size = f"{float(number) / GIB:,.2f} GiB" if unit == "bytes" else f"{number} {unit}"
    return f" (could not allocate {size}{f' of {total[1]}' if total else ''})"
