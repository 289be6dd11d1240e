"""Samplers: from noise to latents, given a denoiser.

A denoiser gives the prediction [B,P,h,w], guidance included, for x_t [B,C,h,w] float32 and t [B]
float64 or int64, all equal and on the CPU. Heun's second evaluation passes `began` too, the time at
which its step began: as in REPA, guidance acts on whole steps. `SAMPLERS` lists the samplers of
each process.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.processes.ddpm import DDPM
from vrpo.processes.interpolant import Interpolant
from vrpo.processes.process import Process

if TYPE_CHECKING:
    from vrpo.config.scoring import SamplerOptions

Denoiser = Callable[..., Tensor]
Noise = Callable[[], Tensor]

LAST_SDE_STEP = 0.04  # size of the SDE's last, noise-free step (SiT, appendix; REPA)


def sample(
    process: Process, options: SamplerOptions, denoiser: Denoiser, x: Tensor, noise: Noise
) -> Tensor:
    """Sample latents.

    Args:
        process: what the denoiser was trained on.
        options: `kind`, a key of `SAMPLERS`; `steps`, network evaluations (`ode-heun`: nearly two a
            step); for `ode-dopri5` `rtol` and `atol` instead.
        denoiser: see above; for `ode-dopri5` with `rows`, as `Guided` has it.
        x: standard normal start [B,C,h,w] float32.
        noise: gives the next standard normal draw [B,C,h,w]; called once per noisy step.

    Returns:
        Latents [B,C,h,w] float32.

    Raises:
        UserError: as `check_sampler`.
    """
    check_sampler(process, options)
    with torch.no_grad():
        sampler = SAMPLERS[options.kind][1]
        if options.kind == "ode-dopri5":
            sampler = functools.partial(sampler, rtol=options.rtol, atol=options.atol)
        return sampler(process, options.steps, denoiser, x, noise).float()


def check_sampler(process: Process, options: SamplerOptions) -> None:
    """Check that `options` fit the process.

    Raises:
        UserError: the sampler is for another process, or has more steps than that has levels.
    """
    owner, _ = SAMPLERS[options.kind]
    if not isinstance(process, owner):
        fitting = [name for name, (other, _) in SAMPLERS.items() if isinstance(process, other)]
        raise UserError(
            f"sampler kind: `{options.kind}` samples {owner.__name__} processes, "
            f"this one is {type(process).__name__}; use one of {', '.join(fitting)}"
        )
    if isinstance(process, DDPM) and options.steps > process.count:
        raise UserError(
            f"sampler steps: {options.steps} are more than the {process.count} noise levels of the "
            f"process; choose at most {process.count}"
        )


def ode_euler(
    process: Interpolant, steps: int, denoiser: Denoiser, x: Tensor, noise: Noise
) -> Tensor:
    """Euler's method on dx / dt = v from t = 1 to 0, state in float64 as in REPA."""
    x = x.double()
    for now, then in itertools.pairwise(torch.linspace(1, 0, steps + 1, dtype=torch.float64)):
        x = x + (then - now) * _velocity(denoiser, x, now)
    return x


def ode_heun(
    process: Interpolant, steps: int, denoiser: Denoiser, x: Tensor, noise: Noise
) -> Tensor:
    """Heun's method on dx / dt = v, with Euler's for the last step, state in float64 as in REPA."""
    x = x.double()
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for index, (now, then) in enumerate(itertools.pairwise(times)):
        slope = _velocity(denoiser, x, now)
        ahead = x + (then - now) * slope
        if index == steps - 1:
            return ahead
        x = x + (then - now) * 0.5 * (slope + _velocity(denoiser, ahead, then, began=now))
    return x


