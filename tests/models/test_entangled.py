"""REG's network: the joint state of latents and class token, and the official network's numbers."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch

from vrpo.errors import UserError
from vrpo.models.backbones import build_network
from vrpo.models.entangled import EntangledTransformer, JointState
from vrpo.models.transformer import DiffusionTransformer, build_transformer

from tests.fixtures import golden

WIDTH = 24  # channels of the class token


def network(out_channels: int = 4) -> EntangledTransformer:
    return build_network(golden.MODEL, golden.LATENT, out_channels, WIDTH)


@pytest.mark.parametrize(("width", "extra"), [(1, 1), (64, 1), (65, 2), (130, 3)])
def test_packing_is_undone(width: int, extra: int) -> None:
    joint = JointState(4, 8, width)
    latents, token = golden.draw(1, 2, 4, 8, 8), golden.draw(2, 2, width)
    packed = joint.pack(latents, token)
    assert packed.shape == (2, 4 + extra, 8, 8) and joint.extra == extra
    assert torch.equal(joint.split(packed)[0], latents)
    assert torch.equal(joint.split(packed)[1], token)
    assert not packed[:, 4:].flatten(1)[:, width:].any()
    for channels in (4, 8):  # without and with a learned variance
        prediction = golden.draw(3, 2, channels, 8, 8)
        whole = joint.pack_prediction(prediction, token)
        assert whole.shape[1] == channels + extra * channels // 4
        found = joint.split_prediction(whole)
        assert torch.equal(found[0], prediction) and torch.equal(found[1], token)


def test_noised_as_latents_are() -> None:
    joint, t = JointState(4, 8, WIDTH), torch.tensor([0.25, 1.0])
    x_t, token, noise = golden.draw(1, 2, 4, 8, 8), golden.draw(2, 2, 24), golden.draw(3, 2, 24)

    def corrupt(clean: torch.Tensor, added: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return (1 - time.view(-1, 1, 1, 1)) * clean + time.view(-1, 1, 1, 1) * added

    latents, token_t = joint.split(joint.noised(x_t, token, noise, t, corrupt))
    assert torch.equal(latents, x_t)
    expected = torch.stack([0.75 * token[0] + 0.25 * noise[0], noise[1]])
    torch.testing.assert_close(token_t, expected)


def test_it_predicts_as_the_original() -> None:
    values, net = golden.load("reg"), golden.fill(network())
    state = net.joint.pack(golden.draw(5, 2, *golden.LATENT), golden.draw(6, 2, WIDTH))
    prediction, (hidden,) = net(state, torch.tensor([0.3, 0.8]), golden.LABELS, hidden_after=(2,))
    latents, token = net.joint.split_prediction(prediction)
    torch.testing.assert_close(latents, values["prediction"], rtol=0, atol=1e-5)
    torch.testing.assert_close(token, values["class_token"], rtol=0, atol=1e-5)
    assert hidden.shape == (2, 1 + 16, 48)
    with torch.no_grad():
        first = net.hidden(state, torch.tensor([0.3, 0.8]), golden.LABELS, after=2)
    torch.testing.assert_close(first, hidden)


def test_its_other_weights_are_those_of_the_plain_network() -> None:
    """Runs that differ in alignment start from the same network."""
    build = functools.partial(build_transformer, golden.MODEL, golden.LATENT, 8)
    torch.manual_seed(5)
    plain = build().state_dict()
    torch.manual_seed(5)
    own = network(8).state_dict()
    assert all(torch.equal(own[name], plain[name]) for name in plain)
    further = own.keys() - plain.keys()
    assert {name.rsplit(".", 1)[0] for name in further} == {
        "cls_projectors2",
        "wg_norm",
        "final_layer.linear_cls",
    }
    state = torch.randn(2, 5, 8, 8)
    prediction, _ = network(8).eval()(state, torch.rand(2), golden.LABELS)
    assert prediction.shape == (2, 10, 8, 8) and not prediction.any()  # both outputs begin at zero


def test_a_custom_network_takes_no_class_token() -> None:
    model = SimpleNamespace(
        **vars(golden.MODEL), backbone="tests.fixtures.golden:Network", arguments={}
    )
    with pytest.raises(UserError, match="denoises no class token, as REG needs; take a model"):
        build_network(model, golden.LATENT, 4, WIDTH)
    assert type(build_network(golden.MODEL, golden.LATENT, 4)) is DiffusionTransformer
