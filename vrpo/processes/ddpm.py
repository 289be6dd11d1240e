"""DiT's process: DDPM with epsilon prediction, learned range variance and the hybrid loss.

Ho et al. 2020 (DDPM), Nichol and Dhariwal 2021 (IDDPM, arXiv:2102.09672), with the defaults of the
official DiT (arXiv:2212.09748).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vrpo.config.processes import DDPMOptions
from vrpo.errors import UserError
from vrpo.processes.process import Process, per_sample

MAX_BETA = 0.999
DATA_EDGE = 0.999  # beyond it the decoder's first and last bin take all that is left
SMALLEST_PROBABILITY = 1e-12


class DDPM(Process):
    """A chain of noise levels 0 (least noise) to T - 1; times `t` are levels [B] int64.

    Args:
        options: with the named schedule of betas and the limit of the loss's weight (`losses`).
        betas: variance of each level's step [T] float64, inside (0, 1); None: as named.
        levels: the levels of another chain that this one was respaced from [T]; None: its own.

    Raises:
        UserError: as `named_betas`.
    """

    table: Tensor

    def __init__(
        self, options: DDPMOptions, betas: Tensor | None = None, levels: list[int] | None = None
    ) -> None:
        super().__init__()
        self.options = options
        betas = named_betas(options) if betas is None else betas
        self.count = len(betas)
        self.levels = levels if levels is not None else list(range(self.count))
        self.alpha_bars = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bars[:-1]])
        rest = 1 - self.alpha_bars
        log_variance = betas.log()  # of the posterior; at level 0 that of level 1, as its own is 0
        if self.count > 1:
            variance = betas * (1 - before) / rest
            log_variance = torch.cat([variance[1:2], variance[1:]]).log()
        columns = (
            self.alpha_bars.sqrt(),  # x_t = 0 x_0 + 1 noise
            rest.sqrt(),
            (1 / self.alpha_bars).sqrt(),  # x_0 = 2 x_t - 3 noise
            (1 / self.alpha_bars - 1).sqrt(),
            betas * before.sqrt() / rest,  # posterior mean = 4 x_0 + 5 x_t
            (1 - before) * (1 - betas).sqrt() / rest,
            log_variance,  # range of the log variance: 6 to 7
            betas.log(),
            (1 / self.alpha_bars).clamp(max=options.loss_weight_limit),  # of the noise's error
        )
        self.register_buffer("table", torch.stack(columns, dim=1).float(), persistent=False)

    def respaced(self, steps: int) -> DDPM:
        """The chain over `steps` of the levels, evenly spread; betas keep the alpha-bars."""
        stride = (self.count - 1) / (steps - 1) if steps > 1 else 1.0
        position, levels = 0.0, []
        for _ in range(steps):
            levels.append(round(position))
            position += stride  # summed, not multiplied: ties must round as in the official code
        alpha_bars = self.alpha_bars[levels]
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
        return DDPM(self.options, 1 - alpha_bars / before, levels)

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Training levels [count] int64, uniform, on the CPU."""
        return torch.randint(self.count, (count,), generator=generator)

    def network_time(self, t: Tensor) -> Tensor:
        """The levels' numbers, float32."""
        return t.float()

    def noise_level(self, t: Tensor) -> Tensor:
        """t / (T - 1), so that training levels are uniform on [0, 1]."""
        return t.float() / (self.count - 1)

    def with_less_noise(self, t: Tensor, gap: Tensor) -> Tensor:
        """Levels lower by `gap` of all levels, rounded down, at least 0."""
        return (t - (gap * self.count).long()).clamp_min(0)

    def at_level(self, level: float, count: int) -> Tensor:
        """The nearest level, int64."""
        return torch.full((count,), round(level * (self.count - 1)))

    def signal(self, t: Tensor) -> Tensor:
        """sqrt(alpha_bar)."""
        return self._rows(t)[0].flatten()

    def steered(self, prediction: Tensor, push: Tensor, t: Tensor) -> Tensor:
        """noise_hat - sqrt(1 - alpha_bar) alpha push, as score = -noise / sqrt(1 - alpha_bar).

        The variance stays as it is.
        """
        row, channels = self._rows(t.to(push.device)), push.shape[1]
        noise = prediction[:, :channels] - row[1] * row[0] * push
        return torch.cat([noise, prediction[:, channels:]], dim=1)

    def prediction_channels(self, latent_channels: int) -> int:
        """Noise, and as many channels for the variance."""
        return 2 * latent_channels

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise."""
        row = self._rows(t)
        return row[0] * x0 + row[1] * noise

    def x0_hat(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """(x_t - sqrt(1 - alpha_bar) noise_hat) / sqrt(alpha_bar)."""
        row = self._rows(t)
        return row[2] * x_t - row[3] * prediction[:, : x_t.shape[1]]

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B,C,h,w] and log variance [B,1,1,1] of q(x_{t-1} | x_t, x_0) (DDPM, eqs. 6, 7)."""
        row = self._rows(t)
        return row[4] * x0 + row[5] * x_t, row[6]

    def reverse(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B,C,h,w] of the learned p(x_{t-1} | x_t).

        The variance is between the posterior's and beta (IDDPM, eq. 15).
        """
        row = self._rows(t)
        noise, position = prediction.chunk(2, dim=1)
        x0 = row[2] * x_t - row[3] * noise
        fraction = (position + 1) / 2
        return row[4] * x0 + row[5] * x_t, fraction * row[7] + (1 - fraction) * row[6]

    def error(self, prediction: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the noise [B]."""
        return (prediction.float() - noise).square().flatten(1).mean(1)

    def losses(
        self, prediction: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hybrid loss [B] and the error of the noise [B].

        The loss is that error, plus the variational bound in bits per dimension, which trains the
        variance alone. In it the error is weighted by min(1 / alpha_bar,
        `options.loss_weight_limit`). The velocity's error is the noise's over alpha_bar (Salimans
        and Ho, arXiv:2202.00512), so below the limit this is the loss of a network that predicts
        the velocity; with the limit 1 it is DiT's.
        """
        predicted, position = prediction.float().chunk(2, dim=1)
        error = self.error(predicted, x0, noise, t)
        weighted = self._rows(t)[8].flatten() * error
        frozen = torch.cat([predicted.detach(), position], dim=1)
        return weighted + self.variational_bound(frozen, x0, x_t, t), error

    def variational_bound(self, prediction: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """One term of the bound [B] in bits per dimension.

        The KL of posterior to prediction; at level 0 the decoder's negative log-likelihood.
        """
        true_mean, true_log_variance = self.posterior(x0, x_t, t)
        mean, log_variance = self.reverse(prediction, x_t, t)
        gap = log_variance - true_log_variance
        distance = (true_mean - mean).square() * torch.exp(-log_variance)
        kl = 0.5 * (gap - 1 + torch.exp(-gap) + distance)
        decoder = -discretised_log_likelihood(x0, mean, 0.5 * log_variance)
        nats = torch.where(per_sample(t) == 0, decoder, kl)
        return nats.flatten(1).mean(1) / math.log(2)

    def _rows(self, t: Tensor) -> tuple[Tensor, ...]:
        """The columns of the table at levels `t`, each [B,1,1,1]."""
        return self.table.to(t.device)[t][:, :, None, None, None].unbind(1)


def named_betas(options: DDPMOptions) -> Tensor:
    """`options.betas` [T] float64: `linear` from 0.0001 to 0.02, scaled by 1000 / steps; `cosine`.

    The latter after IDDPM (eq. 17).

    Raises:
        UserError: too few steps for the linear schedule, whose last beta is 20 / steps.
    """
    steps = options.steps
    if options.betas == "linear":
        if steps <= 20:
            raise UserError(
                f"process steps: {steps} are too few for linear betas, which would reach "
                f"{20 / steps:g}; choose more than 20, or cosine betas"
            )
        return torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    levels = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    squared = torch.cos((levels + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - squared[1:] / squared[:-1]).clamp(max=MAX_BETA)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of the 256-level bin of [-1, 1] around `x` under a Gaussian (DDPM, eq. 13).

    In nats, in the shape of `x`.
    """
    inverse = torch.exp(-log_scale)
    below_upper = _normal_cdf(inverse * (x - mean + 1 / 255))
    below_lower = _normal_cdf(inverse * (x - mean - 1 / 255))
    inside = torch.where(x > DATA_EDGE, 1 - below_lower, below_upper - below_lower)
    return torch.where(x < -DATA_EDGE, below_upper, inside).clamp(min=SMALLEST_PROBABILITY).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The official code's tanh approximation of the standard normal distribution function."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
