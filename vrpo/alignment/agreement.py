"""The agreement of two gradients at the hidden tokens, measured and used within one backward pass (docs/method.md, "Agreement").

At h the gradient of what comes through the prediction (the denoising loss, and pathwise rewards on x0_hat) meets the alignment's. A gate there,
an identity with two outputs, receives both. Their cosine is, to first order, what moving h towards the encoder's tokens is worth to the prediction.

All that the gate's backward has to know, and all that it finds out, travels as gradients: the values it needs arrive as the gradient of a further output
whose value is 0 (`message`), and the sums it has found leave as the gradient of an input that nothing else reads (`found`). So it has no state of its own,
and is compiled as everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.alignment.advantages import SHARES, advantage_shares, group_advantages
from vrpo.alignment.diagnostics import Reduce, noise_level_bin

COLUMNS = ("one", "noise_level", "reward", "mean", "inverse_std", "ratio", "factor")
LEAST_FACTOR = 1e-4  # of an adaptive weight: nothing as a weight, and enough of a gradient to see when alignment pays again
WEIGHED = ("advantage", "advantage_abs", "weight", "clipped", *SHARES)  # what a gate that weighs finds besides the agreement, as `VRPO` logs it


@dataclass(frozen=True)
class Weighing:
    """How a rollout's alignment gradient is weighed: `beta + eta rho A`, with the agreement in the reward of A; 0 for the second where the clip holds it."""

    score: float
    eta: float
    beta: float
    clip: float
    group_size: int
    max_advantage: float

    def weigh(self, agreement: Tensor, reward: Tensor, mean: Tensor, inverse_std: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, advantages and which rollouts the clip holds, [B] each; `reward` is the weighed sum of the other standardised rewards."""
        advantages = group_advantages(reward + self.score * (agreement - mean) * inverse_std, self.group_size, self.max_advantage)
        held = torch.where(advantages > 0, ratio > 1 + self.clip, ratio < 1 - self.clip)
        return self.beta + self.eta * torch.where(held, 0.0, ratio * advantages), advantages, held


class _Gate(torch.autograd.Function):
    """h [B,N,W] -> (h for the blocks behind, h for the alignment, message [B,7] of zeros)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, found: Tensor, weighing: Weighing | None) -> tuple[Tensor, Tensor, Tensor]:
        ctx.weighing, ctx.bins = weighing, found.shape[-1]
        return hidden.view_as(hidden), hidden.view_as(hidden), hidden.new_zeros(len(hidden), len(COLUMNS), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, behind: Tensor, aligned: Tensor, message: Tensor) -> tuple[Tensor, Tensor, None]:
        one, *columns = message.unbind(dim=1)
        noise_level, reward, mean, inverse_std, ratio, factor = (column / one for column in columns)  # the loss may have been scaled, they are not
        agreement = gradient_cosine(behind, aligned)
        counted = torch.isfinite(agreement)
        agreement = torch.where(counted, agreement, 0.0)
        sums = [torch.ones_like(agreement), agreement, agreement.square()]
        if ctx.weighing is not None:
            weights, advantages, held = ctx.weighing.weigh(agreement, reward, mean, inverse_std, ratio)
            aligned = aligned * weights.to(aligned.dtype)[:, None, None]
            sums += [advantages, advantages.abs(), factor * weights, held.to(weights.dtype), *advantage_shares(advantages, ctx.weighing.max_advantage)]
        return behind + aligned, _binned(torch.where(counted, torch.stack(sums), 0.0).double(), noise_level, ctx.bins), None


