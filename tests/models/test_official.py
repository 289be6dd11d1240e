import argparse
import pickle

import pytest
import torch

from vrpo.errors import UserError
from vrpo.models.checkpoints import load_milestone, read_network
from vrpo.models.embeddings import TimeEmbedding
from vrpo.models.official import export_checkpoint, import_checkpoint, reverse_time
from vrpo.models.projector import Projector

from tests.fixtures import golden
from tests.fixtures.weights import REPA_ALIGNMENT, official_state

VALUES = golden.load("networks")
REPA_ARGUMENTS = argparse.Namespace(
    model="SiT-XL/2",
    enc_type="dinov2-vit-b",
    encoder_depth=2,
    proj_coeff=0.5,
    path_type="linear",
    prediction="v",
    weighting="uniform",
    seed=4,
)


def repa_state():
    """A state with REPA's projector."""
    projector = golden.fill(Projector(48, 40, 24), "projectors.0.")
    return official_state(4) | {
        f"projectors.0.{name}": value for name, value in projector.state_dict().items()
    }


def imported(tmp_path, content, name="DiT-XL-2-256x256.pt", **options):
    torch.save(content, tmp_path / name)
    output = tmp_path / "imported.safetensors"
    description = import_checkpoint(tmp_path / name, output, **{"heads": 4, **options})
    network, read = load_milestone(output)
    assert read == description
    return network, description


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"ema": state},
        lambda state: {"model": {}, "ema": state, "opt": {}, "args": argparse.Namespace()},
    ],
)
def test_dit_predicts_as_the_original(tmp_path, wrap):
    network, description = imported(tmp_path, wrap(official_state(8)))
    prediction, _ = network(VALUES["x"], VALUES["t_dit"].float(), golden.LABELS)
    assert (prediction - VALUES["dit"]).abs().max() < 1e-5
    assert description["process"] == {"kind": "ddpm", "betas": "linear", "steps": 1000}
    assert description["model"] == {
        "name": "DiT-3x48/2",
        "depth": 3,
        "width": 48,
        "heads": 4,
        "patch_size": 2,
        "num_classes": 1000,
    }
    assert (description["latent_shape"], description["out_channels"], description["alignment"]) == (
        [4, 8, 8],
        8,
        {"kind": "none"},
    )
    assert description["source"]["family"] == "dit"


def test_sit_predicts_minus_the_original_at_the_reversed_time(tmp_path):
    network, description = imported(tmp_path, official_state(8), "SiT-XL-2-256.pt")
    prediction, _ = network(VALUES["x"], 1 - VALUES["t_sit"], golden.LABELS)
    assert prediction.shape == VALUES["sit"].shape
    assert (prediction + VALUES["sit"]).abs().max() < 1e-5
    assert description["process"] == {"kind": "interpolant", "path": "linear", "time": "uniform"}
    assert description["out_channels"] == 4


@pytest.mark.parametrize("legacy", [False, True])
def test_repa_predicts_as_the_original_with_its_projectors(tmp_path, legacy):
    state = repa_state()
    if legacy:
        state = {
            name.replace("blocks.2.", "decoder_blocks.0."): value for name, value in state.items()
        }
    content = {
        "model": {},
        "ema": state,
        "opt": {"state": {}},
        "args": REPA_ARGUMENTS,
        "steps": 400_000,
    }
    network, description = imported(tmp_path, content, "0400000.pt")
    prediction, _ = network(VALUES["x"], VALUES["t_sit"], golden.LABELS)
    assert (prediction - VALUES["repa"]).abs().max() < 1e-5
    assert (description["run"], description["step"], description["seed"]) == ("0400000", 400_000, 4)
    assert description["alignment"] == REPA_ALIGNMENT
    tensors, _ = read_network(tmp_path / "imported.safetensors")
    assert torch.equal(tensors["alignment.projectors.0.4.bias"], state["projectors.0.4.bias"])


