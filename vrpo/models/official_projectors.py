"""Projectors and arguments of the official REPA, iREPA and HASTE code, in and out.

All have `projectors.<encoder>.`; there REPA and HASTE have the layers of an MLP, iREPA a `projection_layer`: a convolution, or an MLP or a linear map, which is
a convolution of kernel 1. Ours are REPA's MLP (`Projector`) and the convolution (`ConvolutionalProjector`), without that name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.models.checkpoints import check_state
from vrpo.models.projector import ConvolutionalProjector, Projector

PREFIX = "projectors."
LAYER = re.compile(r"^projectors\.(\d+)\.projection_layer\.")


def read_projectors(state: Mapping[str, Tensor], width: int, path: Path) -> dict[str, Tensor]:
    """Our projectors' tensors, of those of an official checkpoint, for hidden tokens of `width` channels.

    Raises:
        UserError: they are not those of REPA, iREPA or HASTE.
    """
    named = {LAYER.sub(r"projectors.\1.", name): tensor for name, tensor in state.items()}
    own = {
        name: tensor[:, :, None, None]
        if re.fullmatch(r"projectors\.\d+\.weight", name) and tensor.ndim == 2
        else tensor
        for name, tensor in named.items()
    }
    count = len({name.split(".")[1] for name in own})
    with torch.device("meta"):
        expected = nn.ModuleDict(
            {
                "projectors": nn.ModuleList(
                    _projector_like(own, index, width, path) for index in range(count)
                )
            }
        )
    check_state(expected, own, path)
    return own


def write_projectors(projectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The projectors' tensors as the official code names them: of a convolution as iREPA's, of an MLP as REPA's."""
    return {
        re.sub(r"^(projectors\.\d+)\.(weight|bias)$", r"\1.projection_layer.\2", name): tensor
        for name, tensor in projectors.items()
    }


def is_convolutional(projectors: Mapping[str, Tensor]) -> bool:
    """Whether our projectors, or official ones read by `read_projectors`, are iREPA's."""
    return "projectors.0.weight" in projectors


def family_of(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> str | None:
    """Which of the three wrote a checkpoint, by its projectors and arguments; None: nothing says that one of them did."""
    projectors = [name for name in state if name.startswith(PREFIX)]
    if arguments.get("spnorm_method", "none") != "none" or any(
        re.fullmatch(r"projectors\.\d+\.projection_layer\.weight", name) for name in projectors
    ):
        return "irepa"
    if "attn_coeff" in arguments:
        return "haste"
    return "repa" if projectors or "enc_type" in arguments else None


def describe_alignment(
    projectors: Mapping[str, Tensor], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The alignment of a checkpoint with these projectors (of `read_projectors`), as a run's description has it; null: the file does not say."""
    if not projectors:
        return {"kind": "none"}
    shared = {
        "encoders": str(arguments.get("enc_type", "unknown")).split(","),
        "depth": arguments.get("encoder_depth"),
        "weight": _number(arguments.get("proj_coeff")),
    }
    if is_convolutional(projectors):
        gamma = (
            arguments.get("zscore_alpha") if arguments.get("spnorm_method") == "zscore" else None
        )
        return {
            "kind": "irepa",
            **shared,
            "kernel_size": projectors["projectors.0.weight"].shape[-1],
            "gamma": gamma,
        }
    shared["projector_width"] = len(projectors["projectors.0.0.bias"])
    if "attn_coeff" in arguments:
        return {
            "kind": "haste",
            **shared,
            "attention_weight": arguments["attn_coeff"],
            "stop_step": arguments.get("early_stop_point"),
        }
    return {"kind": "repa", **shared}


def _projector_like(
    projectors: Mapping[str, Tensor], index: int, width: int, path: Path
) -> nn.Module:
    """A projector of the sizes that the tensors of the `index`-th have."""
    weight, first, last = (
        projectors.get(f"projectors.{index}.{name}") for name in ("weight", "0.bias", "4.bias")
    )
    if weight is not None and weight.ndim == 4 and 0 not in weight.shape:
        return ConvolutionalProjector(width, len(weight), weight.shape[-1])
    if first is not None and last is not None and first.ndim == last.ndim == 1:
        return Projector(width, len(first), len(last))
    raise UserError(
        f"{path}: its projector {index} is neither REPA's MLP nor iREPA's convolution; give a checkpoint of REPA, iREPA or HASTE"
    )


def _number(value: Any) -> Any:
    """iREPA's arguments have the weight as text: one for each of its losses, which are one unless told otherwise."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
