"""Classifier-free guidance (arXiv:2207.12598) on an interval of noise levels (arXiv:2404.07724)."""

from __future__ import annotations

import torch
from torch import Tensor

from vrpo.models.transformer import DiffusionTransformer
from vrpo.processes.process import Process


class Guided:
    """A denoiser: called with (x_t, t), it gives the guided prediction for fixed labels.

    Prediction = unconditional + scale (conditional - unconditional) on the first `channels`
    channels. The others, and with them DDPM's variance, are the conditional ones, as in the
    official DiT.

    Args:
        network: the transformer.
        process: gives the network's times, the noise level and the guidable channels.
        labels: classes [B] int64.
        scale: guidance scale; 1 is none and costs no second evaluation.
        interval: noise levels, both included, on which guidance acts.
        channels: channels of the latent that are guided (DiT and SiT: 3); None: all (REPA).
    """

    def __init__(
        self,
        network: DiffusionTransformer,
        process: Process,
        labels: Tensor,
        scale: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        channels: int | None = None,
    ) -> None:
        self.network, self.process, self.labels = network, process, labels
        self.scale, self.interval, self.channels = scale, interval, channels
        self.both_labels = torch.cat([labels, torch.full_like(labels, network.null_label)])

    def rows(self, rows: slice) -> Guided:
        """The denoiser of some of the images."""
        return Guided(
            self.network, self.process, self.labels[rows], self.scale, self.interval, self.channels
        )

    def __call__(self, x: Tensor, t: Tensor, began: Tensor | None = None) -> Tensor:
        """Prediction [B,P,h,w] for x [B,C,h,w] at times t [B], all equal.

        `t` is on the CPU, so that reading it does not wait for a GPU. `began`, a scalar, is the
        time whose noise level is compared with the interval; None: `t`.
        """
        times = self.times(x, t)
        if not self.acts(t, began):
            return self.network(x, times, self.labels)[0].float()
        inputs = torch.cat([x, x]), torch.cat([times, times]), self.both_labels
        return self.combined(*self.network(*inputs)[0].float().chunk(2), x.shape[1])

    def times(self, x: Tensor, t: Tensor) -> Tensor:
        """The times `t` as the network takes them, beside `x`."""
        return self.process.network_time(t).to(x.device, non_blocking=True)

    def acts(self, t: Tensor, began: Tensor | None = None) -> bool:
        """Whether there is guidance at times `t`; see `__call__`."""
        return self.scale != 1 and inside(self.interval, self.process, t, began)

    def combined(self, conditional: Tensor, unconditional: Tensor, latent_channels: int) -> Tensor:
        """The guided prediction [B,P,h,w] of both, as the class says."""
        guided = latent_channels if self.channels is None else self.channels
        plain, rest = unconditional[:, :guided], conditional[:, guided:]
        prediction = plain + self.scale * (conditional[:, :guided] - plain)
        return torch.cat([prediction, rest], dim=1)


def inside(
    interval: tuple[float, float], process: Process, t: Tensor, began: Tensor | None
) -> bool:
    """Whether the noise level of times `t` [B], or of the scalar `began`, is in the interval."""
    low, high = interval
    return low <= float(process.noise_level(t[0] if began is None else began)) <= high
