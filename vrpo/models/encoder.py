"""Networks of timm: the visual encoder of the alignment targets, the miniature's classifiers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.models.checkpoints import build_loaded, read_network
from vrpo.models.digest import state_sha256
from vrpo.models.weights import check_finite, printable, read_weights

if TYPE_CHECKING:
    from vrpo.config.networks import EncoderOptions, NetworkOptions


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


class VisualEncoder(nn.Module):
    """A frozen timm network that gives patch tokens.

    Args:
        network: with `forward_features` giving `[B, prefix + T, D]` after the final norm.
        image_size: side of the image fed to it, in pixels.
        attention: blocks, counted from 1, whose queries and keys `attention` gives.

    Raises:
        UserError: there is no such block, or its attention is not timm's plain one.
    """

    def __init__(self, network: nn.Module, image_size: int, attention: Sequence[int] = ()) -> None:
        super().__init__()
        self.network = network
        self.input = NetworkInput(image_size, *normalisation(network))
        self.prefix = int(getattr(network, "num_prefix_tokens", 0))
        self.sha256 = state_sha256(network)
        self.attention_layers = self._attention_layers(network, attention)

    def tokens(self, images: Tensor) -> Tensor:
        """Patch tokens `[B, T, D]` float32 of `images` uint8 `[B, 3, H, W]`, as `patch_tokens`.

        Raises:
            UserError: the network gives no row of tokens.
        """
        return patch_tokens(self.network, self.input(images))

    forward = tokens

    def class_token(self, images: Tensor) -> Tensor:
        """Class token `[B, D]` float32 of `images` uint8 `[B, 3, H, W]`, after the final norm.

        Raises:
            UserError: the network has none.
        """
        if getattr(self.network, "cls_token", None) is None or not self.prefix:
            raise UserError(
                f"encoders: {type(self.network).__name__} has no class token; set `class_token: "
                "false`, and choose an encoder with one for REG, e.g. DINOv2"
            )
        return all_tokens(self.network, self.input(images))[:, 0]

    def attention(self, images: Tensor) -> Tensor:
        """Queries and keys `[B, L, 2, heads, T, D / heads]` float32 of patch tokens, in L blocks.

        A block's attention logits among patches are `q k^T / sqrt(D / heads)`.
        """
        outputs: list[Tensor] = []
        hooks = [
            layer.qkv.register_forward_hook(lambda _layer, _input, output: outputs.append(output))
            for layer in self.attention_layers
        ]
        try:
            self.network.forward_features(self.input(images))
        finally:
            for hook in hooks:
                hook.remove()
        pairs = zip(self.attention_layers, outputs, strict=True)
        return torch.stack([self._queries_keys(layer, qkv) for layer, qkv in pairs], dim=1)

    def _queries_keys(self, layer: timm.layers.Attention, qkv: Tensor) -> Tensor:
        """[B,2,heads,T,D/heads] of `qkv` [B,prefix+T,3D]."""
        split = qkv.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, _ = split.unbind(0)  # each (B, heads, prefix + T, D / heads)
        both = torch.stack([layer.q_norm(queries), layer.k_norm(keys)], dim=1)
        return both[..., self.prefix :, :].float()

    @staticmethod
    def _attention_layers(network: nn.Module, blocks: Sequence[int]) -> list[timm.layers.Attention]:
        kind = type(network).__name__
        layers = [getattr(block, "attn", None) for block in getattr(network, "blocks", [])]
        for block in blocks:
            if not 1 <= block <= len(layers):
                raise UserError(
                    f"encoders: `attention` names block {block}, "
                    f"{kind} has blocks 1 to {len(layers)}"
                )
            if type(layers[block - 1]) is not timm.layers.Attention:
                raise UserError(
                    f"encoders: the attention of {kind} is not plain (rotary, perhaps), "
                    "its maps cannot be cached; leave `attention` empty"
                )
        return [layers[block - 1] for block in blocks]


def patch_tokens(network: nn.Module, inputs: Tensor) -> Tensor:
    """Patch tokens `[B, T, D]` float32 of prepared inputs, as `all_tokens`.

    Class and register tokens are left out.

    Raises:
        UserError: the network gives no row of tokens.
    """
    return all_tokens(network, inputs)[:, int(getattr(network, "num_prefix_tokens", 0)) :]


def all_tokens(network: nn.Module, inputs: Tensor) -> Tensor:
    """Tokens `[B, prefix + T, D]` float32 of prepared inputs, after the final norm.

    A network that pools before its norm has no `norm` but `fc_norm`, which `forward_features`
    leaves out: it is applied here.

    Raises:
        UserError: the network gives no row of tokens.
    """
    tokens = network.forward_features(inputs)
    if tokens.ndim != 3:
        raise UserError(
            f"encoders: {type(network).__name__} gives features {tuple(tokens.shape)}, "
            "no patch tokens; choose a vision transformer of timm"
        )
    if isinstance(getattr(network, "norm", None), nn.Identity):
        tokens = getattr(network, "fc_norm", network.norm)(tokens)
    return tokens.float()


def create_network(options: NetworkOptions, num_classes: int, **extra: Any) -> nn.Module:
    """timm's network for inputs of `options.image_size`.

    Weights are drawn from the global generator unless `extra` says `pretrained`. Networks of a
    fixed input size (vision transformers) are told it, so that timm resamples pretrained position
    embeddings to its grid.

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


def load_encoder(
    options: EncoderOptions, weights: Path | str | None, device: torch.device | str
) -> VisualEncoder:
    """The visual encoder of `options`, frozen, in evaluation mode and fp32.

    Args:
        options: `weights: timm` loads by name, `trained` the file `weights`; anything else is a
            local file in timm's naming.
        weights: file of `fit_classifier`, or None.
        device: where to put it.

    Raises:
        UserError: weights are missing, damaged or of another architecture; says what to fetch.
    """
    if options.weights == "trained":
        network = load_classifier(options, weights)
        network.reset_classifier(0)
    else:
        network = load_timm(options)
    encoder = VisualEncoder(network, options.image_size, options.attention)
    return encoder.to(device).eval().requires_grad_(False)


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
