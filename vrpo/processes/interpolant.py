"""SiT's stochastic interpolant with velocity prediction (arXiv:2401.08740).

Times run in REPA's direction: t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vrpo.config.processes import InterpolantOptions
from vrpo.processes.process import Process, per_sample

HALF_PI = math.pi / 2
SMALLEST_TIME = 2.0**-24  # times are inside (0, 1): 1 minus this is the largest float32 below 1


class Coefficients(NamedTuple):
    """x_t = alpha x_0 + sigma noise, and the derivatives of both with respect to t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Interpolant(Process):
    """x_t = alpha(t) x_0 + sigma(t) noise; the network predicts dx_t / dt (SiT, eqs. 1 and 3).

    On the linear path the times `logit-normal`, logit(t) ~ N(0, 1), and `lognormal`,
    log(sigma / alpha) ~ N(0, 1) as in REPA, are the same.
    """

    def __init__(self, options: InterpolantOptions) -> None:
        super().__init__()
        self.options = options
        self.linear = options.path == "linear"
        self.determinant = 1.0 if self.linear else HALF_PI
        """alpha d_sigma - sigma d_alpha, constant on both paths."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of the path at times `t`, in the shape of `t`."""
        if self.linear:
            one = torch.ones_like(t)
            return Coefficients(1 - t, t, -one, one)
        alpha, sigma = torch.cos(HALF_PI * t), torch.sin(HALF_PI * t)
        return Coefficients(alpha, sigma, -HALF_PI * sigma, HALF_PI * alpha)

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Training times [count] float32 in (0, 1), on the CPU."""
        if self.options.time == "uniform":
            t = torch.rand(count, generator=generator)
        else:
            log_ratio = torch.randn(count, generator=generator)
            logistic = self.options.time == "logit-normal" or self.linear
            t = torch.sigmoid(log_ratio) if logistic else torch.atan(log_ratio.exp()) / HALF_PI
        return t.clamp(SMALLEST_TIME, 1 - SMALLEST_TIME)

    def network_time(self, t: Tensor) -> Tensor:
        """The times themselves, float32."""
        return t.float()

    def noise_level(self, t: Tensor) -> Tensor:
        """The times themselves."""
        return t

    def with_less_noise(self, t: Tensor, gap: Tensor) -> Tensor:
        """Earlier times, above 0."""
        return (t - gap).clamp_min(SMALLEST_TIME)

    def at_level(self, level: float, count: int) -> Tensor:
        """The level itself, float32."""
        return torch.full((count,), float(level))

    def signal(self, t: Tensor) -> Tensor:
        """alpha(t)."""
        return self.coefficients(t).alpha

    def steered(self, prediction: Tensor, push: Tensor, t: Tensor) -> Tensor:
        """v - (alpha d_sigma - sigma d_alpha) sigma push: `score` solved for the velocity."""
        _, sigma, _, _ = self.coefficients(per_sample(t.to(push)))
        return prediction - self.determinant * sigma * push

    def prediction_channels(self, latent_channels: int) -> int:
        """As many as the latent has."""
        return latent_channels

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma noise."""
        alpha, sigma, _, _ = self.coefficients(per_sample(t))
        return alpha * x0 + sigma * noise

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The target d_alpha x_0 + d_sigma noise."""
        if self.linear:
            return noise - x0
        _, _, d_alpha, d_sigma = self.coefficients(per_sample(t))
        return d_alpha * x0 + d_sigma * noise

    def error(self, prediction: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the velocity [B]."""
        return (prediction.float() - self.velocity(x0, noise, t)).square().flatten(1).mean(1)

    def losses(
        self, prediction: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of the velocity [B], twice."""
        error = self.error(prediction, x0, noise, t)
        return error, error

    def x0_hat(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """(d_sigma x_t - sigma v) / (alpha d_sigma - sigma d_alpha): x_t and v solved for x_0."""
        _, sigma, _, d_sigma = self.coefficients(per_sample(t))
        return (d_sigma * x_t - sigma * prediction) / self.determinant

    def score(self, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity's score, -noise / sigma (SiT, eq. 9); `t` [B] or a scalar, above 0."""
        alpha, sigma, d_alpha, _ = self.coefficients(per_sample(t))
        return (d_alpha * x_t - alpha * velocity) / (self.determinant * sigma)
