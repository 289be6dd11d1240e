"""Agreement of two gradients at the hidden tokens, measured in the one backward pass.

At h the gradient of what comes through the prediction (the denoising loss, and pathwise rewards on
x0_hat) meets the alignment's. A gate there, an identity with two outputs, receives both. Their
cosine is, to first order, what moving h towards the encoder's tokens is worth to the prediction
(docs/method.md, "Agreement"). The sums that the gate finds leave as the gradient of an input that
nothing else reads (`found`), so it has no state of its own and compiles as everything else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vrpo.alignment.diagnostics import Reduce, noise_level_bin


class _Gate(torch.autograd.Function):
    """h [B,N,W] -> (h for the blocks behind, h for the alignment)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, found: Tensor, noise_level: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(noise_level)
        ctx.bins = found.shape[-1]
        return hidden.view_as(hidden), hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, behind: Tensor, aligned: Tensor) -> tuple[Tensor, Tensor, None]:
        (noise_level,) = ctx.saved_tensors
        agreement = gradient_cosine(behind, aligned)  # (B)
        counted = torch.isfinite(agreement)
        values = torch.stack([torch.ones_like(agreement), agreement])  # (2, B)
        values = torch.where(counted, values, 0.0).double()
        index = noise_level_bin(noise_level, ctx.bins).expand(2, -1)
        sums = values.new_zeros(2, ctx.bins).scatter_add(1, index, values)
        return behind + aligned, sums, None


def gradient_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine [B] of two gradients [B,N,W] of the same tokens, in fp32; NaN where one of them is 0.

    All tokens and channels of a rollout are one vector.
    """
    a, b = (_scaled(gradient.flatten(1).float()) for gradient in (a, b))
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()


def _scaled(a: Tensor) -> Tensor:
    """`a` over its greatest value: squares of gradients underflow."""
    return a / a.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)


class Agreement(nn.Module):
    """Sums of the agreement over the micro-batches of a step, in bins over the noise level."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.found = torch.zeros(2, bins, dtype=torch.float64, requires_grad=True)

    def _apply(self, fn: Any, recurse: bool = True) -> Agreement:
        super()._apply(fn, recurse)
        self.found = fn(self.found.detach()).double().requires_grad_()
        return self

    def forward(self, hidden: Tensor, noise_level: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden tokens [B,N,W] for the blocks behind, and for the alignment."""
        return _Gate.apply(hidden, self.found, noise_level)

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> Tensor:
        """Counts and sums [2,bins] of the present step over all ranks; 0 for a skipped one."""
        own = torch.zeros_like(self.found) if self.found.grad is None else self.found.grad
        self.found.grad = None
        return torch.where(valid, all_reduce(own.detach().clone()), 0.0)
