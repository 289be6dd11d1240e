"""Guidance by a reward's gradient, against closed forms on linear networks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from vrpo.alignment.base import cosine_similarity
from vrpo.errors import UserError
from vrpo.models.transformer import build_transformer
from vrpo.processes.guidance import Guided
from vrpo.processes.interpolant import Interpolant
from vrpo.processes.process import Process
from vrpo.processes.steering import Steered
from vrpo.sampling.network import SamplingNetwork

from tests.fixtures import golden
from tests.fixtures.processes import ddpm, interpolant

SHAPE, WIDTH = (4, 4, 4), 6
LABELS = torch.tensor([2, 7])
PROCESSES = [interpolant(), interpolant("cosine"), ddpm("linear", 1000)]


class Linear:
    """Hidden tokens and prediction are linear maps of the latent; counts its evaluations."""

    null_label = 10

    def __init__(self, process: Process) -> None:
        self.repeats = process.prediction_channels(1)
        self.hidden_map = golden.draw(1, WIDTH, 64).double() / 8
        self.evaluations, self.gradients = 0, 0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.evaluations += len(x)
        shifted = x + labels.to(x)[:, None, None, None]
        return shifted.repeat(1, self.repeats, 1, 1), []

    def with_hidden(
        self, x: Tensor, t: Tensor, labels: Tensor, depth: int
    ) -> tuple[Tensor, Tensor]:
        self.gradients += len(x)
        hidden = (x.flatten(1).double() @ self.hidden_map.T)[:, None]  # (B, 1, W)
        return self(x, t, labels)[0], hidden


class Cosine(NamedTuple):
    """The cosine with fixed targets [B,1,W]."""

    targets: Tensor
    inverse_std: float = 2.5
    depth: int = 1

    def __call__(self, hidden: Tensor) -> Tensor:
        return cosine_similarity(hidden, self.targets).mean(1)

    def unit(self, level: float) -> float:
        return self.inverse_std

    def rows(self, rows: slice) -> Cosine:
        return self._replace(targets=self.targets[rows])


def at(process: Process, level: float, count: int = 2) -> Tensor:
    """A time as samplers give it: on the CPU, in float64 or int64."""
    t = process.at_level(level, count)
    return t.double() if isinstance(process, Interpolant) else t


def gradient(net: Linear, x: Tensor, y: Tensor) -> Tensor:
    """d cos(M x, y) / dx = M^T (y - cos |y| h / |h|) / (|h| |y|), h = M x."""
    rows = []
    for latent, target in zip(x.double(), y.double(), strict=True):
        h, aim = net.hidden_map @ latent.flatten(), target.flatten()
        cosine = h @ aim / (h.norm() * aim.norm())
        slope = (aim / aim.norm() - cosine * h / h.norm()) / h.norm()
        rows.append((net.hidden_map.T @ slope).view(SHAPE))
    return torch.stack(rows)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("schedule", ["signal", "constant"])
@pytest.mark.parametrize(("channels", "free"), [(None, 1.0), (3, 1.0), (None, 1.5)])
def test_the_score_moves_by_the_rewards_gradient(
    process: Process, schedule: str, channels: int | None, free: float
) -> None:
    """The score of the noised latent is -noise / sigma, of which the prediction is a function."""
    net, x, t = Linear(process), golden.draw(3, 2, *SHAPE), at(process, 0.4)
    reward = Cosine(golden.draw(4, 2, 1, WIDTH))
    guided = Guided(net, process, LABELS, free)
    found = Steered(guided, reward, 3.0, schedule=schedule, channels=channels)(x, t)
    plain = guided(x, t)
    alpha = process.signal(t)[0].double()
    wanted = 3.0 * 2.5 * gradient(net, x, reward.targets)
    wanted = wanted * alpha if schedule == "signal" else wanted
    if channels:
        wanted[:, channels:] = 0
    if isinstance(process, Interpolant):
        change = process.score(found.double(), x, t) - process.score(plain.double(), x, t)
    else:
        assert torch.equal(found[:, 4:], plain[:, 4:]), "the variance stays"
        change = -(found - plain)[:, :4].double() / (1 - alpha**2).sqrt()
    torch.testing.assert_close(change, wanted, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("free", [1.0, 1.5])
def test_without_weight_it_is_the_plain_denoiser_to_the_bit(process: Process, free: float) -> None:
    net, x = Linear(process), golden.draw(3, 2, *SHAPE)
    guided, reward = Guided(net, process, LABELS, free), Cosine(golden.draw(4, 2, 1, WIDTH))
    without = [
        Steered(guided, reward, 0.0),
        Steered(guided, reward._replace(inverse_std=0.0), 3.0),
        Steered(guided, reward, 3.0, (0.5, 0.7)),
    ]
    for denoiser in without:
        assert torch.equal(denoiser(x, at(process, 0.4)), guided(x, at(process, 0.4)))
    assert net.gradients == 0
    assert not torch.equal(without[2](x, at(process, 0.6)), guided(x, at(process, 0.6)))
    began = at(process, 0.8)[0]  # as Heun's second evaluation of a step that began outside
    assert torch.equal(without[2](x, at(process, 0.6), began=began), guided(x, at(process, 0.6)))


@pytest.mark.parametrize("schedule", ["signal", "constant"])
def test_pure_noise_is_not_steered(schedule: str) -> None:
    """An interpolant's x_1 has nothing of the image, and `constant` would divide by zero."""
    process = interpolant()
    net, x, t = Linear(process), golden.draw(3, 2, *SHAPE), at(process, 1.0)
    reward, guided = Cosine(golden.draw(4, 2, 1, WIDTH)), Guided(Linear(process), process, LABELS)
    steered = Steered(Guided(net, process, LABELS), reward, 3.0, schedule=schedule)(x, t)
    moved = float((steered - guided(x, t)).abs().max())
    assert moved == 0 if schedule == "constant" else moved > 0
    assert process.score(steered, x, t).isfinite().all()