@pytest.mark.parametrize("family", ["dit", "sit", "repa"])
def test_export_goes_back(tmp_path, family):
    state = repa_state() if family == "repa" else official_state(8)
    _, _ = imported(tmp_path, state, "a.pt", family=family)
    for output in ("b.pt", "c.pt"):
        assert export_checkpoint(tmp_path / "imported.safetensors", tmp_path / output) == family
    assert (tmp_path / "b.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()
    back = torch.load(tmp_path / "b.pt", weights_only=True)["ema"]
    assert back.keys() == state.keys()
    for name, value in state.items():
        if family == "sit" and name.startswith(
            "final_layer.linear"
        ):  # SiT never uses the second half of its output
            back[name], value = (
                tensor.unflatten(0, (4, 8))[:, :4] for tensor in (back[name], value)
            )
        torch.testing.assert_close(back[name], value, rtol=0, atol=1e-6 if family == "sit" else 0)


def test_reversed_time_is_exact_and_its_own_inverse():
    torch.manual_seed(0)
    embedding = TimeEmbedding(32).double()
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = embedding(1 - t)
    weight = embedding.mlp[0].weight.data.clone()
    embedding.mlp[0].weight.data = reverse_time(weight)
    torch.testing.assert_close(
        embedding(t), expected, rtol=0, atol=1e-6
    )  # the embedding's angles are float32
    torch.testing.assert_close(reverse_time(reverse_time(weight)), weight)


@pytest.mark.parametrize(
    ("name", "arguments", "family"),
    [("DiT-x.pt", {}, "dit"), ("sit-x.pt", {}, "sit"), ("0050000.pt", {"model": "SiT-B/4"}, "sit")],
)
def test_family_is_recognised(tmp_path, name, arguments, family):
    _, description = imported(
        tmp_path, {"ema": official_state(8), "args": argparse.Namespace(**arguments)}, name
    )
    assert description["source"]["family"] == family


def test_what_cannot_be_told_is_asked_for(tmp_path):
    with pytest.raises(UserError, match="say `--family dit` or `--family sit`"):
        imported(tmp_path, official_state(8), "x.pt")
    with pytest.raises(UserError, match="say `--heads`"):
        imported(tmp_path, official_state(8), heads=None)
    with pytest.raises(UserError, match="has no weights `model`, only ema"):
        imported(tmp_path, {"ema": official_state(8)}, weights="model")


def test_tensors_that_do_not_fit_are_named(tmp_path):
    state = official_state(8)
    state["blocks.1.attn.q_norm.weight"] = torch.ones(12)
    state["blocks.0.mlp.fc1.bias"] = torch.zeros(7)
    del state["blocks.2.attn.proj.bias"]
    with pytest.raises(UserError) as error:
        imported(tmp_path, state)
    for part in (
        "blocks.2.attn.proj.bias [48] is missing",
        "blocks.1.attn.q_norm.weight [12] is not",
        "blocks.0.mlp.fc1.bias is [7], not [192]",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "imported.safetensors").exists()


class Unsafe:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1)}, "is not a checkpoint of DiT, SiT or REPA"),
        ([1, 2], "holds a list"),
        (
            {"ema": {}, "args": Unsafe()},
            f"objects of type {Unsafe.__module__}.Unsafe, which could run code",
        ),
        ({**official_state(8), "pos_embed": torch.zeros(1, 16, 48)}, "learned positions"),
        ({**official_state(8), "pos_embed": torch.zeros(1, 15, 48)}, "only square grids"),
        (
            {
                "ema": official_state(8),
                "args": argparse.Namespace(model="SiT-XL/2", prediction="noise"),
            },
            "only velocities",
        ),
    ],
)
def test_foreign_content_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        imported(tmp_path, content, "SiT.pt")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100],
        lambda data: data[: len(data) // 2],
        lambda _: b"",
        lambda _: b"no checkpoint",
        lambda _: pickle.dumps(Unsafe(), protocol=2),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage):
    torch.save(official_state(8), tmp_path / "DiT.pt")
    (tmp_path / "DiT.pt").write_bytes(damage((tmp_path / "DiT.pt").read_bytes()))
    with pytest.raises(UserError, match=r"DiT.pt: "):
        import_checkpoint(tmp_path / "DiT.pt", tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="no such file"):
        import_checkpoint(tmp_path / "none.pt", tmp_path / "a.safetensors")


def test_export_to_another_process_is_refused(tmp_path):
    imported(tmp_path, official_state(8))
    with pytest.raises(UserError, match="choose dit"):
        export_checkpoint(tmp_path / "imported.safetensors", tmp_path / "a.pt", family="sit")
