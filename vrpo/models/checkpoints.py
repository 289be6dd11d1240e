"""Weights in safetensors: tensors by name, and one JSON description under the metadata key `vrpo`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.files import atomic_output
from vrpo.models.backbones import build_network
from vrpo.models.digest import tensors_sha256
from vrpo.models.transformer import DiffusionTransformer
from vrpo.models.weights import check_finite, printable, read_weights

METADATA_KEY = "vrpo"
SEAL = "sha256_of_all"  # in the file's description, and not in what is returned of it
NETWORK, ALIGNMENT = "network.", "alignment."
Network = TypeVar("Network", bound=nn.Module)


def save_network(
    path: Path | str, state: Mapping[str, Tensor], description: Mapping[str, Any]
) -> None:
    """Write tensors and their JSON-able description atomically; equal content is equal bytes.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    sealed = {**description, SEAL: _seal(plain, description)}
    metadata = {
        METADATA_KEY: json.dumps(sealed, sort_keys=True)
    }  # one key: several would come out in random order
    with atomic_output(path) as partial:
        try:
            save_file(plain, partial, metadata)
        except SafetensorError as error:
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise


def read_network(
    path: Path | str, kind: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file, on the CPU, and its description.

    Args:
        path: what `save_network` wrote.
        kind: `kind` that the description must have, e.g. `critic`, the output of `fit-critic`; None: any.

    Raises:
        UserError: the file is missing, damaged, not one of this pipeline, of another kind, or holds values that are not finite.
    """
    remedy = f"run the stage that makes it (`snakemake --force {path}`)"
    state, metadata = read_weights(path, remedy)
    if METADATA_KEY not in metadata:
        raise UserError(
            f"{path}: holds tensors but was not written by this pipeline (its metadata lack `{METADATA_KEY}`); convert it with `import-checkpoint`"
        )
    try:
        description = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its description is damaged ({error}); {remedy}") from error
    if not isinstance(description, dict):
        raise UserError(
            f"{path}: its description is damaged (a {type(description).__name__}, not an object); {remedy}"
        )
    if kind is not None and description.get("kind") != kind:
        raise UserError(
            f"{path}: holds a {printable(str(description.get('kind', 'foreign network')))}, not a {kind}; give the output of `fit-{kind}`"
        )
    check_finite(
        state, path, f"{remedy}; where it comes out again, lower that training's learning rate"
    )
    seal = description.pop(SEAL, None)  # files of earlier versions have none
    if seal is not None and seal != _seal(state, description):
        raise UserError(f"{path}: is not as it was written, so damaged or edited; {remedy}")
    return dict(state), description


def _seal(state: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """SHA-256 of tensors and description."""
    text = json.dumps(json.loads(json.dumps(description)), sort_keys=True)
    return hashlib.sha256(f"{tensors_sha256(state)} {text}".encode()).hexdigest()


def build_loaded(
    build: Callable[[], Network],
    state: Mapping[str, Tensor],
    where: Path | str,
    *,
    sized_by_file: bool = True,
) -> Network:
    """The module that `build` makes, with the weights `state`, frozen and in evaluation mode; the global generator stays as it is.

    Args:
        build: constructs the module from the file's description.
        state: all of its tensors and nothing else.
        where: the file, for messages.
        sized_by_file: whether its description, not the config, gives the sizes.
            They are then compared without memory first: damaged ones could ask for any amount.

    Raises:
        UserError: the description is damaged, or `check_state` finds something.
    """
    if sized_by_file:
        with torch.device("meta"):
            check_state(_built(build, where, sized_by_file), state, where)
    module = _built(build, where, sized_by_file)
    load_into(module, state, where)
    return module.eval().requires_grad_(False)


def _built(build: Callable[[], Network], where: Path | str, sized_by_file: bool) -> Network:
    try:
        with torch.random.fork_rng(devices=[]):
            return build()
    except Exception as error:  # a damaged description fails in as many ways as there are arguments
        if isinstance(error, UserError) and not sized_by_file:
            raise  # about options of the config
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
        raise UserError(
            f"{where}: the network cannot be built as the file describes it ({reason}); delete it and make it again"
        ) from error


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Copy `state` into `module`, all of it and nothing else.

    Raises:
        UserError: as `check_state`.
    """
    check_state(module, state, where)
    module.load_state_dict(dict(state))


def check_state(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """See that `state` has the tensors of `module`, in their shapes and types.

    Raises:
        UserError: a tensor is missing, extra or of another shape or type; the first of them are named, with both.
    """
    own = module.state_dict()
    faults = [f"{name} {_shape(own[name])} is missing" for name in own if name not in state]
    faults += [
        f"{printable(name)} {_shape(state[name])} is not in the network"
        for name in state
        if name not in own
    ]
    both = [(name, state[name], own[name]) for name in own if name in state]
    faults += [
        f"{name} is {_shape(given)}, not {_shape(wanted)}"
        for name, given, wanted in both
        if given.shape != wanted.shape
    ]
    faults += [
        f"{name} is {_type(given)}, not {_type(wanted)}"
        for name, given, wanted in both
        if given.dtype != wanted.dtype
    ]
    if faults:
        raise UserError(
            f"{where}: the weights are of another architecture: {listed(faults)}; give weights of this network, or change its options"
        )


def save_milestone(
    path: Path | str,
    network_state: Mapping[str, Tensor],
    projector_state: Mapping[str, Tensor],
    description: Mapping[str, Any],
) -> None:
    """Write a run's averaged network and projectors.

    Args:
        path: file to write.
        network_state: parameters of a `DiffusionTransformer`.
        projector_state: parameters of its alignment; may be empty.
        description: `run`, `seed`, `step`, `model`, `process`, `latent_shape`, `out_channels`, `alignment`, `config_sha256`.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    prefixed = {f"{NETWORK}{name}": tensor for name, tensor in network_state.items()}
    prefixed |= {f"{ALIGNMENT}{name}": tensor for name, tensor in projector_state.items()}
    save_network(path, prefixed, description)


def load_milestone(
    path: Path | str, device: torch.device | str = "cpu"
) -> tuple[DiffusionTransformer, dict[str, Any]]:
    """The network of a milestone on `device`, ready for evaluation, and the milestone's description.

    Raises:
        UserError: the file is missing, damaged, or not a milestone.
    """
    state, _, description = read_milestone(path)
    model = SimpleNamespace(**description["model"])
    network = build_loaded(
        lambda: build_network(model, description["latent_shape"], description["out_channels"]),
        state,
        path,
        sized_by_file=not hasattr(model, "backbone"),
    )
    return network.to(device), description


def read_milestone(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Tensors of a milestone's network and of its alignment, by their names there, and the milestone's description.

    Raises:
        UserError: the file is missing, damaged, or not a milestone.
    """
    from vrpo.config.resolved import (
        milestone_fault,
    )  # training writes milestones, and does without pydantic

    tensors, description = read_network(path)
    if not {"model", "process", "latent_shape", "out_channels"} <= description.keys():
        raise UserError(
            f"{path}: holds a network but no diffusion transformer; give a milestone (`step*.safetensors`)"
        )
    fault = milestone_fault(description)
    if fault:
        raise UserError(
            f"{path}: its description is damaged ({printable(fault)}); run the stage that makes it (`snakemake --force {path}`)"
        )
    network, alignment = (
        {
            name.removeprefix(part): tensor
            for name, tensor in tensors.items()
            if name.startswith(part)
        }
        for part in (NETWORK, ALIGNMENT)
    )
    foreign = [name for name in tensors if not name.startswith((NETWORK, ALIGNMENT))]
    if foreign:
        raise UserError(
            f"{path}: {printable(foreign[0])} belongs to neither network nor alignment; run the stage that makes it (`snakemake --force {path}`)"
        )
    return network, alignment, description


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def listed(faults: Iterable[str], limit: int = 8) -> str:
    """The first of `faults`, for a message."""
    faults = list(faults)
    rest = f" and {len(faults) - limit} more" if len(faults) > limit else ""
    return ", ".join(faults[:limit]) + rest
