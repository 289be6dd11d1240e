"""Checkpoints of the official DiT, SiT, REPA, iREPA, REPA-E, HASTE and REG code, in and out.

Their tensors have our names. Differences are converted exactly, so that process and samplers need
not know where weights come from:

- DiT: nothing.
- REPA, iREPA, HASTE: nothing; their projectors become the alignment's. Early files of REPA call the
  blocks after the aligned one `decoder_blocks`.
- REPA-E: nothing; its batch norm of the latents becomes their normalisation.
- REG: nothing; its position embedding has a row of zeros for the class token, ours has not.
- SiT: its time runs from noise (0) to data (1), ours the other way, as REPA's, so
  `v(x, t) = -v_SiT(x, 1 - t)`. The sign goes into the last layer. The time enters by cosines and
  sines of `t f`, and those of `(1 - t) f` are a rotation and reflection of them. It goes into the
  first layer of the time embedding. The unused half of SiT's output (`learn_sigma`) is dropped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from vrpo.config.resolved import PAPER_SIZES
from vrpo.config.runs import FAMILIES
from vrpo.errors import UserError
from vrpo.files import atomic_output, sha256
from vrpo.models.backbones import build_network
from vrpo.models.checkpoints import METADATA_KEY, check_state, read_milestone, save_milestone
from vrpo.models.diffusers_dit import read_transformer
from vrpo.models.embeddings import TimeEmbedding, position_embedding
from vrpo.models.official_class_token import has_class_token, taken_class_token, with_position
from vrpo.models.official_layout import (
    LAST,
    Layout,
    check_positions,
    read_layout,
    size_of,
    with_todays_names,
)
from vrpo.models.official_projectors import (
    PREFIX,
    describe_alignment,
    family_of,
    is_convolutional,
    read_projectors,
    write_projectors,
)
from vrpo.models.released import (
    TIME,
    released_arguments,
    released_state,
    released_step,
    taken_normalisation,
)
from vrpo.models.weights import read_weights

Family = Literal["dit", "sit", "repa", "irepa", "haste", "reg"]
ALIGNED = ("repa", "irepa", "haste", "reg")  # one process, with projectors; REG has its network

REMEDY = "give a checkpoint of the official DiT, SiT, REPA, iREPA, HASTE or REG code"
PATHS = {"linear": "linear", "cosine": "cosine", "Linear": "linear", "GVP": "cosine"}


def import_checkpoint(
    path: Path | str,
    output: Path | str,
    *,
    family: Family | None = None,
    weights: Literal["ema", "model"] = "ema",
    heads: int | None = None,
    run: str | None = None,
    step: int | None = None,
    seed: int | None = None,
    model: str | None = None,
) -> dict[str, Any]:
    """Convert an official checkpoint to a milestone that `sample` takes.

    Args:
        path: file of `torch.save` or safetensors: a bare state dict, or a dict with `ema` and
            perhaps `model`, `opt`, `args`, `steps` (see `released_state`); or the folder of a
            `DiTPipeline` of diffusers.
        output: safetensors file to write.
        family: whose code wrote it; None: as the file's arguments, projectors or name say.
        weights: averaged or plain weights, where the file has both.
        heads: attention heads; None: those of the paper's model of this width and depth.
        run: name of the run in tables; None: the file's name.
        step: training steps; None: as the file or its name says, else 0.
        seed: training seed; None: as the file says, else 0.
        model: what the model must be, e.g. `SiT-XL/2`, or a name for one of other sizes than the
            papers'; None: any.

    Returns:
        The description written beside the tensors.

    Raises:
        UserError: the file is missing, damaged or of an unknown kind, a tensor does not fit, or the
            file does not tell what is needed.
    """
    path = Path(path)
    shard = re.search(r"-(\d{5})-of-(\d{5})$", path.stem)
    if shard and int(shard[2]) > 1:
        raise UserError(
            f"{path}: is one of {int(shard[2])} files that hold one set of weights; "
            "save them as one file"
        )
    if path.is_dir() and not (path / ".metadata").is_file():
        run, family, metadata = run or path.resolve().name, family or "dit", {}
        content, heads, path = read_transformer(path)
    else:
        content, metadata = read_weights(path, REMEDY)
    if METADATA_KEY in metadata:
        raise UserError(f"{path}: was written by this pipeline; give it to `sample` as it is")
    state = with_todays_names(released_state(content, weights, path))
    arguments = released_arguments(content)
    normalisation = taken_normalisation(state, path)
    class_token = taken_class_token(state, path)
    family = _family(family, state, arguments, path)
    projectors = {name: tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    state = {name: tensor for name, tensor in state.items() if name not in projectors}
    layout = read_layout(state, path)
    projectors = read_projectors(projectors, layout.width, path)
    check_positions(state.pop("pos_embed"), layout, path)
    size, heads = size_of(layout, heads, path)
    name = f"{'DiT' if family == 'dit' else 'SiT'}-{size}/{layout.patch_size}"
    if model and model != name and size in PAPER_SIZES:
        raise UserError(f"{path}: is a {name}, not a {model}; fix `model`, or give another file")
    sizes = {
        "depth": layout.depth,
        "width": layout.width,
        "heads": heads,
        "patch_size": layout.patch_size,
        "num_classes": layout.num_classes,
    }
    latent_shape = [layout.channels, *[layout.grid * layout.patch_size] * 2]
    doubled = family == "dit" or (family == "sit" and layout.out_channels == 2 * layout.channels)
    out_channels = layout.channels * (2 if doubled else 1)
    with torch.device("meta"):
        described = SimpleNamespace(name=name, **sizes)
        expected = build_network(described, latent_shape, out_channels, class_token)
    check_state(expected, state, path)
    if family == "sit":
        state = _from_sit(state, layout)
    if seed is None:
        seed = int(arguments.get("seed") or arguments.get("global_seed") or 0)
    description = {
        "run": run or path.stem,
        "seed": seed,
        "step": released_step(content, path) if step is None else step,
        "model": {"name": model or name, **sizes},
        "process": _process(family, arguments, path),
        "latent_shape": latent_shape,
        "out_channels": layout.channels * (2 if family == "dit" else 1),
        "alignment": describe_alignment(projectors, arguments, class_token is not None),
        "config_sha256": None,
        "source": {"file": path.name, "sha256": sha256(path), "family": family, "weights": weights},
    }
    if class_token is not None:
        description["class_token"] = class_token
    if normalisation:
        description["normalisation"] = normalisation
    save_milestone(output, state, projectors, description)
    return description


def export_checkpoint(
    milestone: Path | str, output: Path | str, *, family: Family | None = None
) -> Family:
    """Write a milestone as `{"ema": state}`, which the scripts of the official code load.

    SiT's unused half of the output is filled with zeros.

    Args:
        milestone: safetensors file of a run, or of `import_checkpoint`.
        output: `.pt` file to write.
        family: whose code is to read it; None: DiT for DDPM, REG for a network with a class token,
            iREPA for a run with its projectors, REPA for one with others, else SiT.

    Returns:
        The family.

    Raises:
        UserError: the file is damaged or no milestone, or its process or projectors are not the
            family's.
    """
    state, alignment, description = read_milestone(milestone)
    projectors = {name: tensor for name, tensor in alignment.items() if name.startswith(PREFIX)}
    process, convolutional = description["process"]["kind"], is_convolutional(projectors)
    ddpm, joint = process == "ddpm", "class_token" in description
    if family is None:
        aligned = "reg" if joint else "irepa" if convolutional else "repa"
        family = "dit" if ddpm else aligned if projectors else "sit"
    if ddpm != (family == "dit"):
        fitting = "dit" if ddpm else "sit, repa, irepa, haste or reg"
        raise UserError(
            f"--family {family}: {milestone} was trained with the process `{process}`; "
            f"choose {fitting}"
        )
    if joint != (family == "reg"):
        has = "a network that denoises a class token, as only REG's" if joint else "no class token"
        fitting = "choose reg" if joint and not ddpm else "choose another, or another milestone"
        raise UserError(f"--family {family}: {milestone} has {has}; {fitting}")
    if family in ("repa", "haste") and convolutional:
        raise UserError(
            f"--family {family}: {milestone} has iREPA's projectors, "
            f"which {FAMILIES[family]}'s code does not know; choose irepa"
        )
    model, latent = description["model"], description["latent_shape"]
    if family == "sit":
        state = _to_sit(state, model["patch_size"], latent[0])
    if family in ALIGNED:
        state |= write_projectors(projectors)
    positions = position_embedding(model["width"], latent[1] // model["patch_size"])
    state["pos_embed"] = with_position(positions) if joint else positions
    buffer = io.BytesIO()  # a file's own name would be written into it
    torch.save({"ema": dict(sorted(state.items()))}, buffer)
    with atomic_output(output) as partial:
        partial.write_bytes(buffer.getbuffer())
    return family


def reverse_time(weight: Tensor) -> Tensor:
    """The first time-embedding weight [W,2F] for a network given 1 - t instead of t; an involution.

    cos((1-t) f) = cos f cos tf + sin f sin tf, and sin((1-t) f) = sin f cos tf - cos f sin tf.
    """
    frequencies = TimeEmbedding(1).frequencies.double()
    cosine, sine = frequencies.cos(), frequencies.sin()
    of_cosine, of_sine = weight.double().chunk(2, dim=1)
    halves = [of_cosine * cosine + of_sine * sine, of_cosine * sine - of_sine * cosine]
    return torch.cat(halves, dim=1).to(weight.dtype)


def _from_sit(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    own = dict(state)
    for name in (f"{LAST}.weight", f"{LAST}.bias"):
        rows = own[name].unflatten(0, (layout.patch_size**2, layout.out_channels))
        own[name] = -rows[:, : layout.channels].flatten(0, 1)
    own[TIME] = reverse_time(own[TIME])
    return own


def _to_sit(state: Mapping[str, Tensor], patch_size: int, channels: int) -> dict[str, Tensor]:
    own = dict(state)
    for name in (f"{LAST}.weight", f"{LAST}.bias"):
        rows = own[name].unflatten(0, (patch_size**2, channels))
        own[name] = torch.cat([-rows, torch.zeros_like(rows)], dim=1).flatten(0, 1)
    own[TIME] = reverse_time(own[TIME])
    return own


def _family(
    given: Family | None, state: Mapping[str, Tensor], arguments: Mapping[str, Any], path: Path
) -> Family:
    """The family `given`, if nothing in the file contradicts it; else as the file says."""
    aligned, trained = family_of(state, arguments), str(arguments.get("model", "")).lower()
    if aligned:
        found, evidence = aligned, f"projectors, or arguments, of {FAMILIES[aligned]}'s code"
    elif re.match(r"(dit|sit)\b", trained):
        found, evidence = trained[:3], f"`{arguments['model']}` among its arguments"
    else:
        named = re.match(r"(dit|sit)\b", path.name.lower())
        found, evidence = given or (named[1] if named else None), ""
    if found is None:
        raise UserError(
            f"{path}: DiT's and SiT's checkpoints hold the same tensors, and nothing else in this "
            "file tells which it is; say `--family dit` or `--family sit`"
        )
    if given == "reg" and not has_class_token(state):
        raise UserError(
            f"--family reg: {path} has no class token; say `--family {found}`, or leave it out"
        )
    # REPA, iREPA and HASTE call their network, which is REPA's, SiT; without arguments nothing
    # tells an MLP of one from another's
    alike = (found in ALIGNED and given == "repa") or (found == "repa" and not arguments)
    if given and given != found and not (given in ALIGNED and (found == "sit" or alike)):
        raise UserError(
            f"--family {given}: {path} has {evidence}; say `--family {found}`, or leave it out"
        )
    return found if given == "repa" and aligned else given or found


def _process(family: Family, arguments: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if family == "dit":
        return {"kind": "ddpm", "betas": "linear", "steps": 1000}
    prediction = arguments.get("prediction", "velocity")
    route = arguments.get("path_type", "linear")
    if prediction not in ("v", "velocity") or route not in PATHS:
        raise UserError(
            f"{path}: predicts `{prediction}` on the path `{route}`; "
            "only velocities on the linear and the cosine (GVP) path are supported"
        )
    time = arguments.get("weighting") or "uniform"
    return {"kind": "interpolant", "path": PATHS[route], "time": time}
