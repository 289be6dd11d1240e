from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from vrpo.errors import UserError
from vrpo.models import checkpoints
from vrpo.models.checkpoints import (
    load_into,
    load_milestone,
    read_network,
    save_milestone,
    save_network,
)
from vrpo.models.projector import Projector
from vrpo.models.transformer import build_transformer

from tests.fixtures import golden
from tests.fixtures.weights import describe

DESCRIPTION = describe(depth=2, width=16, num_classes=10)


@pytest.fixture
def milestone(tmp_path):
    network = golden.fill(build_transformer(SimpleNamespace(**DESCRIPTION["model"]), (4, 8, 8), 4))
    projector = torch.nn.ModuleDict({"vit": Projector(16, 8, 4)})
    path = tmp_path / "step0000005.safetensors"
    save_milestone(
        path, dict(network.named_parameters()), dict(projector.named_parameters()), DESCRIPTION
    )
    return path, network


def test_network_round_trip_in_equal_bytes(tmp_path):
    state = {"b.weight": torch.randn(3, 2), "a": torch.arange(4), "view": torch.randn(4, 4).t()}
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_network(first, state, {"kind": "test", "scale": 0.1, "list": [1, 2]})
    save_network(
        second, dict(reversed(state.items())), {"list": [1, 2], "scale": 0.1, "kind": "test"}
    )
    assert first.read_bytes() == second.read_bytes()
    read, description = read_network(first)
    assert description == {"kind": "test", "scale": 0.1, "list": [1, 2]}
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_milestone_round_trip(milestone):
    path, network = milestone
    generator = torch.get_rng_state()
    loaded, description = load_milestone(path)
    assert torch.equal(torch.get_rng_state(), generator)
    assert description == DESCRIPTION
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    x, t, labels = torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([1, 10])
    assert torch.equal(loaded(x, t, labels)[0], network(x, t, labels)[0])
    assert {name.split(".")[0] for name in read_network(path)[0]} == {"network", "alignment"}


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_file_is_refused(milestone, keep):
    path, _ = milestone
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"step0000005.safetensors: .*truncated"):
        load_milestone(path)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_network(tmp_path / "none.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(UserError, match="not written by this pipeline"):
        read_network(foreign)
    other = tmp_path / "tokenizer.safetensors"
    save_network(other, {"a": torch.zeros(1)}, {"kind": "tokenizer"})
    with pytest.raises(UserError, match="give a milestone"):
        load_milestone(other)


def test_faults_are_named_with_both_shapes():
    module = torch.nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "extra": torch.zeros(7)}
    with pytest.raises(UserError) as error:
        load_into(module, state, "w.safetensors")
    message = str(error.value)
    assert message.startswith("w.safetensors: ")
    assert "bias [2] is missing" in message
    assert "extra [7] is not in the network" in message
    assert "weight is [2, 4], not [2, 3]" in message
    assert "\n" not in message


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(UserError, match="the disk is full"):
        save_network(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_of_a_tensor_is_noticed(milestone):
    path, _ = milestone
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"is not as it was written, so damaged or edited; run the stage"
    ):
        load_milestone(path)
