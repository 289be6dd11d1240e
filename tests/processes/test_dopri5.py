"""The adaptive sampler against SiT's integrator (tests/golden) and an exact solution."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torchdiffeq import odeint

from vrpo.processes.guidance import Guided
from vrpo.processes.samplers import sample

from tests.fixtures import golden
from tests.fixtures.processes import interpolant
from tests.fixtures.sampling import Mixed

START = golden.draw(6, 2, *golden.LATENT)


def dopri5(rtol: float = 1e-3, atol: float = 1e-6) -> SimpleNamespace:
    return SimpleNamespace(kind="ode-dopri5", steps=1, rtol=rtol, atol=atol)


def unused() -> torch.Tensor:
    raise AssertionError("an ODE needs no noise")


@pytest.mark.parametrize(("name", "rtol", "bound"), [("loose", 1e-3, 5e-3), ("tight", 1e-5, 1e-4)])
def test_images_equal_the_originals(name: str, rtol: float, bound: float) -> None:
    """To the solver's own tolerance: processors round the network differently and so take
    other steps. `loose` has a float64 state on both sides; `tight` is against SiT's float32.
    """
    process = interpolant()
    latents = sample(
        process, dopri5(rtol), Guided(Mixed(process, 4), process, golden.LABELS), START, unused
    )
    assert (latents - golden.load("dopri5")[name]).abs().max() < bound


def test_images_equal_the_originals_call_on_this_processor() -> None:
    """The call of torchdiffeq by SiT's `ode` class, made here: to 1e-6 on every processor."""
    process = interpolant()
    model = Mixed(process, 4)
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for index in range(len(START)):
        rows = slice(index, index + 1)

        def drift(t: torch.Tensor, x: torch.Tensor, rows: slice = rows) -> torch.Tensor:
            return model(x.float(), torch.ones(1) * t.float(), golden.LABELS[rows])[0].double()

        expected = odeint(
            drift, START[rows].double(), times, method="dopri5", atol=1e-6, rtol=1e-3
        )[-1]
        ours = sample(
            process,
            dopri5(),
            Guided(Mixed(process, 4), process, golden.LABELS[rows]),
            START[rows],
            unused,
        )
        assert (ours - expected).abs().max() < 1e-6


def test_an_image_depends_on_no_other() -> None:
    """Bitwise, though its neighbour needs other steps."""
    process = interpolant()
    both = sample(
        process,
        dopri5(),
        Guided(Mixed(process, 4), process, golden.LABELS, scale=1.5),
        START,
        unused,
    )
    for index in range(2):
        rows = slice(index, index + 1)
        alone = sample(
            process,
            dopri5(),
            Guided(Mixed(process, 4), process, golden.LABELS[rows], scale=1.5),
            START[rows],
            unused,
        )
        assert torch.equal(both[rows], alone)


class Exact:
    """The exact velocity for standard normal data on the linear path.

    Its flow keeps x / sqrt((1 - t)^2 + t^2).
    """

    calls = 0

    def rows(self, _: slice) -> Exact:
        return self

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        Exact.calls += 1
        return golden.gaussian_velocity(x, t.float(), "linear")


@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
def test_the_exact_solution_is_met_within_the_tolerance(rtol: float) -> None:
    Exact.calls = 0
    latents = sample(interpolant(), dopri5(rtol), Exact(), START, unused)
    torch.testing.assert_close(latents, START, rtol=0, atol=20 * rtol)
    assert Exact.calls < 200
