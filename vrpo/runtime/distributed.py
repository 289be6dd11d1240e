"""Ranks of one training: what `torchrun` started, or this process alone."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from vrpo.errors import InterruptionError, UserError
from vrpo.runtime.gpus import visible_gpus

log = logging.getLogger(__name__)

PATIENCE = datetime.timedelta(hours=12)  # while one rank works alone, e.g. checks data


@dataclass(frozen=True)
class Ranks:
    """This process among those of the training."""

    rank: int
    world: int
    device: torch.device
    control: distributed.ProcessGroup | None = None
    """A group over the CPU (gloo), for agreements that must not wait for a GPU's queue."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over ranks, in place."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """`tensor` of every rank, [ranks, ...] in their order."""
        if self.world == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    def any(self, *flags: bool) -> list[bool]:
        """For each of `flags`, whether it is set on any rank."""
        if self.world == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.int64)
        distributed.all_reduce(counts, group=self.control)
        return [bool(count) for count in counts]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            distributed.barrier(group=self.control)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device; warns where `auto` finds a GPU that torch cannot use.

    Raises:
        UserError: `cuda` is asked for and there is none, or `name` is something else.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: `{name}` is no device; give auto, cpu or cuda")
    if name != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    if name == "cuda":
        raise UserError(
            f"resources.device: `cuda` is asked for but torch sees no GPU ({_why_not()}); "
            "repair that, or set it to `auto` or `cpu`"
        )
    if name == "auto" and visible_gpus().devices:
        log.warning("computing on the CPU, for torch sees no GPU (%s)", _why_not())
    return torch.device("cpu")


def _why_not() -> str:
    """Why torch sees no GPU."""
    found = visible_gpus()
    if not found.devices:
        return found.reason
    cuda, hip = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPUs only"
    count, version = len(found.devices), torch.__version__
    return f"the driver shows {count}, but torch {version} is built for {build}"


@contextlib.contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the process group that `torchrun` describes in the environment; leave it at the end.

    It is nccl on GPUs, gloo on CPUs.

    Raises:
        UserError: as `choose_device`.
        InterruptionError: another rank is gone.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Ranks(0, 1, chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        control = distributed.new_group(backend="gloo", timeout=PATIENCE)
        yield Ranks(distributed.get_rank(), world, chosen, control)
    except RuntimeError as error:
        if not _is_lost_rank(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InterruptionError(
            f"ended because another rank is gone ({reason}); "
            "that one's message says why, the same command goes on"
        ) from error
    finally:
        distributed.destroy_process_group()


def _is_lost_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank ended."""
    text, words = str(error).lower(), ("gloo", "nccl", "connection closed", "connection reset")
    return isinstance(error, distributed.DistError) or any(word in text for word in words)
