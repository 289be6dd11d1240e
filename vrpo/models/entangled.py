"""REG's network: the transformer with a class token, denoised beside the latents (2507.01467).

The class token of an encoder is one more token of the network. Processes and samplers see one
noised state, the latents with the class token in further channels, and need not know of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vrpo.models.transformer import DiffusionTransformer


class JointState(NamedTuple):
    """How latents [B,C,h,w] and a class token [B,D] are one tensor [B,C+K,h,w].

    The class token fills K further channels, of which the end is zero.
    """

    channels: int
    """C, of the latents."""
    side: int
    """h and w."""
    width: int
    """D, channels of the class token."""

    @property
    def extra(self) -> int:
        """K."""
        return math.ceil(self.width / self.side**2)

    def pack(self, latents: Tensor, token: Tensor) -> Tensor:
        """[B,C+K,h,w] of latents, or a prediction of them [B,C,h,w], and a class token [B,D]."""
        padding = self.extra * self.side**2 - self.width
        filled = nn.functional.pad(token, (0, padding)).to(latents.dtype)
        return torch.cat([latents, filled.view(-1, self.extra, self.side, self.side)], dim=1)

    def noised(
        self,
        x_t: Tensor,
        token: Tensor,
        noise: Tensor,
        t: Tensor,
        corrupt: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The state of noised latents and a class token [B,D] that `corrupt`, of the process,
        noises likewise."""
        token_t = corrupt(token[..., None, None], noise[..., None, None], t)
        return self.pack(x_t, token_t.flatten(1))

    def split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B,C,h,w] and class token [B,D]; the reverse of `pack`."""
        latents, filled = state[:, : self.channels], state[:, self.channels :]
        return latents, filled.flatten(1)[:, : self.width]

    def pack_prediction(self, prediction: Tensor, token: Tensor) -> Tensor:
        """[B,P+K,h,w], or [B,P+2K,h,w] where the prediction [B,P,h,w] has a learned variance.

        That of the class token is then zero: halfway, in the logarithm, between its bounds.
        """
        mean, variance = prediction[:, : self.channels], prediction[:, self.channels :]
        packed = self.pack(mean, token)
        if variance.shape[1]:
            packed = torch.cat([packed, self.pack(variance, torch.zeros_like(token))], dim=1)
        return packed

    def split_prediction(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction [B,P,h,w] and that of the class token [B,D]; undoes `pack_prediction`."""
        whole = self.channels + self.extra
        mean, token = self.split(packed[:, :whole])
        return torch.cat([mean, packed[:, whole : whole + self.channels]], dim=1), token


class EntangledTransformer(DiffusionTransformer):
    """`DiffusionTransformer` on the joint state of latents and an encoder's class token.

    The class token is the first token of every block, at a position of zeros, so hidden tokens are
    [B,1+N,width]. Parameters are named as in the official REG, and those that a
    `DiffusionTransformer` has too are initialised as there from the same random numbers.
    """

    def __init__(self, *, class_token: int, **arguments: Any) -> None:
        """`class_token`: its channels D; the others are those of `DiffusionTransformer`."""
        super().__init__(**arguments)
        width = arguments["width"]
        self.joint = JointState(arguments["in_channels"], arguments["input_size"], class_token)
        self.cls_projectors2 = nn.Linear(class_token, width)
        self.wg_norm = nn.LayerNorm(width, eps=1e-6)
        self.final_layer.linear_cls = nn.Linear(width, class_token)
        nn.init.xavier_uniform_(self.cls_projectors2.weight)
        nn.init.zeros_(self.cls_projectors2.bias)
        nn.init.zeros_(self.final_layer.linear_cls.weight)
        nn.init.zeros_(self.final_layer.linear_cls.bias)

    def _embed(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As the base class, for the joint state [B,C+K,h,w]; tokens are [B,1+N,W]."""
        latents, token = self.joint.split(x)
        patches, c = super()._embed(latents, t, labels)
        first = self.wg_norm(self.cls_projectors2(token)).unsqueeze(1)
        return torch.cat([first.to(patches.dtype), patches], dim=1), c

    def _predict(self, x: Tensor, c: Tensor) -> Tensor:
        """The packed prediction [B,P+K,h,w] or [B,P+2K,h,w] of the last block's tokens."""
        x = self.final_layer.normed(x, c)
        token = self.final_layer.linear_cls(x[:, 0])
        prediction = self._unpatchify(self.final_layer.linear(x[:, 1:]))
        return self.joint.pack_prediction(prediction, token)
