import pytest
import torch

from vrpo.models.transformer import build_transformer
from vrpo.processes.guidance import Guided
from vrpo.processes.interpolant import Interpolant

from tests.fixtures import golden
from tests.fixtures.processes import ddpm, interpolant


class Counting:
    """A network whose prediction is its label, and that counts what it is given."""

    null_label = 10

    def __init__(self, channels):
        self.channels, self.rows = channels, []

    def __call__(self, x, t, labels):
        self.rows.append(len(x))
        return labels.float()[:, None, None, None].expand(-1, self.channels, *x.shape[2:]), []


def test_equals_official_dit_on_three_channels():
    values = golden.load("networks")
    net = golden.fill(build_transformer(golden.MODEL, golden.LATENT, 8))
    process = ddpm("linear", 1000)
    for row in range(2):  # the original was given two times at once, a sampler has one
        x, t = values["x"][row : row + 1], values["t_dit"][row : row + 1]
        with torch.no_grad():
            guided = Guided(net, process, golden.LABELS[row : row + 1], 1.5, channels=3)(x, t)
        assert (guided - values["dit_guided"][row : row + 1]).abs().max() < 1e-5


@pytest.mark.parametrize(("channels", "guided"), [(None, 4), (3, 3), (1, 1)])
@pytest.mark.parametrize("process", [interpolant(), ddpm("linear", 1000)])
def test_only_the_first_channels_are_guided_and_never_the_variance(process, channels, guided):
    net = Counting(process.prediction_channels(4))
    labels = torch.tensor([2, 7])
    t = torch.full((2,), 0.5) if isinstance(process, Interpolant) else torch.full((2,), 500)
    prediction = Guided(net, process, labels, 3.0, channels=channels)(torch.zeros(2, 4, 2, 2), t)
    assert net.rows == [4]
    for row, label in enumerate((2, 7)):
        assert (prediction[row, :guided] == 10 + 3 * (label - 10)).all()
        assert (prediction[row, guided:] == label).all()


@pytest.mark.parametrize(
    ("level", "active"),
    [(0.0, False), (0.2, True), (0.5, True), (0.7, True), (0.71, False), (1.0, False)],
)
def test_interval_holds_both_its_ends_and_costs_nothing_outside(level, active):
    for process, t in (
        (interpolant(), torch.full((3,), level, dtype=torch.float64)),
        (ddpm("cosine", 101), torch.full((3,), round(100 * level))),
    ):
        net = Counting(process.prediction_channels(4))
        Guided(net, process, torch.tensor([1, 2, 3]), 1.5, (0.2, 0.7))(torch.zeros(3, 4, 2, 2), t)
        assert net.rows == [6 if active else 3]


def test_scale_one_is_no_guidance():
    net = Counting(4)
    prediction = Guided(net, interpolant(), torch.tensor([1, 2]), 1.0)(
        torch.zeros(2, 4, 2, 2), torch.full((2,), 0.5)
    )
    assert net.rows == [2]
    assert prediction[1, 0, 0, 0] == 2
