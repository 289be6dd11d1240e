from types import SimpleNamespace

import pytest
import torch

from vrpo.config.scoring import SAMPLER_PROCESS
from vrpo.errors import UserError
from vrpo.processes.ddpm import DDPM
from vrpo.processes.guidance import Guided
from vrpo.processes.interpolant import Interpolant
from vrpo.processes.samplers import SAMPLERS, sample

from tests.fixtures import golden
from tests.fixtures.processes import ddpm, interpolant
from tests.fixtures.sampling import Mixed

REPA = {
    "euler": ("ode-euler", 250, {}),
    "euler_guided": ("ode-euler", 40, {"scale": 1.8, "interval": (0.1, 0.7)}),
    "heun": ("ode-heun", 250, {}),
    "heun_guided": ("ode-heun", 40, {"scale": 1.8, "interval": (0.0, 0.7)}),
    "sde": ("sde", 250, {}),
    "sde_guided": ("sde", 250, {"scale": 1.8, "interval": (0.0, 0.7)}),
    "sde_cosine": ("sde", 250, {}),
}
DIT = {
    "ddpm": ("ddpm", 250, {}),
    "ddpm_guided": ("ddpm", 50, {"scale": 1.5, "channels": 3}),
    "ddim": ("ddim", 50, {}),
    "ddim_guided": ("ddim", 50, {"scale": 1.5, "channels": 3}),
}


@pytest.mark.parametrize("name", [*REPA, *DIT])
def test_trajectory_equals_the_original(name):
    values = golden.load("trajectories")
    kind, steps, guidance = (REPA | DIT)[name]
    process = (
        interpolant("cosine" if "cosine" in name else "linear")
        if name in REPA
        else ddpm("linear", 1000)
    )
    net = Mixed(process, process.prediction_channels(4))
    noise = golden.Draws(7, 2, *golden.LATENT)
    latents = sample(
        process,
        SimpleNamespace(kind=kind, steps=steps),
        Guided(net, process, golden.LABELS, **guidance),
        golden.draw(6, 2, *golden.LATENT),
        noise,
    )
    every = 50 if steps == 250 else 10
    states = torch.stack(net.states[::every])
    assert latents.dtype == torch.float32
    assert (states - values[f"{name}_states"]).abs().max() < 1e-4
    assert (latents - values[name]).abs().max() < 1e-4


def gaussian(process, mean, std):
    """The exact denoiser of data N(mean, std^2)."""

    def denoiser(x, t, began=None):
        if isinstance(process, Interpolant):
            alpha, sigma, d_alpha, d_sigma = (float(value) for value in process.coefficients(t[0]))
        else:
            alpha, sigma = (
                float(process.alpha_bars[t[0]].sqrt()),
                float((1 - process.alpha_bars[t[0]]).sqrt()),
            )
        variance = alpha**2 * std**2 + sigma**2
        x0 = mean + alpha * std**2 / variance * (x - alpha * mean)
        noise = sigma / variance * (x - alpha * mean)
        return (
            d_alpha * x0 + d_sigma * noise
            if isinstance(process, Interpolant)
            else torch.cat([noise, torch.full_like(noise, -1.0)], dim=1)
        )

    return denoiser


def errors(process, kind, steps_list, mean=0.3, std=0.5):
    x = golden.draw(1, 4, *golden.LATENT)
    exact = mean + std * x
    run = [
        sample(
            process,
            SimpleNamespace(kind=kind, steps=steps),
            gaussian(process, mean, std),
            x,
            golden.Draws(1, 1),
        )
        for steps in steps_list
    ]
    return [float((latents - exact).abs().max()) for latents in run]


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("kind", "order"), [("ode-euler", 1), ("ode-heun", 2)])
def test_ode_converges_to_the_exact_solution_at_its_order(path, kind, order):
    """Data N(m, s^2): the flow maps x to m + s x."""
    coarse, fine = errors(interpolant(path), kind, [50, 100])
    assert fine < (0.05 if order == 1 else 2e-3)
    assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_ddim_converges_to_the_exact_solution():
    """The chain starts at alpha-bar 4e-5, not at 0, hence the small rest."""
    coarse, fine = errors(ddpm("linear", 1000), "ddim", [100, 1000])
    assert fine < 0.01 < coarse


@pytest.mark.parametrize(
    ("process", "kind"),
    [
        (interpolant("linear"), "sde"),
        (interpolant("cosine"), "sde"),
        (ddpm("linear", 1000), "ddpm"),
    ],
)
def test_stochastic_samplers_give_the_data_distribution(process, kind):
    mean, std = 0.3, 0.5
    generator = torch.Generator().manual_seed(0)
    shape = (64, 4, 16, 16)

    def draws():
        return torch.randn(shape, generator=generator)

    latents = sample(
        process, SimpleNamespace(kind=kind, steps=250), gaussian(process, mean, std), draws(), draws
    )
    assert latents.mean() == pytest.approx(mean, abs=0.01)
    assert latents.std() == pytest.approx(std, rel=0.03)


def test_table_of_samplers_is_the_configs():
    names = {"interpolant": Interpolant, "ddpm": DDPM}
    assert {kind: owner for kind, (owner, _) in SAMPLERS.items()} == {
        kind: names[owner] for kind, owner in SAMPLER_PROCESS.items()
    }


@pytest.mark.parametrize(
    ("process", "kind", "steps", "message"),
    [
        (interpolant(), "ddpm", 10, "use one of ode-euler, ode-heun, ode-dopri5, sde"),
        (ddpm("linear", 1000), "sde", 10, "use one of ddpm, ddim"),
        (ddpm("linear", 100), "ddim", 101, "choose at most 100"),
    ],
)
def test_sampler_that_does_not_fit_is_refused(process, kind, steps, message):
    with pytest.raises(UserError, match=message):
        sample(
            process, SimpleNamespace(kind=kind, steps=steps), None, torch.zeros(1, 4, 2, 2), None
        )


@pytest.mark.parametrize(
    "kind", [kind for kind in SAMPLERS if kind != "ode-dopri5"]
)  # which chooses its own steps: test_dopri5
def test_one_step_is_possible(kind):
    process = interpolant() if SAMPLER_PROCESS[kind] == "interpolant" else ddpm("linear", 1000)
    x = golden.draw(1, 2, 4, 2, 2)
    latents = sample(
        process,
        SimpleNamespace(kind=kind, steps=1),
        gaussian(process, 0.3, 0.5),
        x,
        golden.Draws(1, 2, 4, 2, 2),
    )
    assert latents.isfinite().all()
