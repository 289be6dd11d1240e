"""Weights with NaN or infinite values are refused by every loader.

So is a file that only looks like a file of weights.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vrpo.config.networks import NetworkOptions, TokenizerOptions
from vrpo.config.scoring import EvaluationOptions
from vrpo.errors import UserError
from vrpo.metrics.networks.loading import load_network
from vrpo.models.checkpoints import load_milestone, save_network
from vrpo.models.critic import LatentCritic, load_critic
from vrpo.models.encoder import load_encoder
from vrpo.models.official import export_checkpoint, import_checkpoint
from vrpo.models.timm_networks import create_network
from vrpo.models.tokenizer import build_vae, load_tokenizer, vae_arguments
from vrpo.models.weights import is_finite, read_weights

from tests.fixtures.metrics import OPTIONS, write_inception
from tests.fixtures.sampling import write_milestone
from tests.fixtures.weights import (
    CRITIC,
    ENCODER,
    TOKENIZER,
    State,
    classifier_description,
    official_state,
)

Spoil = Callable[[State], object]


def saved_milestone(folder: Path, spoil: Spoil) -> Path:
    path = write_milestone(folder / "step0000007.safetensors", "sit")
    content, metadata = read_weights(path, "")
    spoil(content)
    save_file(dict(content), path, dict(metadata))
    return path


def milestone(folder: Path, spoil: Spoil) -> None:
    load_milestone(saved_milestone(folder, spoil))


def exported(folder: Path, spoil: Spoil) -> None:
    export_checkpoint(saved_milestone(folder, spoil), folder / "out.pt")


def trained_tokenizer(folder: Path, spoil: Spoil) -> None:
    arguments = vae_arguments(TOKENIZER, 16)
    state = build_vae(arguments).state_dict()
    spoil(state)
    save_network(
        folder / "tokenizer.safetensors",
        state,
        {"kind": "tokenizer", "arguments": arguments, "scale": 1.0},
    )
    load_tokenizer(TOKENIZER, folder / "tokenizer.safetensors", "cpu")


def pretrained_tokenizer(folder: Path, spoil: Spoil) -> None:
    vae = build_vae(vae_arguments(TOKENIZER, 16))
    spoil(vae.state_dict())
    vae.save_pretrained(folder / "vae")
    load_tokenizer(TokenizerOptions(weights=str(folder / "vae")), None, "cpu")


def classifier(folder: Path, spoil: Spoil) -> Path:
    state = create_network(ENCODER, 10).state_dict()
    spoil(state)
    save_network(folder / "classifier.safetensors", state, classifier_description(10))
    return folder / "classifier.safetensors"


def trained_encoder(folder: Path, spoil: Spoil) -> None:
    load_encoder(ENCODER, classifier(folder, spoil), "cpu")


def evaluation_network(folder: Path, spoil: Spoil) -> None:
    trained = NetworkOptions(**ENCODER.model_dump(include=set(NetworkOptions.model_fields)))
    load_network(OPTIONS.model_copy(update={"trained": trained}), classifier(folder, spoil), "cpu")


def local_encoder(folder: Path, spoil: Spoil) -> None:
    state = create_network(ENCODER, 10).state_dict()
    spoil(state)
    save_file(state, folder / "model.safetensors")
    load_encoder(
        ENCODER.model_copy(update={"weights": str(folder / "model.safetensors")}), None, "cpu"
    )


def critic(folder: Path, spoil: Spoil) -> None:
    state = LatentCritic((4, 8, 8), (16, 6), 8, 1).state_dict()
    spoil(state)
    save_network(folder / "critic.safetensors", state, CRITIC)
    load_critic(folder / "critic.safetensors", "cpu")


def imported(folder: Path, spoil: Spoil) -> None:
    state = official_state(8)
    spoil(state)
    torch.save({"ema": state}, folder / "DiT.pt")
    import_checkpoint(folder / "DiT.pt", folder / "out.safetensors", heads=4)


def inception(folder: Path, spoil: Spoil) -> None:
    state = torch.load(write_inception(folder / "inception.pth"), weights_only=True)
    spoil(state)
    torch.save(state, folder / "inception.pth")
    load_network(EvaluationOptions(network="inception"), folder / "inception.pth", "cpu")


LOADERS = {
    milestone: "network.blocks.1.attn.qkv.weight",
    exported: "network.final_layer.linear.bias",
    trained_tokenizer: "encoder.conv_in.weight",
    pretrained_tokenizer: "decoder.conv_out.bias",
    trained_encoder: "blocks.0.attn.qkv.weight",
    local_encoder: "blocks.0.mlp.fc1.bias",
    evaluation_network: "norm.weight",
    critic: "head.2.weight",
    imported: "blocks.1.attn.qkv.weight",
    inception: "Mixed_6d.branch1x1.bn.running_var",
}


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize(("load", "name"), LOADERS.items(), ids=[load.__name__ for load in LOADERS])
def test_every_loader_refuses_what_is_not_finite_and_names_the_tensor(
    tmp_path: Path, load: Callable[[Path, Spoil], None], name: str, value: float
) -> None:
    load(tmp_path, lambda state: state[name])  # as it is, it is taken
    for output in tmp_path.glob("out.*"):
        output.unlink()
    with pytest.raises(UserError) as error:
        load(tmp_path, lambda state: state[name].view(-1)[-1:].fill_(value))
    message = str(error.value)
    assert (
        f": {name} [" in message
        and "holds NaN or infinite values (1 of " in message
        and "\n" not in message
    )
    assert str(tmp_path) in message.split(": ")[0] or str(tmp_path) in message.split(": ")[1]
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_finiteness_in_every_type(dtype: torch.dtype) -> None:
    values = torch.linspace(-2, 2, 100).to(dtype)
    assert is_finite(values) and is_finite(values[:0])
    values[37] = torch.nan
    assert not is_finite(values)
    assert is_finite(torch.arange(3)) and is_finite(torch.tensor([True]))


def write_folder(path: Path) -> None:
    path.mkdir()


def write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (write_folder, "is a folder, not a file"),
    "empty": (lambda path: path.write_bytes(b""), "not a file of weights"),
    "pointer": (
        lambda path: path.write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
        ),
        "Git LFS pointer",
    ),
    "page": (
        lambda path: path.write_text("\n<!DOCTYPE html><html><title>Sign in</title></html>"),
        "web page",
    ),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5 file"),
    "image": (
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)),
        "not a file of weights",
    ),
    "archive": (write_archive, "not a file of weights"),
    "list": (
        lambda path: torch.save([torch.zeros(1)], path),
        "holds a list, not a dict of tensors",
    ),
    "tensor": (
        lambda path: torch.save(torch.zeros(1), path),
        "holds a Tensor, not a dict of tensors",
    ),
    "module": (
        lambda path: torch.save(torch.nn.Linear(1, 1), path),
        r"holds objects of type torch\.nn\.modules\.linear\.Linear, which could run code",
    ),
    "path": (
        lambda path: torch.save({"args": argparse.Namespace(out=Path("x"))}, path),
        r"holds objects of type pathlib\.\w+, which could run code",
    ),
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_file_of_weights_is_called_what_it_is(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    write, words = FOREIGN[kind]
    path = tmp_path / f"weights.{suffix}"
    write(path)
    for load in (
        lambda: import_checkpoint(path, tmp_path / "out"),
        lambda: load_critic(path, "cpu"),
        lambda: read_weights(path, "fetch it"),
    ):
        with pytest.raises(UserError, match=rf"^{path}: [^\n]*{words}[^\n]*; [^\n]+$"):
            load()
    assert not (tmp_path / "out").exists()


def test_the_content_says_the_format_not_the_name(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0)}
    save_file(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.safetensors")
    torch.save(state, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.safetensors", "c.bin"):
        content, metadata = read_weights(tmp_path / name, "")
        assert (
            content.keys() == state.keys()
            and torch.equal(content["a"], state["a"])
            and metadata == {}
        )


@pytest.mark.parametrize(
    "write", [lambda state, path: torch.save(state, path), save_file], ids=["torch", "safetensors"]
)
def test_an_encoder_in_either_format_and_all_of_it(
    tmp_path: Path, write: Callable[[State, Path], None]
) -> None:
    state = create_network(ENCODER, 10).state_dict()
    write(state, tmp_path / "model.bin")
    options = ENCODER.model_copy(update={"weights": str(tmp_path / "model.bin")})
    encoder = load_encoder(options, None, "cpu")
    assert encoder.network.state_dict().keys() == {
        name for name in state if not name.startswith("head.")
    }
    assert all(
        torch.equal(value, state[name]) for name, value in encoder.network.state_dict().items()
    )
    missing = {name: value for name, value in state.items() if name != "blocks.0.norm1.bias"}
    for wrong, words in (
        (missing, r"blocks\.0\.norm1\.bias"),
        ({"a": torch.zeros(2)}, "does not fit"),
        ({}, "holds no tensors"),
    ):
        write(wrong, tmp_path / "model.bin")
        with pytest.raises(UserError, match=rf"model\.bin: [^\n]*{words}"):
            load_encoder(options, None, "cpu")
