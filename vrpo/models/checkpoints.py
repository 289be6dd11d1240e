"""Weights in safetensors: tensors by name, and one JSON description under the metadata key `vrpo`."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.files import atomic_output
from vrpo.models.backbones import build_network
from vrpo.models.transformer import DiffusionTransformer

METADATA_KEY = "vrpo"
NETWORK, ALIGNMENT = "network.", "alignment."


def save_network(path: Path | str, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and their JSON-able description atomically; equal content is equal bytes.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {METADATA_KEY: json.dumps(description, sort_keys=True)}  # one key: several would come out in random order
    with atomic_output(path) as partial:
        try:
            save_file(plain, partial, metadata)
        except SafetensorError as error:
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise


def read_network(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file, on the CPU, and its description.

    Raises:
        UserError: the file is missing, truncated, or not one of this pipeline.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage that makes it (`snakemake {path}`)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            state = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file, or truncated ({error}); delete it and make it again") from error
    if METADATA_KEY not in metadata:
        raise UserError(f"{path}: holds tensors but was not written by this pipeline (its metadata lack `{METADATA_KEY}`); convert it with `import-checkpoint`")
    return state, json.loads(metadata[METADATA_KEY])


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Copy `state` into `module`, all of it and nothing else.

    Raises:
        UserError: as `check_state`.
    """
    check_state(module, state, where)
    module.load_state_dict(dict(state))


def check_state(module: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """See that `state` has the tensors of `module`, in their shapes.

    Raises:
        UserError: a tensor is missing, extra or of another shape; the first of them are named, with both shapes.
    """
    own = module.state_dict()
    faults = [f"{name} {_shape(own[name])} is missing" for name in own if name not in state]
    faults += [f"{name} {_shape(state[name])} is not in the network" for name in state if name not in own]
    faults += [f"{name} is {_shape(state[name])}, not {_shape(own[name])}" for name in own if name in state and state[name].shape != own[name].shape]
    if faults:
        raise UserError(f"{where}: the weights are of another architecture: {_listed(faults)}; give weights of this network, or change its options")


def save_milestone(path: Path | str, network_state: Mapping[str, Tensor], projector_state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
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


def load_milestone(path: Path | str, device: torch.device | str = "cpu") -> tuple[DiffusionTransformer, dict[str, Any]]:
    """The network of a milestone on `device`, ready for evaluation, and the milestone's description.

    Raises:
        UserError: the file is missing, truncated, or not a milestone.
    """
    state, description = read_network(path)
    if not {"model", "process", "latent_shape", "out_channels"} <= description.keys():
        raise UserError(f"{path}: holds a network but no diffusion transformer; give a milestone (`step*.safetensors`)")
    with torch.random.fork_rng(devices=[]):
        network = build_network(SimpleNamespace(**description["model"]), description["latent_shape"], description["out_channels"])
    load_into(network, {name.removeprefix(NETWORK): tensor for name, tensor in state.items() if name.startswith(NETWORK)}, path)
    return network.to(device).eval().requires_grad_(False), description


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _listed(faults: Iterable[str], limit: int = 8) -> str:
    faults = list(faults)
    rest = f" and {len(faults) - limit} more" if len(faults) > limit else ""
    return ", ".join(faults[:limit]) + rest
