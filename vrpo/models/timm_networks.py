"""Networks of timm: built, and loaded with pretrained weights, local ones or those fitted here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.models.checkpoints import build_loaded, read_network
from vrpo.models.weights import check_finite, printable, read_weights

if TYPE_CHECKING:
    from vrpo.config.networks import NetworkOptions


class NetworkInput(nn.Module):
    """Images to a timm network's input: resized (bicubic, antialiased) to `size` and normalised.

    REPA normalises before it resizes and does not antialias: the values differ by rounding when the
    image grows, and little from 256 to 224 pixels.
    """

    def __init__(self, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.size = size
        self.mean = tuple(mean)
        self.std = tuple(std)

    def forward(self, images: Tensor) -> Tensor:
        """Input `[B, 3, size, size]` float32 of `images` uint8 `[B, 3, H, W]`."""
        x = images.float() / 255
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True)
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std


def create_network(options: NetworkOptions, num_classes: int, **extra: Any) -> nn.Module:
    """timm's network for inputs of `options.image_size`.

    Weights are drawn from the global generator unless `extra` says `pretrained`. A network of fixed
    input size, such as a vision transformer, is built for `options.image_size`: timm resamples
    pretrained position embeddings to that size.

    Raises:
        UserError: no such architecture, unknown arguments, or an image size that the patches do
            not divide.
    """
    architecture, size = options.architecture, options.image_size
    config = _pretrained_config(architecture)
    pretrained = extra.get("pretrained", False)
    if config is None or (
        pretrained and not (config.has_weights or "pretrained_cfg_overlay" in extra)
    ):
        names = timm.list_pretrained() if pretrained else timm.list_models()
        close = difflib.get_close_matches(architecture, names, n=1, cutoff=0.3)
        what = "network" if config is None else "pretrained weights for"
        hint = f"did you mean `{close[0]}`?" if close else "see `timm.list_models()`"
        raise UserError(f"architecture: timm has no {what} `{architecture}`; {hint}")
    arguments = {"img_size": size} if config.fixed_input_size else {}
    arguments |= options.arguments
    try:
        network = timm.create_model(architecture, num_classes=num_classes, **arguments, **extra)
    except (TypeError, AssertionError) as error:
        raise UserError(
            f"arguments: timm cannot build `{architecture}` with {options.arguments} ({error}); "
            "fix `arguments`"
        ) from error
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    if size % patch[0] or size % patch[1]:
        fitting = size // patch[0] * patch[0] or patch[0]
        raise UserError(
            f"image_size: {size} is no multiple of the patch {patch[0]} of `{architecture}`; "
            f"{fitting} would fit"
        )
    return network


def normalisation(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel, for values in [0, 1], that timm states for the network."""
    return tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"])


def load_timm(options: NetworkOptions, head: bool = False) -> nn.Module:
    """A pretrained network, by timm's name or from a local file, with its last layer if `head`.

    Raises:
        UserError: weights are missing, damaged or of another architecture; says what to fetch.
    """
    if options.weights == "timm":
        return _fetch(options, head)
    return _read(options, Path(options.weights), head)


def load_classifier(options: NetworkOptions, weights: Path | str | None) -> nn.Module:
    """The network of `fit_classifier` in `weights`, with its head, in evaluation mode on the CPU.

    Raises:
        UserError: the file is missing, damaged, or of another architecture than `options`.
    """
    if weights is None:
        raise UserError(
            f"weights: `trained` needs the fitted weights of `{options.architecture}`; "
            "give them by `--weights` (`fit-classifier` makes them)"
        )
    state, description = read_network(weights, "classifier")
    wanted = {name: getattr(options, name) for name in ("architecture", "arguments", "image_size")}
    different = [
        f"{name} {description.get(name)} instead of {value}"
        for name, value in wanted.items()
        if description.get(name) != value
    ]
    if different:
        raise UserError(
            f"{weights}: has {printable(', '.join(different))}; fit it again or fix the options"
        )
    classes = description.get("num_classes")
    if not isinstance(classes, int) or classes < 1:
        raise UserError(
            f"{weights}: its description is damaged (num_classes: {printable(str(classes))}); "
            "delete it and rebuild it"
        )
    return build_loaded(
        lambda: create_network(options, classes), state, weights, sized_by_file=False
    )


def _fetch(options: NetworkOptions, head: bool) -> nn.Module:
    config = _pretrained_config(options.architecture)
    outputs = config.num_classes if head and config else 0
    name = f"weights: the pretrained `{options.architecture}`"
    try:
        with torch.random.fork_rng(devices=[]):
            network = create_network(options, outputs, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        raise UserError(
            f"{name} could not be loaded ({_one_line(error)}); on a machine with network fetch "
            f"{_where(options.architecture)} and set `weights` to its path"
        ) from error
    remedy = "remove it from the hub's cache and fetch it again"
    check_finite(network.state_dict(), name, remedy)
    return network


def _read(options: NetworkOptions, path: Path, head: bool) -> nn.Module:
    remedy = f"give `timm`, `trained`, or the local path of {_where(options.architecture)}"
    if not path.is_file():
        raise UserError(
            f"weights: {path} is no .safetensors file, nor one of `torch.save`; {remedy}"
        )
    state = dict(read_weights(path, remedy).content)
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign or not state:
        fault = f"{printable(str(foreign[0]))} is not a tensor" if foreign else "holds no tensors"
        raise UserError(f"{path}: {fault}; {remedy}")
    check_finite(state, path, remedy)
    # with as many classes as the file has: else timm would accept missing tensors
    classes = _classes(options.architecture, state)
    overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0}
    try:
        with torch.random.fork_rng(devices=[]):
            network = create_network(
                options, classes, pretrained=True, pretrained_cfg_overlay=overlay
            )
    except UserError:
        raise
    except Exception as error:  # safetensors' and torch's own
        raise UserError(
            f"{path}: does not fit `{options.architecture}` ({_one_line(error)}); "
            "fetch its weights, or fix `architecture`"
        ) from error
    network.pretrained_cfg.pop("state_dict")  # timm keeps a copy
    if not head:
        network.reset_classifier(0)
    return network


def _classes(architecture: str, state: Mapping[str, Tensor]) -> int:
    """Classes of the classifier whose weights are in `state`; 0: it has none."""
    config = _pretrained_config(architecture)
    names = (config.classifier if config else None) or ()
    first = names if isinstance(names, str) else next(iter(names), "")
    weight = state.get(f"{first}.weight")
    return len(weight) if weight is not None and weight.ndim else 0


def _where(architecture: str) -> str:
    config = _pretrained_config(architecture)
    repository = (config.hf_hub_id if config else None) or f"timm/{architecture}"
    return f"`model.safetensors` of https://huggingface.co/{repository}"


def _pretrained_config(architecture: str) -> timm.models.PretrainedCfg | None:
    try:
        return timm.models.get_pretrained_cfg(architecture, allow_unregistered=False)
    except RuntimeError:  # no such network, or no such tag of it
        return None


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:300] or type(error).__name__
