"""Guidance by the gradient of a reward of the network's hidden tokens (docs/guidance.md)."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.processes.guidance import Guided, inside
from vrpo.processes.process import per_sample


class Reward(Protocol):
    """A reward of hidden tokens, for fixed images."""

    depth: int
    """Block, counted from 1, of the hidden tokens."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Rewards [B] of hidden tokens [B,N,W], with gradient."""
        ...

    def unit(self, level: float) -> float:
        """1 over the reward's unit at a noise level; 0 where it is not known."""
        ...

    def rows(self, rows: slice) -> Reward:
        """The reward of some of the images."""
        ...


class Steered:
    """A denoiser: `Guided`, with a score that is higher by `scale` times the gradient of z(x_t).

    z is the reward over its unit at the noise level. So it samples, at each noise level, the
    network's density times exp(scale z). With the schedule `signal` the scale falls with alpha,
    the coefficient of x_0 in x_t: pure noise is not steered. Gradients are taken of conditional
    hidden tokens, and only the blocks before them run backward.

    Args:
        guided: the denoiser without the reward; its network has `with_hidden`.
        reward: of the same images.
        scale: 0 is none, and costs nothing.
        interval: noise levels, both included, on which the reward acts.
        schedule: `signal` or `constant`, where pure noise is not steered either.
        channels: channels of the latent that are steered; None: all.
    """

    def __init__(
        self,
        guided: Guided,
        reward: Reward,
        scale: float,
        interval: tuple[float, float] = (0.0, 1.0),
        schedule: Literal["signal", "constant"] = "signal",
        channels: int | None = None,
    ) -> None:
        self.guided, self.reward = guided, reward
        self.scale, self.interval = scale, interval
        self.schedule, self.channels = schedule, channels
        self.step = 0

    def rows(self, rows: slice) -> Steered:
        """The denoiser of some of the images."""
        own = self.guided.rows(rows), self.reward.rows(rows)
        return Steered(*own, self.scale, self.interval, self.schedule, self.channels)

    def __call__(self, x: Tensor, t: Tensor, began: Tensor | None = None) -> Tensor:
        """As `Guided.__call__`.

        Raises:
            UserError: the prediction is not finite.
        """
        self.step += began is None
        process = self.guided.process
        level = float(process.noise_level(t[0]))
        weight = self.scale * self.reward.unit(level)
        if weight == 0 or not inside(self.interval, process, t, began):
            prediction = self.guided(x, t, began)
        else:
            prediction, gradient = self._with_gradient(x, t, began)
            prediction = process.steered(prediction, self._push(weight * gradient, t), t)
        if not torch.isfinite(prediction).all():
            raise UserError(
                f"sampler guidance.scale: with {self.scale:g}, step {self.step} of the sampling "
                f"(noise level {level:.3g}) gives values that are not finite; lower the scale"
            )
        return prediction

    def _with_gradient(self, x: Tensor, t: Tensor, began: Tensor | None) -> tuple[Tensor, Tensor]:
        """The prediction of `guided`, and the rewards' gradients [B,C,h,w]."""
        guided, depth = self.guided, self.reward.depth
        times = guided.times(x, t)
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            prediction, hidden = guided.network.with_hidden(x, times, guided.labels, depth)
            (gradient,) = torch.autograd.grad(self.reward(hidden).sum(), x)
        conditional, x = prediction.detach().float(), x.detach()
        if not guided.acts(t, began):
            return conditional, gradient
        null = torch.full_like(guided.labels, guided.network.null_label)
        unconditional = guided.network(x, times, null)[0].float()
        return guided.combined(conditional, unconditional, x.shape[1]), gradient

    def _push(self, push: Tensor, t: Tensor) -> Tensor:
        """The change of the score divided by alpha, as `Process.steered` takes it."""
        if self.channels is not None:
            kept = torch.arange(push.shape[1], device=push.device) < self.channels
            push = push * kept[:, None, None]
        if self.schedule == "signal":
            return push
        alpha = self.guided.process.signal(t).to(push)
        inverse = torch.where(alpha > 0, 1 / alpha, torch.zeros_like(alpha))
        return push * per_sample(inverse)
