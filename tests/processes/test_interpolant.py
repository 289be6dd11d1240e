import math

import pytest
import torch

from tests.fixtures import golden
from tests.fixtures.processes import interpolant

TIMES = torch.tensor([1e-3, 0.1, 0.37, 0.5, 0.82, 0.999])
PATHS = ["linear", "cosine"]


def draws(count=len(TIMES)):
    return golden.draw(1, count, 4, 8, 8), golden.draw(2, count, 4, 8, 8)


@pytest.mark.parametrize("path", PATHS)
def test_equals_repas_loss(path):
    values = golden.load("losses")
    process = interpolant(path)
    x0, noise, prediction = (
        golden.draw(2, 6, *golden.LATENT),
        golden.draw(3, 6, *golden.LATENT),
        golden.draw(4, 6, 8, 8, 8)[:, :4],
    )
    x_t = process.corrupt(x0, noise, values["times"])
    loss, error = process.losses(prediction, x0, noise, x_t, values["times"])
    torch.testing.assert_close(x_t, values[f"repa_{path}_uniform_x"], rtol=0, atol=1e-6)
    torch.testing.assert_close(loss, values[f"repa_{path}_uniform"], rtol=1e-6, atol=0)
    assert torch.equal(loss, error)


@pytest.mark.parametrize("path", PATHS)
def test_lognormal_times_equal_repas(path, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda count, generator: golden.draw(5, count))
    times = interpolant(path, "lognormal").sample_times(6, torch.Generator())
    torch.testing.assert_close(
        times, golden.load("losses")[f"repa_{path}_lognormal_t"], rtol=1e-6, atol=0
    )


def test_equals_sits_loss_with_time_reversed():
    """SiT's own code has data at t = 1: its velocity is minus ours at 1 - t."""
    values = golden.load("losses")
    process, t = interpolant(), 1 - values["times"]
    x0, noise, prediction = (
        golden.draw(2, 6, *golden.LATENT),
        golden.draw(3, 6, *golden.LATENT),
        golden.draw(4, 6, 8, 8, 8)[:, :4],
    )
    loss, _ = process.losses(-prediction, x0, noise, process.corrupt(x0, noise, t), t)
    torch.testing.assert_close(loss, values["sit_linear"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", PATHS)
def test_perfect_prediction_gives_the_image_back(path):
    process = interpolant(path)
    x0, noise = draws()
    x_t = process.corrupt(x0, noise, TIMES)
    velocity = process.velocity(x0, noise, TIMES)
    torch.testing.assert_close(process.x0_hat(velocity, x_t, TIMES), x0, rtol=0, atol=2e-6)
    sigma = process.coefficients(TIMES).sigma[:, None, None, None]
    torch.testing.assert_close(
        process.score(velocity, x_t, TIMES) * sigma, -noise, rtol=0, atol=1e-3
    )  # sigma is 1e-3 at the least
    loss, _ = process.losses(velocity, x0, noise, x_t, TIMES)
    assert not loss.any()


@pytest.mark.parametrize("path", PATHS)
def test_velocity_is_the_derivative_of_the_path(path):
    process = interpolant(path)
    x0, noise = (values.double() for values in draws())
    t, step = TIMES.double(), 1e-6
    slope = (process.corrupt(x0, noise, t + step) - process.corrupt(x0, noise, t - step)) / (
        2 * step
    )
    torch.testing.assert_close(process.velocity(x0, noise, t), slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
def test_velocity_of_gaussian_data_is_what_regression_finds(path):
    """Data N(0, s^2): E[v | x] = (alpha alpha' s^2 + sigma sigma') / (alpha^2 s^2 + sigma^2) x."""
    process, s, count = interpolant(path), 0.5, 400_000
    generator = torch.Generator().manual_seed(0)
    x0, noise = (
        s * torch.randn(1, 1, 1, count, generator=generator),
        torch.randn(1, 1, 1, count, generator=generator),
    )
    for t in TIMES[1:5, None]:
        alpha, sigma, d_alpha, d_sigma = (float(value) for value in process.coefficients(t))
        x_t, velocity = process.corrupt(x0, noise, t), process.velocity(x0, noise, t)
        found = (x_t * velocity).mean() / x_t.square().mean()
        exact = (alpha * d_alpha * s**2 + sigma * d_sigma) / (alpha**2 * s**2 + sigma**2)
        assert abs(found - exact) < 5 * velocity.std() / x_t.std() / math.sqrt(count)


@pytest.mark.parametrize("path", PATHS)
def test_noise_level_is_the_time(path):
    process = interpolant(path)
    assert torch.equal(process.noise_level(TIMES), TIMES)
    assert torch.equal(process.network_time(TIMES), TIMES)
    assert process.prediction_channels(4) == 4


@pytest.mark.parametrize("time", ["uniform", "logit-normal", "lognormal"])
@pytest.mark.parametrize("path", PATHS)
def test_distribution_of_times(path, time):
    process = interpolant(path, time)
    t = process.sample_times(100_000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float32
    assert t.min() > 0
    assert t.max() < 1
    if time == "uniform":
        assert abs(t.mean() - 0.5) < 0.005
        assert abs(t.var() - 1 / 12) < 0.001
    else:
        alpha, sigma, _, _ = process.coefficients(t)
        normal = torch.logit(t) if time == "logit-normal" else torch.log(sigma / alpha)
        assert abs(normal.mean()) < 0.02
        assert abs(normal.std() - 1) < 0.02
    assert torch.equal(t, process.sample_times(100_000, torch.Generator().manual_seed(0)))