def gradient_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine [B] of two gradients [B,N,W] of the same tokens, all tokens and channels of a rollout as one vector, in fp32; NaN where one of them is 0."""
    a, b = a.flatten(1).float(), b.flatten(1).float()
    a, b = a / a.abs().amax(dim=1, keepdim=True).clamp_min(1e-30), b / b.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)  # squares of gradients underflow
    return (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()


def _binned(values: Tensor, noise_level: Tensor, bins: int) -> Tensor:
    """Sums [R,bins] of values [R,B] in bins over their noise level [B]."""
    index = noise_level_bin(noise_level, bins)
    return values.new_zeros(len(values), bins).scatter_add(1, index.expand(len(values), -1), values)


class Gate:
    """One forward pass's gate: called with the hidden tokens where the alignment takes them."""

    def __init__(self, found: Tensor, weighing: Weighing | None) -> None:
        self.found, self.weighing = found, weighing
        self.message: Tensor | None = None

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden tokens for the blocks behind, and for the alignment."""
        behind, aligned, self.message = _Gate.apply(hidden, self.found, self.weighing)
        return behind, aligned

    def tell(self, **columns: Tensor) -> Tensor:
        """A loss of value 0, a scalar, that brings `columns` [B] to the gate's backward; must be part of what is differentiated, once."""
        assert self.message is not None, "the network did not call its gate"
        zero, one = torch.zeros_like(self.message[:, 0]), torch.ones_like(self.message[:, 0])
        values = [one if name == "one" else columns[name].detach().float() if name in columns else zero for name in COLUMNS]
        return (self.message * torch.stack(values, dim=1)).sum()


class Agreement(nn.Module):
    """The gate's sums over micro-batches and ranks, and the factor that an `adaptive` schedule takes from them."""

    def __init__(self, bins: int, decay: float = 0.99, weighing: Weighing | None = None) -> None:
        """`bins` over the noise level; `decay` per step of the running agreement; `weighing`, where the agreement is a reward."""
        super().__init__()
        self.weighing, self.decay = weighing, decay
        rows = 3 if weighing is None else 3 + len(WEIGHED)
        self.found = torch.zeros(rows, bins, dtype=torch.float64, requires_grad=True)
        self.register_buffer("running", torch.zeros(2, bins, dtype=torch.float64))  # counts and sums of agreements, exponential moving
        self.register_buffer("known", torch.zeros((), dtype=torch.float64))  # weight of all steps in them, at most 1
        self.register_buffer("highest", torch.zeros((), dtype=torch.float64))

    def _apply(self, fn: Any, recurse: bool = True) -> Agreement:
        super()._apply(fn, recurse)
        self.found = torch.zeros(self.found.shape, dtype=torch.float64, device=self.running.device, requires_grad=True)
        return self

    def gate(self) -> Gate:
        """A gate for one forward pass."""
        return Gate(self.found, self.weighing)

    def finish_step(self, all_reduce: Reduce, valid: Tensor) -> Tensor:
        """Counts, sums and sums of squares [3,bins] of the present step's agreement over all ranks, and sums of `WEIGHED`; 0 for a skipped one."""
        own = torch.zeros_like(self.found) if self.found.grad is None else self.found.grad
        sums = torch.where(valid, all_reduce(own.detach().clone()), 0.0)
        self.found.grad = None
        seen = sums[0].sum() > 0
        self.running.copy_(torch.where(seen, self.decay * self.running + (1 - self.decay) * sums[:2], self.running))
        self.known.copy_(torch.where(seen, self.decay * self.known + (1 - self.decay), self.known))
        self.highest.copy_(torch.where(self._settled(), torch.maximum(self.highest, self._means().max()), self.highest))
        return sums

    def factor(self, noise_level: Tensor) -> Tensor:
        """Running agreement at each noise level [B] over the highest so far at any, in [`LEAST_FACTOR`, 1], float32.

        1 until half of the running mean's weight is there, and at noise levels that were never seen.
        """
        share = (self._means() / self.highest.clamp_min(1e-12)).clamp(LEAST_FACTOR, 1)
        return torch.where(self._settled() & (self.running[0] > 0), share, 1.0).float()[noise_level_bin(noise_level, len(share))]

    def _settled(self) -> Tensor:
        return self.known > 0.5

    def _means(self) -> Tensor:
        return self.running[1] / self.running[0].clamp_min(1e-12)
