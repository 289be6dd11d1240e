"""Networks of timm: the visual encoder whose patch tokens are the alignment targets, and classifiers of the miniature."""

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
    """Images uint8 `[B, 3, H, W]` to what a timm network was trained on: resized (bicubic, antialiased) to `size` and normalised by its own mean and std.

    REPA normalises before it resizes and does not antialias; the values differ by rounding when the image grows, as from 256 to 224 by little.
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
        """Patch tokens `[B, T, D]` float32 of `images` uint8 `[B, 3, H, W]`, without class and register tokens, after the final norm.

        Raises:
            UserError: the network gives no row of tokens.
        """
        return patch_tokens(self.network, self.input(images))

    forward = tokens

    def attention(self, images: Tensor) -> Tensor:
        """Queries and keys `[B, L, 2, heads, T, D / heads]` float32 of the L blocks, of patch tokens alone.

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
        return torch.stack(
            [
                self._queries_keys(layer, qkv)
                for layer, qkv in zip(self.attention_layers, outputs, strict=True)
            ],
            dim=1,
        )

    def _queries_keys(self, layer: timm.layers.Attention, qkv: Tensor) -> Tensor:
        """[B,2,heads,T,D/heads] of `qkv` [B,prefix+T,3D]."""
        queries, keys, _ = (
            qkv.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )  # (B, heads, prefix + T, D / heads)
        return torch.stack([layer.q_norm(queries), layer.k_norm(keys)], dim=1)[
            ..., self.prefix :, :
        ].float()

    @staticmethod
    def _attention_layers(network: nn.Module, blocks: Sequence[int]) -> list[timm.layers.Attention]:
        layers = [getattr(block, "attn", None) for block in getattr(network, "blocks", [])]
        for block in blocks:
            if not 1 <= block <= len(layers):
                raise UserError(
                    f"encoders: `attention` names block {block}, {type(network).__name__} has blocks 1 to {len(layers)}"
                )
            if type(layers[block - 1]) is not timm.layers.Attention:
                raise UserError(
                    f"encoders: the attention of {type(network).__name__} is not plain (rotary, perhaps), its maps cannot be cached; leave `attention` empty"
                )
        return [layers[block - 1] for block in blocks]


def patch_tokens(network: nn.Module, inputs: Tensor) -> Tensor:
    """Patch tokens `[B, T, D]` float32 of prepared inputs, without prefix tokens, after the final norm.

    A network that pools before its norm has no `norm` but `fc_norm`, which `forward_features` leaves out: it is applied here.

    Raises:
        UserError: the network gives no row of tokens.
    """
    tokens = network.forward_features(inputs)
    if tokens.ndim != 3:
        raise UserError(
            f"encoders: {type(network).__name__} gives features {tuple(tokens.shape)}, no patch tokens; choose a vision transformer of timm"
        )
    if isinstance(getattr(network, "norm", None), nn.Identity):
        tokens = getattr(network, "fc_norm", network.norm)(tokens)
    return tokens[:, int(getattr(network, "num_prefix_tokens", 0)) :].float()  # (B, T, D)