def ode_dopri5(
    process: Interpolant,
    steps: int,
    denoiser: Denoiser,
    x: Tensor,
    noise: Noise,
    *,
    rtol: float,
    atol: float,
) -> Tensor:
    """torchdiffeq's adaptive Dormand-Prince method on dx / dt = v from t = 1 to 0, SiT's default.

    State in float64; `steps` is not used. Each image is integrated alone, in a batch of one: the
    library's step control looks at the whole batch, so an image would depend on its neighbours.
    """
    from torchdiffeq import odeint

    times = torch.tensor([1.0, 0.0], dtype=torch.float64, device=x.device)
    images = []
    for index in range(len(x)):
        rows = slice(index, index + 1)
        alone = denoiser.rows(rows)

        def velocity(t: Tensor, state: Tensor, alone: Denoiser = alone) -> Tensor:
            return _velocity(alone, state, t.cpu())

        start = x[rows].double()
        states = odeint(velocity, start, times, rtol=rtol, atol=atol, method="dopri5")
        images.append(states[-1])
    return torch.cat(images)


def sde(process: Interpolant, steps: int, denoiser: Denoiser, x: Tensor, noise: Noise) -> Tensor:
    """Euler-Maruyama on the reverse SDE dx = (v - w/2 score) dt + sqrt(w) dW, w = 2 t (SiT, eq. 5).

    In REPA's schedule: times go evenly from 1 to 0.04; the last step, from there to 0, is without
    noise. State in float64.
    """
    x = x.double()
    times = torch.linspace(1, LAST_SDE_STEP, steps, dtype=torch.float64)
    for now, then in itertools.pairwise(times):
        ahead = x + (then - now) * _drift(process, denoiser, x, now)
        x = ahead + (2 * now * (now - then)).sqrt() * noise().double()
    return x - times[-1] * _drift(process, denoiser, x, times[-1])


def ddpm(process: DDPM, steps: int, denoiser: Denoiser, x: Tensor, noise: Noise) -> Tensor:
    """Ancestral sampling over evenly respaced levels with the learned variance, as in DiT.

    The estimate of x_0 is not clipped.
    """
    spaced = process.respaced(steps).to(x.device)
    for level in reversed(range(steps)):
        prediction = denoiser(x, _same(process, spaced, level, x))
        t = torch.full((len(x),), level, device=x.device)
        mean, log_variance = spaced.reverse(prediction, x, t)
        x = mean if level == 0 else mean + torch.exp(0.5 * log_variance) * noise()
    return x


def ddim(process: DDPM, steps: int, denoiser: Denoiser, x: Tensor, noise: Noise) -> Tensor:
    """Deterministic DDIM (arXiv:2010.02502, eq. 12 with eta = 0) over the levels of `ddpm`."""
    spaced = process.respaced(steps)
    alpha_bars = [1.0, *spaced.alpha_bars.tolist()]
    for level in reversed(range(steps)):
        now, then = alpha_bars[level + 1], alpha_bars[level]
        predicted = denoiser(x, _same(process, spaced, level, x))[:, : x.shape[1]]
        x0 = (x - (1 - now) ** 0.5 * predicted) / now**0.5
        x = then**0.5 * x0 + (1 - then) ** 0.5 * predicted
    return x


SAMPLERS: dict[str, tuple[type[Process], Callable[..., Tensor]]] = {
    "ode-euler": (Interpolant, ode_euler),
    "ode-heun": (Interpolant, ode_heun),
    "ode-dopri5": (Interpolant, ode_dopri5),
    "sde": (Interpolant, sde),
    "ddpm": (DDPM, ddpm),
    "ddim": (DDPM, ddim),
}


def _velocity(denoiser: Denoiser, x: Tensor, t: Tensor, **began: Tensor) -> Tensor:
    """The denoiser in float32, its velocity in float64, at the scalar time `t`."""
    return denoiser(x.float(), t.expand(len(x)), **began).double()


def _drift(process: Interpolant, denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """v - w/2 score with w = 2 t."""
    velocity = _velocity(denoiser, x, t)
    return velocity - t * process.score(velocity, x, t)


def _same(process: DDPM, spaced: DDPM, level: int, x: Tensor) -> Tensor:
    """Level `level` of the respaced chain as a level of `process` [B]."""
    return torch.full((len(x),), int(spaced.levels[level]))
