"""Projectors and arguments of the official REPA, iREPA, HASTE and REG code, in and out.

Tensors are named `projectors.<encoder>.`. REPA, HASTE and REG have an MLP's layers there, iREPA a
`projection_layer`: a convolution, an MLP, or a linear map, which is a convolution of kernel 1. Ours
are REPA's MLP (`Projector`) and the convolution (`ConvolutionalProjector`), without that name.
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
from vrpo.models.official_class_token import has_class_token
from vrpo.models.projector import ConvolutionalProjector, Projector

PREFIX = "projectors."
LAYER = re.compile(r"^projectors\.(\d+)\.projection_layer\.")


def read_projectors(state: Mapping[str, Tensor], width: int, path: Path) -> dict[str, Tensor]:
    """Our projectors' tensors from an official checkpoint's, for hidden tokens of `width` channels.

    Raises:
        UserError: they are not those of REPA, iREPA or HASTE.
    """
    own = {}
    for official_name, tensor in state.items():
        name = LAYER.sub(r"projectors.\1.", official_name)
        linear = re.fullmatch(r"projectors\.\d+\.weight", name) and tensor.ndim == 2
        own[name] = tensor[:, :, None, None] if linear else tensor
    count = len({name.split(".")[1] for name in own})
    with torch.device("meta"):
        projectors = [_projector_like(own, index, width, path) for index in range(count)]
        expected = nn.ModuleDict({"projectors": nn.ModuleList(projectors)})
    check_state(expected, own, path)
    return own


def write_projectors(projectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named as in the official code: of a convolution as iREPA's, of an MLP as REPA's."""
    return {
        re.sub(r"^(projectors\.\d+)\.(weight|bias)$", r"\1.projection_layer.\2", name): tensor
        for name, tensor in projectors.items()
    }


def is_convolutional(projectors: Mapping[str, Tensor]) -> bool:
    """Whether our projectors, or official ones read by `read_projectors`, are iREPA's."""
    return "projectors.0.weight" in projectors


def family_of(state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> str | None:
    """`repa`, `irepa`, `haste` or `reg`, as tensors and arguments of a checkpoint tell; or None."""
    if has_class_token(state):
        return "reg"
    projectors = [name for name in state if name.startswith(PREFIX)]
    layer = re.compile(r"projectors\.\d+\.projection_layer\.weight")
    normalised = arguments.get("spnorm_method", "none") != "none"
    if normalised or any(map(layer.fullmatch, projectors)):
        return "irepa"
    if "attn_coeff" in arguments:
        return "haste"
    return "repa" if projectors or "enc_type" in arguments else None


def describe_alignment(
    projectors: Mapping[str, Tensor], arguments: Mapping[str, Any], class_token: bool = False
) -> dict[str, Any]:
    """The alignment of a checkpoint, as in a run's description; None: the file does not say.

    `projectors` are those of `read_projectors`; `class_token`, whether the network denoises one.
    """
    if not projectors:
        return {"kind": "none"}
    shared = {
        "encoders": str(arguments.get("enc_type", "unknown")).split(","),
        "depth": arguments.get("encoder_depth"),
        "weight": _number(arguments.get("proj_coeff")),
    }
    if is_convolutional(projectors):
        kernel_size = projectors["projectors.0.weight"].shape[-1]
        zscore = arguments.get("spnorm_method") == "zscore"
        gamma = arguments.get("zscore_alpha") if zscore else None
        return {"kind": "irepa", **shared, "kernel_size": kernel_size, "gamma": gamma}
    shared["projector_width"] = len(projectors["projectors.0.0.bias"])
    if class_token:
        return {"kind": "reg", **shared, "class_token_weight": arguments.get("cls")}
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
    """A projector of the sizes of the `index`-th one's tensors."""
    names = (f"projectors.{index}.{name}" for name in ("weight", "0.bias", "4.bias"))
    weight, first, last = map(projectors.get, names)
    if weight is not None and weight.ndim == 4 and 0 not in weight.shape:
        return ConvolutionalProjector(width, len(weight), weight.shape[-1])
    if first is not None and last is not None and first.ndim == last.ndim == 1:
        return Projector(width, len(first), len(last))
    raise UserError(
        f"{path}: its projector {index} is neither REPA's MLP nor iREPA's convolution; "
        "give a checkpoint of REPA, iREPA or HASTE"
    )


def _number(value: Any) -> Any:
    """iREPA's arguments have the weight as text: a number, or one for each of several losses."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
