"""The network in a released checkpoint: its tensors, found in the file, renamed, and in float32."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.models.weights import check_finite, printable

TIME = "t_embedder.mlp.0.weight"  # every DiT has it, so it marks a network
WRAPPERS = {  # modules around a module, whose names become part of its tensors' names
    "module",  # DataParallel, DistributedDataParallel, AveragedModel, DeepSpeed
    "_module",
    "_orig_mod",  # torch.compile
    "_forward_module",  # Lightning Fabric
    "_fsdp_wrapped_module",
    "_fpw_module",  # FSDP, before PyTorch 2.0
    "_checkpoint_wrapped_module",  # activation checkpointing
}
AVERAGED = re.compile(r"(^|_)ema(_|\d|$)|averag|shadow")
DEEPEST = 4  # dicts within dicts


class _Found(NamedTuple):
    """A network's tensors in a checkpoint."""

    place: tuple[str, ...]
    """Keys of the dicts around it, and the head that all of its names share; wrappers left out."""
    tensors: dict[str, Any]

    @property
    def averaged(self) -> bool:
        """Whether its place says that it is an average over the training."""
        return any(AVERAGED.search(part.lower()) for part in self.place)


def released_state(
    content: Mapping[str, Any], weights: Literal["ema", "model"], path: Path
) -> dict[str, Tensor]:
    """The tensors of the network in a checkpoint's `content`, in float32, by their plain names.

    The network may be the content itself, or within dicts (`ema`, `model`, `state_dict`, ...), or
    its names may share a prefix; wrappers may be anywhere in the names. Counters beside the tensors
    are left out.

    Args:
        content: what `read_weights` gave.
        weights: averaged or plain weights; a single network that does not say which it is is taken
            for either.
        path: the file, for messages.

    Raises:
        UserError: there is no network, none of these weights or several, or an entry that is no
            tensor, is not of floating point, or holds a NaN or infinite value.
    """
    found = list(_search(content))
    if not found:
        raise UserError(
            f"{path}: is not a checkpoint of DiT, SiT or REPA, or of code that shares their "
            f"network ({TIME} is missing); give one of these"
        )
    wanted = [state for state in found if state.averaged == (weights == "ema")]
    if len(found) == 1 and not found[0].place:
        wanted = found
    named = [printable(".".join(state.place)) for state in wanted or found]
    places = ", ".join(name or "the file itself" for name in named)
    if not wanted:
        other = "model" if weights == "ema" else "ema"
        raise UserError(
            f"{path}: has no weights `{weights}`, only {places}; choose those (`--weights {other}`)"
        )
    if len(wanted) > 1:
        raise UserError(
            f"{path}: has several networks of weights `{weights}` ({places}); "
            "save the one that is meant alone"
        )
    state = {
        name: _in_float32(name, value, path)
        for name, value in wanted[0].tensors.items()
        if not _is_counter(name, value)
    }
    remedy = "fetch it again, or give a checkpoint from before its training diverged"
    check_finite(state, path, remedy)
    return state


def released_arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    """The command line of the training, where the checkpoint has it."""
    arguments = content.get("args")
    if isinstance(arguments, argparse.Namespace):
        return vars(arguments)
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def released_step(content: Mapping[str, Any], path: Path) -> int:
    """Training steps, as the checkpoint or its name says; 0: neither does."""
    for key in ("steps", "step", "train_steps", "global_step"):
        value = content.get(key)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, int) and value >= 0:
            return int(value)
    return int(path.stem) if re.fullmatch(r"\d{1,15}", path.stem, re.ASCII) else 0


def taken_normalisation(state: dict[str, Tensor], path: Path) -> dict[str, list[float]] | None:
    """The normalisation of REPA-E's latents, taken out of `state`; None: another code's.

    REPA-E normalises the VAE's latents by a batch norm, and decodes with the scale
    1 / sqrt(variance) and the shift that are its running statistics.

    Raises:
        UserError: the statistics are incomplete.
    """
    found = [state.pop(f"bn.running_{name}", None) for name in ("var", "mean")]
    if found == [None, None]:
        return None
    variance, mean = found
    if variance is None or mean is None or not bool((variance > 0).all()):
        raise UserError(
            f"{path}: its batch norm `bn` of REPA-E has no mean or no positive variance; "
            "fetch it again"
        )
    return {"scale": variance.rsqrt().tolist(), "shift": mean.tolist()}


def _search(content: Mapping[Any, Any], place: tuple[str, ...] = ()) -> Iterator[_Found]:
    names = {
        key: _unwrapped(key)
        for key in content
        if isinstance(key, str) and not isinstance(content[key], Mapping)
    }
    times = (name for name in names.values() if f".{name}".endswith(f".{TIME}"))
    heads = dict.fromkeys(name.removesuffix(TIME) for name in times)
    remaining = dict(names)
    for head in sorted(heads, key=len, reverse=True):
        own = {
            key: name.removeprefix(head) for key, name in remaining.items() if name.startswith(head)
        }
        remaining = {key: name for key, name in remaining.items() if key not in own}
        tensors: dict[str, Any] = {}
        for key, name in own.items():
            # the same name with and without wrapper: the second keeps its full name
            tensors[key if name in tensors else name] = content[key]
        yield _Found((*place, *filter(None, head.split("."))), tensors)
    for key, value in content.items():
        if isinstance(value, Mapping) and len(place) < DEEPEST:
            yield from _search(value, place if key in WRAPPERS else (*place, str(key)))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _is_counter(name: str, value: Any) -> bool:
    """Whether an entry is not the network's: `epoch`, `n_averaged` and the like."""
    if name == "bn.num_batches_tracked":
        return True
    return "." not in name and not (isinstance(value, Tensor) and value.is_floating_point())


def _in_float32(name: str, value: Any, path: Path) -> Tensor:
    if not isinstance(value, Tensor):
        raise UserError(
            f"{path}: {printable(name)} is not a tensor but a {type(value).__name__}; "
            "give a checkpoint of DiT, SiT, REPA, iREPA or HASTE"
        )
    dense = value.layout == torch.strided
    if not value.is_floating_point() or not dense or value.is_meta:
        kind = str(value.dtype if dense else value.layout).removeprefix("torch.")
        raise UserError(
            f"{path}: {printable(name)} is {'without values' if value.is_meta else kind}; "
            "give weights in floating point, neither quantised nor sparse"
        )
    return value.detach().float()