def create_network(options: NetworkOptions, num_classes: int, **extra: Any) -> nn.Module:
    """timm's network for inputs of `options.image_size`; weights are drawn from the global generator unless `extra` says `pretrained`.

    Networks of a fixed input size (vision transformers) get it, so that timm resamples pretrained position embeddings to its grid.

    Raises:
        UserError: no such architecture, unknown arguments, or an image size that the patches do not divide.
    """
    config = _pretrained_config(options.architecture)
    if config is None or (
        extra.get("pretrained") and not (config.has_weights or "pretrained_cfg_overlay" in extra)
    ):
        names = timm.list_pretrained() if extra.get("pretrained") else timm.list_models()
        close = difflib.get_close_matches(options.architecture, names, n=1, cutoff=0.3)
        what = "network" if config is None else "pretrained weights for"
        raise UserError(
            f"architecture: timm has no {what} `{options.architecture}`; {f'did you mean `{close[0]}`?' if close else 'see `timm.list_models()`'}"
        )
    sized = {"img_size": options.image_size} if config.fixed_input_size else {}
    try:
        network = timm.create_model(
            options.architecture, num_classes=num_classes, **{**sized, **options.arguments}, **extra
        )
    except (TypeError, AssertionError) as error:
        raise UserError(
            f"arguments: timm cannot build `{options.architecture}` with {options.arguments} ({error}); mend `arguments`"
        ) from error
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    if options.image_size % patch[0] or options.image_size % patch[1]:
        fitting = options.image_size // patch[0] * patch[0]
        raise UserError(
            f"image_size: {options.image_size} is no multiple of the patch {patch[0]} of `{options.architecture}`; {fitting or patch[0]} would fit"
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
        options: `weights: timm` loads by name, `trained` the file `weights`, anything else is a local file in timm's naming.
        weights: file of `fit_classifier`, or None.
        device: where to put it.

    Raises:
        UserError: weights are missing, damaged or of another architecture; says what to fetch.
    """
    if options.weights == "trained":
        network = load_classifier(options, weights)
        network.reset_classifier(0)
    elif options.weights == "timm":
        network = _fetch(options)
    else:
        network = _read(options, Path(options.weights))
    return (
        VisualEncoder(network, options.image_size, options.attention)
        .to(device)
        .eval()
        .requires_grad_(False)
    )


def load_classifier(options: NetworkOptions, weights: Path | str | None) -> nn.Module:
    """The whole network that `fit_classifier` wrote to `weights`, with its head, in evaluation mode on the CPU.

    Raises:
        UserError: the file is missing, damaged, or of another architecture than `options`.
    """
    if weights is None:
        raise UserError(
            f"weights: `trained` needs the fitted weights of `{options.architecture}`; give them by `--weights` (`fit-classifier` makes them)"
        )
    state, description = read_network(weights, "classifier")
    wanted = {
        "architecture": options.architecture,
        "arguments": options.arguments,
        "image_size": options.image_size,
    }
    different = [
        f"{name} {description.get(name)} instead of {value}"
        for name, value in wanted.items()
        if description.get(name) != value
    ]
    if different:
        raise UserError(
            f"{weights}: has {printable(', '.join(different))}; fit it again or mend the options"
        )
    classes = description.get("num_classes")
    if not isinstance(classes, int) or classes < 1:
        raise UserError(
            f"{weights}: its description is damaged (num_classes: {printable(str(classes))}); delete it and make it again"
        )
    return build_loaded(
        lambda: create_network(options, classes), state, weights, sized_by_file=False
    )


def _fetch(options: NetworkOptions) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            network = create_network(options, 0, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        raise UserError(
            f"weights: the pretrained `{options.architecture}` could not be loaded ({_one_line(error)}); on a machine with network fetch "
            f"{_where(options.architecture)} and set `weights` to its path"
        ) from error
    check_finite(
        network.state_dict(),
        f"weights: the pretrained `{options.architecture}`",
        "remove it from the hub's cache and fetch it again",
    )
    return network


def _read(options: NetworkOptions, path: Path) -> nn.Module:
    remedy = f"give `timm`, `trained`, or the local path of {_where(options.architecture)}"
    if not path.is_file():
        raise UserError(
            f"weights: {path} is no .safetensors file, nor one of `torch.save`; {remedy}"
        )
    state = dict(read_weights(path, remedy).content)
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign or not state:
        raise UserError(
            f"{path}: {f'{printable(str(foreign[0]))} is not a tensor' if foreign else 'holds no tensors'}; {remedy}"
        )
    check_finite(state, path, remedy)
    classes = _classes(options.architecture, state)
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # with as many classes as the file has, else timm would let tensors be missing
            network = create_network(
                options,
                classes,
                pretrained=True,
                pretrained_cfg_overlay={
                    "state_dict": state,
                    "num_classes": classes,
                    "label_offset": 0,
                },
            )
    except UserError:
        raise
    except Exception as error:  # safetensors' and torch's own
        raise UserError(
            f"{path}: does not fit `{options.architecture}` ({_one_line(error)}); fetch its weights, or mend `architecture`"
        ) from error
    network.pretrained_cfg.pop("state_dict")  # timm keeps a copy
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
    return f"`model.safetensors` of https://huggingface.co/{(config.hf_hub_id if config else None) or f'timm/{architecture}'}"


def _pretrained_config(architecture: str) -> timm.models.PretrainedCfg | None:
    try:
        return timm.models.get_pretrained_cfg(architecture, allow_unregistered=False)
    except RuntimeError:  # no such network, or no such tag of it
        return None


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:300] or type(error).__name__
