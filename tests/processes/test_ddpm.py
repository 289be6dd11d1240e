import pytest
import torch

from vrpo.config.processes import DDPMOptions
from vrpo.errors import UserError
from vrpo.processes.ddpm import discretised_log_likelihood
from vrpo.processes.registry import build_process, described_process

from tests.fixtures import golden
from tests.fixtures.processes import ddpm

LEVELS = torch.tensor([0, 1, 20, 400, 700, 999])
SCHEDULES = ["linear", "cosine"]


def draws():
    return (
        golden.draw(2, 6, *golden.LATENT),
        golden.draw(3, 6, *golden.LATENT),
        golden.draw(4, 6, 8, 8, 8),
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_equals_the_official_losses(schedule):
    """Half of the predictions are near the noise.

    Levels with a sharp posterior are compared where losses are small.
    """
    values, process = golden.load("losses"), ddpm(schedule, 1000)
    x0, noise, prediction = draws()
    prediction[:3, :4] = noise[:3] + 0.01 * prediction[:3, :4]
    x_t = process.corrupt(x0, noise, LEVELS)
    loss, error = process.losses(prediction, x0, noise, x_t, LEVELS)
    torch.testing.assert_close(x_t, values[f"dit_{schedule}_x"], rtol=0, atol=1e-6)
    torch.testing.assert_close(error, values[f"dit_{schedule}_mse"], rtol=1e-6, atol=0)
    torch.testing.assert_close(loss - error, values[f"dit_{schedule}_vb"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss, values[f"dit_{schedule}"], rtol=1e-6, atol=1e-8)


def test_respaced_levels_and_betas_equal_the_official_ones():
    values, process = golden.load("trajectories"), ddpm("linear", 1000)
    compared = [name for name in values if name.startswith("levels_")]
    assert len(compared) == 12
    for name in compared:
        assert process.respaced(int(name.removeprefix("levels_"))).levels == values[name].tolist()
    spaced = process.respaced(250)
    alpha_bars = torch.cumprod(1 - values["respaced_betas"], 0)
    torch.testing.assert_close(spaced.alpha_bars, alpha_bars, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        spaced.table[:, 4:7].T, values["posterior"].float(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_is_bayes_rule(schedule):
    """q(x_{t-1} | x_t, x_0) from q(x_t | x_{t-1}) and q(x_{t-1} | x_0), both Gaussian."""
    process = ddpm(schedule, 1000)
    x0, x_t, _ = (values.double() for values in draws())
    t = LEVELS[1:]
    bars, before = process.alpha_bars[t], process.alpha_bars[t - 1]
    alpha = bars / before
    precision = alpha / (1 - alpha) + 1 / (1 - before)
    view = (-1, 1, 1, 1)
    mean = (
        (alpha.sqrt() / (1 - alpha)).view(view) * x_t[1:]
        + (before.sqrt() / (1 - before)).view(view) * x0[1:]
    ) / precision.view(view)
    own_mean, own_log_variance = process.posterior(x0[1:], x_t[1:], t)
    torch.testing.assert_close(own_mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        own_log_variance.flatten().double(), -precision.log(), rtol=1e-6, atol=0
    )


def test_learned_variance_spans_posterior_to_beta():
    process = ddpm("linear", 1000)
    x0, noise, _ = draws()
    x_t = process.corrupt(x0, noise, LEVELS)
    ones = torch.ones_like(x0)
    _, low = process.posterior(x0, x_t, LEVELS)
    torch.testing.assert_close(
        process.reverse(torch.cat([noise, -ones], 1), x_t, LEVELS)[1], low.expand_as(x0)
    )
    high = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[LEVELS].log().float()
    torch.testing.assert_close(
        process.reverse(torch.cat([noise, ones], 1), x_t, LEVELS)[1][:, 0, 0, 0], high
    )


def test_perfect_prediction_gives_the_image_back_and_no_divergence():
    process = ddpm("linear", 1000)
    x0, noise, _ = draws()
    x_t = process.corrupt(x0, noise, LEVELS)
    perfect = torch.cat([noise, -torch.ones_like(noise)], 1)
    torch.testing.assert_close(process.x0_hat(perfect, x_t, LEVELS)[:4], x0[:4], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        process.x0_hat(perfect, x_t, LEVELS)[4:], x0[4:], rtol=0, atol=1e-4
    )  # sqrt(1 / alpha-bar) is 157 at the last level
    bound = process.variational_bound(perfect, x0, x_t, LEVELS)
    assert bound[1:].abs().max() < 1e-6


def test_variational_bound_does_not_train_the_mean():
    process = ddpm("linear", 1000)
    x0, noise, prediction = draws()
    prediction.requires_grad_()
    x_t = process.corrupt(x0, noise, LEVELS)
    loss, error = process.losses(prediction, x0, noise, x_t, LEVELS)
    (from_loss,) = torch.autograd.grad(loss.sum(), prediction, retain_graph=True)
    (from_error,) = torch.autograd.grad(error.sum(), prediction)
    assert torch.equal(from_loss[:, :4], from_error[:, :4])
    assert from_loss[:, 4:].any()


def test_bins_of_the_decoder_sum_to_one():
    centres = torch.linspace(-1, 1, 256).double()
    for mean, log_scale in ((0.0, -1.0), (0.7, -4.0), (-0.95, -2.0)):
        total = (
            discretised_log_likelihood(
                centres, torch.tensor(mean).double(), torch.tensor(log_scale).double()
            )
            .exp()
            .sum()
        )
        assert abs(total - 1) < 1e-6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_and_levels(schedule):
    process = ddpm(schedule, 1000)
    assert process.noise_level(torch.tensor([0, 999])).tolist() == [0.0, 1.0]
    assert process.prediction_channels(4) == 8
    assert process.network_time(LEVELS).dtype == torch.float32
    t = process.sample_times(100_000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    assert (t.min(), t.max()) == (0, 999)
    assert abs(t.float().mean() - 499.5) < 5


def test_schedule_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="20 are too few for linear betas"):
        ddpm("linear", 20)
    assert ddpm("cosine", 2).alpha_bars.min() > 0


def test_a_milestone_that_says_nothing_of_a_weighted_loss_has_the_plain_one():
    described = {"kind": "ddpm", "betas": "linear", "steps": 1000}
    for said, limit in (({}, 1.0), ({"loss_weight_limit": 20.0}, 20.0)):
        process = described_process({"process": {**described, **said}})
        assert torch.equal(
            process.table, build_process(DDPMOptions(kind="ddpm", loss_weight_limit=limit)).table
        )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weighted_loss_is_the_velocity_s_up_to_the_limit(schedule):
    """v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0.

    v_hat is the same of the network's noise and the x0_hat that follows from it.
    """
    limit = 20.0
    process = build_process(DDPMOptions(kind="ddpm", betas=schedule, loss_weight_limit=limit))
    plain = build_process(DDPMOptions(kind="ddpm", betas=schedule))
    x0, noise, prediction = draws()
    x_t = process.corrupt(x0, noise, LEVELS)
    loss, error = process.losses(prediction, x0, noise, x_t, LEVELS)
    plain_loss, plain_error = plain.losses(prediction, x0, noise, x_t, LEVELS)
    assert torch.equal(error, plain_error)  # what is reported and rewarded stays the noise's error
    bars = process.alpha_bars[LEVELS]
    signal, rest = (part[:, None, None, None] for part in (bars.sqrt(), (1 - bars).sqrt()))
    x0_hat = (x_t.double() - rest * prediction[:, :4].double()) / signal
    velocity = signal * noise - rest * x0
    velocity_hat = signal * prediction[:, :4] - rest * x0_hat
    expected = torch.where(
        1 / bars < limit,
        (velocity_hat - velocity).square().flatten(1).mean(1),
        limit * error.double(),
    )
    bound = (plain_loss - plain_error).double()
    torch.testing.assert_close(loss.double() - bound, expected, rtol=1e-5, atol=1e-6)
    assert (1 / bars < limit).sum() in (4, 5)  # both branches are tried
