"""Weights in safetensors: tensors, and a JSON description under the metadata key `vrpo`."""

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
SEAL = "sha256_of_all"  # part of the file's description; removed when it is read
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
    # one key: several would be written in random order
    metadata = {METADATA_KEY: json.dumps(sealed, sort_keys=True)}
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
        kind: `kind` in the description, e.g. `critic`, the output of `fit-critic`; None: any.

    Raises:
        UserError: the file is missing, damaged, not of this pipeline, of another kind, or holds
            values that are not finite.
    """
    remedy = f"run the stage that makes it (`snakemake --force {path}`)"
    state, metadata = read_weights(path, remedy)
    if METADATA_KEY not in metadata:
        raise UserError(
            f"{path}: holds tensors but was not written by this pipeline "
            f"(its metadata lack `{METADATA_KEY}`); convert it with `import-checkpoint`"
        )
    try:
        description = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its description is damaged ({error}); {remedy}") from error
    if not isinstance(description, dict):
        found = type(description).__name__
        raise UserError(f"{path}: its description is damaged (a {found}, not an object); {remedy}")
    if kind is not None and description.get("kind") != kind:
        found = printable(str(description.get("kind", "foreign network")))
        raise UserError(f"{path}: holds a {found}, not a {kind}; give the output of `fit-{kind}`")
    check_finite(state, path, f"{remedy}; if it happens again, lower that training's learning rate")
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
    """The module of `build` with the weights `state`, frozen and in evaluation mode.

    The global random generator is left unchanged.

    Args:
        build: constructs the module from the file's description.
        state: all of its tensors and nothing else.
        where: the file, for messages.
        sized_by_file: whether its description, not the config, gives the sizes. They are then
            compared on the meta device first: damaged sizes could ask for any amount of memory.

    Raises:
        UserError: the description is damaged, or `check_state` finds a fault.
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
    except Exception as error:  # a damaged description raises errors of almost any kind
        if isinstance(error, UserError) and not sized_by_file:
            raise  # about options of the config
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
        raise UserError(
            f"{where}: the network cannot be built as the file describes it ({reason}); "
            "delete it and rebuild it"
        ) from error


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Copy `state` into `module`, all of it and nothing else.

    Raises:
        UserError: as `check_state`.
    """
    check_state(module, state, where)
    module.load_state_dict(dict(state))


def check_state(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Check that `state` has the tensors of `module`, in their shapes and types.

    Raises:
        UserError: a tensor is missing, extra or of another shape or type; names the first of them.
    """
    own = module.state_dict()
    missing = [f"{name} {_shape(own[name])} is missing" for name in own if name not in state]
    extra = [
        f"{printable(name)} {_shape(state[name])} is not in the network"
        for name in state
        if name not in own
    ]
    shapes, types = [], []
    for name, wanted in own.items():
        given = state.get(name, wanted)
        if given.shape != wanted.shape:
            shapes.append(f"{name} is {_shape(given)}, not {_shape(wanted)}")
        if given.dtype != wanted.dtype:
            types.append(f"{name} is {_type(given)}, not {_type(wanted)}")
    faults = missing + extra + shapes + types
    if faults:
        raise UserError(
            f"{where}: the weights are of another architecture: {listed(faults)}; "
            "give weights of this network, or change its options"
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
        description: `run`, `seed`, `step`, `model`, `process`, `latent_shape`, `out_channels`,
            `alignment`, `config_sha256`.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    prefixed = {f"{NETWORK}{name}": tensor for name, tensor in network_state.items()}
    prefixed |= {f"{ALIGNMENT}{name}": tensor for name, tensor in projector_state.items()}
    save_network(path, prefixed, description)


def load_milestone(
    path: Path | str, device: torch.device | str = "cpu"
) -> tuple[DiffusionTransformer, dict[str, Any]]:
    """The network of a milestone on `device`, in evaluation mode, and the description.

    Raises:
        UserError: the file is missing, damaged, or not a milestone.
    """
    state, _, description = read_milestone(path)
    model = SimpleNamespace(**description["model"])
    sizes = description["latent_shape"], description["out_channels"]
    network = build_loaded(
        lambda: build_network(model, *sizes, description.get("class_token")),
        state,
        path,
        sized_by_file=not hasattr(model, "backbone"),
    )
    return network.to(device), description


def read_milestone(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Tensors of a milestone's network, those of its alignment, and its description.

    Raises:
        UserError: the file is missing, damaged, or not a milestone.
    """
    # training, which writes milestones, does without pydantic
    from vrpo.config.resolved import milestone_fault

    tensors, description = read_network(path)
    if not {"model", "process", "latent_shape", "out_channels"} <= description.keys():
        raise UserError(
            f"{path}: holds a network but no diffusion transformer; "
            "give a milestone (`step*.safetensors`)"
        )
    remedy = f"run the stage that makes it (`snakemake --force {path}`)"
    fault = milestone_fault(description)
    if fault:
        raise UserError(f"{path}: its description is damaged ({printable(fault)}); {remedy}")
    foreign = [name for name in tensors if not name.startswith((NETWORK, ALIGNMENT))]
    if foreign:
        raise UserError(
            f"{path}: {printable(foreign[0])} belongs to neither network nor alignment; {remedy}"
        )
    return _part(tensors, NETWORK), _part(tensors, ALIGNMENT), description


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def listed(faults: Iterable[str], limit: int = 8) -> str:
    """The first of `faults`, for a message."""
    faults = list(faults)
    rest = f" and {len(faults) - limit} more" if len(faults) > limit else ""
    return ", ".join(faults[:limit]) + rest
