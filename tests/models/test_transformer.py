import json
import math
from types import SimpleNamespace

import pytest
import torch

from vrpo.config.resolved import PAPER_SIZES
from vrpo.errors import UserError
from vrpo.models.projector import Projector
from vrpo.models.transformer import build_transformer

from tests.fixtures import golden
from tests.fixtures.processes import ddpm, interpolant

PARAMETERS = json.loads((golden.FOLDER / "parameters.json").read_text())
TINY = SimpleNamespace(name="tiny", depth=2, width=32, heads=2, patch_size=2, num_classes=10)


def network(out_channels):
    return golden.fill(build_transformer(golden.MODEL, golden.LATENT, out_channels))


def test_equals_official_dit():
    values = golden.load("networks")
    with torch.no_grad():
        prediction, hidden = network(8)(values["x"], values["t_dit"].float(), golden.LABELS)
    assert hidden == []
    assert (prediction - values["dit"]).abs().max() < 1e-5


def test_equals_official_sit_whose_second_half_is_dropped():
    values = golden.load("networks")
    with torch.no_grad():
        prediction, _ = network(8)(values["x"], values["t_sit"], golden.LABELS)
    assert (prediction[:, :4] - values["sit"]).abs().max() < 1e-5


def test_equals_repa_with_its_projected_tokens():
    values = golden.load("networks")
    projector = golden.fill(Projector(48, 40, 24), prefix="projectors.0.")
    with torch.no_grad():
        prediction, (hidden,) = network(4)(
            values["x"], values["t_sit"], golden.LABELS, hidden_after=(2,)
        )
        tokens = projector(hidden)
    assert (prediction - values["repa"]).abs().max() < 1e-5
    assert (tokens - values["repa_tokens"]).abs().max() < 1e-5


@pytest.mark.parametrize("name", PARAMETERS["counts"])
def test_parameter_count_equals_the_original(name):
    size, patch = name.split("-")[-1].split("/")
    out_channels = (
        4 if name.startswith("REPA") else 8
    )  # the official SiT keeps DiT's variance channels and drops them
    model = SimpleNamespace(
        name=name, **PAPER_SIZES[size].model_dump(), patch_size=int(patch), num_classes=1000
    )
    with torch.device("meta"):
        ours = build_transformer(model, (4, 32, 32), out_channels)
    assert sum(parameter.numel() for parameter in ours.parameters()) == PARAMETERS["counts"][name]


def test_initial_weights_are_distributed_as_in_the_original():
    torch.manual_seed(1)
    model = SimpleNamespace(name="", depth=2, width=192, heads=4, patch_size=2, num_classes=300)
    check_distribution(build_transformer(model, (4, 16, 16), 8), PARAMETERS["initial_std_max_mean"])


def test_initial_projector_is_distributed_as_in_repa():
    torch.manual_seed(1)
    expected = {
        name.removeprefix("projectors.0."): value
        for name, value in PARAMETERS["projector_std_max_mean"].items()
    }
    check_distribution(Projector(192, 256, 96), expected)


def check_distribution(module, expected):
    own = dict(module.named_parameters())
    assert own.keys() == expected.keys()
    for name, (std, largest, _) in expected.items():
        values = own[name]
        if std == 0:
            assert not values.any(), name
            continue
        noise = 1 / math.sqrt(values.numel())
        assert abs(values.std().item() / std - 1) < 5 * noise, name  # both are estimates
        assert abs(values.mean().item()) < 5 * std * noise, name
        uniform = largest < 2 * std  # a uniform's largest value is sqrt(3) standard deviations
        assert (values.abs().max().item() < 1.75 * std) == uniform, name


def test_starts_at_zero_and_hidden_tokens_agree():
    net = build_transformer(TINY, (4, 8, 8), 4)
    x, t, labels = torch.randn(3, 4, 8, 8), torch.rand(3), torch.tensor([0, 9, net.null_label])
    before = set(vars(net))
    prediction, (first, second) = net(x, t, labels, hidden_after=(1, 2))
    assert set(vars(net)) == before
    assert not prediction.any()
    assert torch.equal(first, second)  # zero gates: a block starts as the identity
    golden.fill(net)
    _, (first, second) = net(x, t, labels, hidden_after=(1, 2))
    assert torch.equal(net.hidden(x, t, labels, after=1), first)
    assert torch.equal(net.hidden(x, t, labels, after=2), second)
    assert first.shape == (3, 16, 32)


def test_bfloat16_autocast_stays_close():
    net = golden.fill(build_transformer(TINY, (4, 8, 8), 4))
    x, t, labels = golden.draw(1, 3, 4, 8, 8), torch.rand(3), torch.tensor([0, 9, 10])
    with torch.no_grad():
        full = net(x, t, labels)[0]
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, t, labels)[0]
    assert (half - full).abs().max() < 0.05 * full.abs().max()


@pytest.mark.parametrize("kind", ["interpolant", "ddpm"])
def test_compiles_without_graph_break_and_without_recompilation(kind):
    process = {"interpolant": interpolant, "ddpm": ddpm}[kind]()
    net = build_transformer(TINY, (4, 8, 8), process.prediction_channels(4))

    def step(x0, noise, t, labels):
        x_t = process.corrupt(x0, noise, t)
        prediction, (hidden,) = net(x_t, process.network_time(t), labels, (1,))
        loss, error = process.losses(prediction, x0, noise, x_t, t)
        return loss.mean() + process.x0_hat(
            prediction, x_t, t
        ).mean() + hidden.mean() + 0 * process.noise_level(t).mean(), error

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            x0, noise, labels = (
                golden.draw(seed, 6, 4, 8, 8),
                golden.draw(9, 6, 4, 8, 8),
                torch.tensor([0, 1, 2, 3, 4, 10]),
            )
            t = process.sample_times(6, torch.Generator().manual_seed(seed))
            net.zero_grad()
            loss, error = compiled(x0, noise, t, labels)
            loss.backward()
            eager_loss, eager_error = step(x0, noise, t, labels)
            torch.testing.assert_close(loss, eager_loss)
            torch.testing.assert_close(error, eager_error)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="patches of 2"):
        build_transformer(TINY, (4, 7, 7), 4)
    with pytest.raises(UserError, match="patches of 2"):
        build_transformer(TINY, (4, 8, 6), 4)
    with pytest.raises(UserError, match="multiple of 4 and of its 3 heads"):
        build_transformer(SimpleNamespace(**{**vars(TINY), "heads": 3}), (4, 8, 8), 4)
