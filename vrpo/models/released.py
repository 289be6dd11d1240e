"""The network in a released checkpoint: where its tensors are in the file, their names without wrappers, their values in float32."""

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

TIME = "t_embedder.mlp.0.weight"  # by which a network is found: every DiT has it
WRAPPERS = {  # modules around a module, whose names become part of those of its tensors
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

    The network may be the content itself, or within dicts (`ema`, `model`, `state_dict`, ...) or behind a head that its names share; wrappers may
    be anywhere in the names. Counters beside the tensors are left out.

    Args:
        content: what `read_weights` gave.
        weights: averaged or plain weights; of a content that has one network and does not say which it is, that one.
        path: the file, for messages.

    Raises:
        UserError: there is no network, none of these weights or several, or a tensor that is none, is not of floating point, or holds a NaN or
            infinite value.
    """
    found = list(_search(content))
    if not found:
        raise UserError(
            f"{path}: is not a checkpoint of DiT, SiT or REPA, or of code that shares their network ({TIME} is missing); give one of these"
        )
    wanted = [state for state in found if state.averaged == (weights == "ema")]
    if len(found) == 1 and not found[0].place:
        wanted = found
    places = ", ".join(
        printable(".".join(state.place)) or "the file itself" for state in wanted or found
    )
    if not wanted:
        raise UserError(
            f"{path}: has no weights `{weights}`, only {places}; choose those (`--weights {'model' if weights == 'ema' else 'ema'}`)"
        )
    if len(wanted) > 1:
        raise UserError(
            f"{path}: has several networks of weights `{weights}` ({places}); save the one that is meant alone"
        )
    state = {
        name: _in_float32(name, value, path)
        for name, value in wanted[0].tensors.items()
        if not _is_counter(name, value)
    }
    check_finite(
        state, path, "fetch it again, or give a checkpoint from before its training diverged"
    )
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


def _search(content: Mapping[Any, Any], place: tuple[str, ...] = ()) -> Iterator[_Found]:
    names = {
        key: _unwrapped(key)
        for key in content
        if isinstance(key, str) and not isinstance(content[key], Mapping)
    }
    heads = sorted(
        (name.removesuffix(TIME) for name in names.values() if f".{name}".endswith(f".{TIME}")),
        key=len,
        reverse=True,
    )
    remaining = dict(names)
    for head in dict.fromkeys(heads):
        own = {
            key: name.removeprefix(head) for key, name in remaining.items() if name.startswith(head)
        }
        remaining = {key: name for key, name in remaining.items() if key not in own}
        tensors: dict[str, Any] = {}
        for key, name in own.items():
            if name in tensors:  # wrapped and not: no name of a network's is told from the other
                tensors[key] = content[key]
            else:
                tensors[name] = content[key]
        yield _Found((*place, *filter(None, head.split("."))), tensors)
    for key, value in content.items():
        if isinstance(value, Mapping) and len(place) < DEEPEST:
            yield from _search(value, place if key in WRAPPERS else (*place, str(key)))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _is_counter(name: str, value: Any) -> bool:
    """Whether an entry beside the tensors is none of the network's: `epoch`, `n_averaged` and the like."""
    return "." not in name and not (isinstance(value, Tensor) and value.is_floating_point())


def _in_float32(name: str, value: Any, path: Path) -> Tensor:
    if not isinstance(value, Tensor):
        raise UserError(
            f"{path}: {printable(name)} is not a tensor but a {type(value).__name__}; give a checkpoint of DiT, SiT, REPA, iREPA or HASTE"
        )
    if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
        kind = (
            "without values"
            if value.is_meta
            else str(value.dtype if value.layout == torch.strided else value.layout).removeprefix(
                "torch."
            )
        )
        raise UserError(
            f"{path}: {printable(name)} is {kind}; give weights in floating point, neither quantised nor sparse"
        )
    return value.detach().float()
