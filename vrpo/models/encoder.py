"""The visual encoder of the alignment targets: a frozen network of timm that gives tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import timm.layers
import torch
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.models.digest import state_sha256
from vrpo.models.timm_networks import NetworkInput, load_classifier, load_timm, normalisation

if TYPE_CHECKING:
    from vrpo.config.networks import EncoderOptions


class VisualEncoder(nn.Module):
    """A frozen timm network that gives patch tokens.

    Args:
        network: with `forward_features` giving `[B, prefix + T, D]` after the final norm.
        image_size: side of the image fed to it, in pixels.
        attention: blocks, counted from 1, whose queries and keys `attention` gives.
        class_token: whether `with_class_token` is asked for.

    Raises:
        UserError: there is no such block, or its attention is not timm's plain one; or there is no
            class token.
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: int,
        attention: Sequence[int] = (),
        class_token: bool = False,
    ) -> None:
        super().__init__()
        if class_token and getattr(network, "cls_token", None) is None:
            raise UserError(
                f"encoders: {type(network).__name__} has no class token; set `class_token: false`, "
                "and choose an encoder with one for REG, e.g. DINOv2"
            )
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

    def with_class_token(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens `[B, T, D]` as `tokens`, and class token `[B, D]`, in one pass."""
        everything = all_tokens(self.network, self.input(images))
        return everything[:, self.prefix :], everything[:, 0]

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
    encoder = VisualEncoder(network, options.image_size, options.attention, options.class_token)
    return encoder.to(device).eval().requires_grad_(False)
