"""The interface of diffusion processes for the trainer and the samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Process(nn.Module, ABC):
    """A diffusion process; a module so that its tables move with `.to(device)`, without weights.

    Shapes: latents `x0`, `noise`, `x_t` [B,C,h,w]; times `t` [B], in the process's own unit;
    predictions [B,P,h,w] with P = `prediction_channels(C)`. Losses are computed in float32.
    """

    @abstractmethod
    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Training times [count], drawn on the CPU."""

    @abstractmethod
    def network_time(self, t: Tensor) -> Tensor:
        """The times as the network takes them [B] float."""

    @abstractmethod
    def noise_level(self, t: Tensor) -> Tensor:
        """Position of the times between clean (0) and noise (1) [B] float."""

    @abstractmethod
    def with_less_noise(self, t: Tensor, gap: Tensor) -> Tensor:
        """Times [B] whose noise level is lower by `gap` [B], at least that of clean latents."""

    @abstractmethod
    def at_level(self, level: float, count: int) -> Tensor:
        """The noise level (0 clean, 1 noise) as `count` times [B]."""

    @abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """Coefficient alpha of x_0 in x_t [B]."""

    @abstractmethod
    def steered(self, prediction: Tensor, push: Tensor, t: Tensor) -> Tensor:
        """The prediction whose score is higher by alpha `push`, with `push` [B,C,h,w]."""

    @abstractmethod
    def prediction_channels(self, latent_channels: int) -> int:
        """Channels of the network's prediction."""

    @abstractmethod
    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noised latents x_t."""

    @abstractmethod
    def error(self, prediction: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """mean (prediction - target)^2 [B] of predictions [B,C,h,w] without variance."""

    @abstractmethod
    def losses(
        self, prediction: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Per sample, what is trained [B], and the plain error mean (prediction - target)^2 [B]."""

    @abstractmethod
    def x0_hat(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean latents that the prediction implies."""


def per_sample(values: Tensor) -> Tensor:
    """[B] as [B,1,1,1], to be broadcast over latents; a scalar stays one."""
    return values[:, None, None, None] if values.dim() else values
