"""The diffusion transformer of DiT (arXiv:2212.09748, section 3, adaLN-Zero), as in SiT and REPA.

Parameters are named as in the official DiT, so that its checkpoints fit. Frequencies and positions
are computed once, and labels are dropped outside; the papers' code does both at each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vrpo.errors import UserError
from vrpo.models.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    position_embedding,
)

if TYPE_CHECKING:
    from vrpo.config.resolved import ModelOptions


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, kept: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """[B,N,width] to the same; appends queries and keys [B,heads,N,width/heads] to `kept`."""
        B, N, W = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.heads, W // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, W / heads)
        if kept is not None:
            kept.append((q, k))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, W))


class MLP(nn.Module):
    """Linear, GELU (tanh form), linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,width] to [B,N,width]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`norm(x) (1 + scale) + shift`, norm without parameters; x [B,N,W], shift, scale [B,1,W]."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition (adaLN-Zero).

    The official DiT has a SiLU in place of `Identity`, the same for all layers: here the
    transformer applies it once.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(width, 6 * width))

    def forward(
        self, x: Tensor, c: Tensor, kept: list[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """Tokens [B,N,W] and activated condition [B,1,W] to tokens; `kept` as for `Attention`."""
        modulation = self.adaLN_modulation(c).chunk(6, dim=-1)  # each (B, 1, W)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation
        x = torch.addcmul(x, gate_attn, self.attn(modulated_norm(x, shift_attn, scale_attn), kept))
        return torch.addcmul(x, gate_mlp, self.mlp(modulated_norm(x, shift_mlp, scale_mlp)))


class FinalLayer(nn.Module):
    """Modulated norm and a linear map from tokens to patches."""

    def __init__(self, width: int, patch_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, patch_channels)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens [B,N,W] and activated condition [B,1,W] to patches [B,N,p p out]."""
        return self.linear(self.normed(x, c))

    def normed(self, x: Tensor, c: Tensor) -> Tensor:
        """The modulated tokens [B,N,W]."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return modulated_norm(x, shift, scale)


class DiffusionTransformer(nn.Module):
    """DiT's and SiT's network: class- and time-conditional, on square latents.

    Args:
        input_size: side of the latent, a multiple of `patch_size`.
        patch_size: side of a patch.
        in_channels: channels of the latent.
        out_channels: channels of the prediction; twice `in_channels` where the variance is learned.
        width: channels of a token, a multiple of `heads` and of 4.
        depth: blocks.
        heads: attention heads.
        num_classes: classes; the null class is `null_label`, this number.
        mlp_ratio: hidden width of the MLPs over `width`.
    """

    def __init__(
        self,
        *,
        input_size: int,
        patch_size: int,
        in_channels: int,
        out_channels: int,
        width: int,
        depth: int,
        heads: int,
        num_classes: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.patch_size, self.out_channels, self.null_label = patch_size, out_channels, num_classes
        self.grid = input_size // patch_size
        self.activation_checkpointing = False  # blocks are computed again in the backward pass
        self.x_embedder = PatchEmbedding(patch_size, in_channels, width)
        self.t_embedder = TimeEmbedding(width)
        self.y_embedder = LabelEmbedding(num_classes, width)
        self.register_buffer("pos_embed", position_embedding(width, self.grid), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch_size**2 * out_channels)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise as the official DiT: blocks start as the identity, the output as zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # as a linear layer, not as a convolution
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.data.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        mlp = self.t_embedder.mlp
        for weight in (self.y_embedder.embedding_table.weight, mlp[0].weight, mlp[2].weight):
            nn.init.normal_(weight, std=0.02)
        for part in (*self.blocks, self.final_layer):
            nn.init.zeros_(part.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor, hidden_after: tuple[int, ...] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Predict.

        Args:
            x: noised latents [B,C,H,W].
            t: times as the process gives them to the network [B] float.
            labels: classes [B] int64; `null_label` is the null class.
            hidden_after: blocks, counted from 1, whose hidden tokens are returned too.

        Returns:
            The prediction [B,out_channels,H,W], and for each of `hidden_after`, in ascending order,
            tokens [B,N,width].
        """
        prediction, hidden, _ = self.traced(x, t, labels, hidden_after)
        return prediction, hidden

    def traced(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        hidden_after: tuple[int, ...] = (),
        attention_of: tuple[int, ...] = (),
        gate: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:
        """As `forward`, and queries and keys [B,heads,N,width/heads] of blocks `attention_of`.

        They are in ascending order of blocks. `gate` turns hidden tokens into those for the next
        block and those that are returned.
        """
        x, c = self._embed(x, t, labels)
        hidden: list[Tensor] = []
        attention: list[tuple[Tensor, Tensor]] = []
        recomputed = self.activation_checkpointing and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks, start=1):
            if recomputed and index not in attention_of:
                x = checkpoint(block, x, c, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, c, attention if index in attention_of else None)  # (B, N, W)
            if index in hidden_after:
                x, kept = (x, x) if gate is None else gate(x)
                hidden.append(kept)
        return self._predict(x, c), hidden, attention

    def hidden(self, x: Tensor, t: Tensor, labels: Tensor, after: int) -> Tensor:
        """Hidden tokens [B,N,width] after block `after`, from 1; later blocks do not run."""
        x, c = self._embed(x, t, labels)
        for block in self.blocks[:after]:
            x = block(x, c)
        return x

    def _embed(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B,N,W], and the condition [B,1,W] after the SiLU that all adaLNs share."""
        c = F.silu(self.t_embedder(t) + self.y_embedder(labels))
        return self.x_embedder(x) + self.pos_embed, c.unsqueeze(1)

    def _predict(self, x: Tensor, c: Tensor) -> Tensor:
        """The prediction [B,out,H,W] of the last block's tokens [B,N,W]."""
        return self._unpatchify(self.final_layer(x, c))

    def _unpatchify(self, patches: Tensor) -> Tensor:
        """[B,N,p p out] to [B,out,H,W]."""
        g, p, channels = self.grid, self.patch_size, self.out_channels
        grid = patches.view(-1, g, g, p, p, channels).permute(0, 5, 1, 3, 2, 4)
        return grid.reshape(-1, channels, g * p, g * p)


def build_transformer(
    model: ModelOptions,
    latent_shape: tuple[int, ...] | list[int],
    out_channels: int,
    network: Callable[..., DiffusionTransformer] = DiffusionTransformer,
) -> DiffusionTransformer:
    """The transformer of `model` for latents of shape (C, h, w), constructed by `network`.

    Raises:
        UserError: as `network_arguments`, or the width is not divisible by 4 and by the heads.
    """
    if model.width % model.heads or model.width % 4:
        raise UserError(
            f"model {model.name}: width {model.width} must be a multiple of 4 "
            f"and of its {model.heads} heads"
        )
    return network(**network_arguments(model, latent_shape, out_channels))


def network_arguments(
    model: ModelOptions, latent_shape: tuple[int, ...] | list[int], out_channels: int
) -> dict[str, int]:
    """Keyword arguments of a network of `model`'s size, for latents of shape (C, h, w).

    Raises:
        UserError: the latents are not square or not divisible by the patch size.
    """
    channels, height, width = latent_shape
    if height != width or height % model.patch_size:
        raise UserError(
            f"model {model.name}: latents of {height}x{width} cannot be cut into patches of "
            f"{model.patch_size}; choose a resolution or patch that fits"
        )
    shared = ("patch_size", "width", "depth", "heads", "num_classes")
    sizes = {name: getattr(model, name) for name in shared}
    return {"input_size": height, "in_channels": channels, "out_channels": out_channels, **sizes}