def test_images_do_not_depend_on_their_neighbours() -> None:
    process = interpolant()
    net, x, t = Linear(process), golden.draw(3, 2, *SHAPE), at(process, 0.4)
    denoiser = Steered(Guided(net, process, LABELS, 1.5), Cosine(golden.draw(4, 2, 1, WIDTH)), 3.0)
    alone = [denoiser.rows(slice(row, row + 1))(x[row : row + 1], t[:1]) for row in range(2)]
    torch.testing.assert_close(torch.cat(alone), denoiser(x, t))


def test_values_that_are_not_finite_end_with_the_step() -> None:
    process = interpolant()
    reward, guided = Cosine(golden.draw(4, 2, 1, WIDTH)), Guided(Linear(process), process, LABELS)
    denoiser, x = Steered(guided, reward, 1e42, (0.0, 0.5)), golden.draw(3, 2, *SHAPE)
    with pytest.raises(UserError, match=r"scale: with 1e\+42, step 3 .*noise level 0.5\)"):
        for level in (0.9, 0.7, 0.5):
            denoiser(x, at(process, level))


def test_only_blocks_up_to_the_aligned_one_run_backward() -> None:
    """Gradients equal those through the first blocks alone; later ones record nothing."""
    net = golden.fill(build_transformer(golden.MODEL, golden.LATENT, 4)).requires_grad_(False)
    backward: list[int] = []
    for number, block in enumerate(net.blocks, start=1):
        block.register_full_backward_hook(lambda *_, number=number: backward.append(number))
    x = golden.draw(5, 2, *golden.LATENT).requires_grad_(True)
    t = torch.full((2,), 0.4)
    prediction, hidden = SamplingNetwork(net).with_hidden(x, t, golden.LABELS, 2)
    assert not prediction.requires_grad
    (found,) = torch.autograd.grad(hidden.square().sum(), x)
    assert sorted(backward) == [1, 2]
    (wanted,) = torch.autograd.grad(net.hidden(x, t, golden.LABELS, 2).square().sum(), x)
    assert torch.equal(found, wanted)
    assert torch.equal(prediction, net(x, t, golden.LABELS)[0])
