"""Files of weights with flipped bits, cut, or with other contents.

They give one clear line, or, where a flip leaves finite values, a load.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vrpo.errors import UserError
from vrpo.models.checkpoints import (
    METADATA_KEY,
    load_milestone,
    read_network,
    save_milestone,
    save_network,
)
from vrpo.models.critic import LatentCritic, load_critic
from vrpo.models.encoder import load_encoder
from vrpo.models.official import import_checkpoint
from vrpo.models.timm_networks import create_network, load_classifier
from vrpo.models.tokenizer import build_vae, load_tokenizer, vae_arguments
from vrpo.models.transformer import build_transformer
from vrpo.models.weights import is_finite, read_weights

from tests.fixtures import golden
from tests.fixtures.weights import (
    CRITIC,
    ENCODER,
    TOKENIZER,
    State,
    classifier_description,
    describe,
    official_state,
)

DESCRIPTION = describe(depth=1, width=8, num_classes=3)
MODEL = SimpleNamespace(**DESCRIPTION["model"])


def write_milestone(path: Path) -> None:
    state = golden.fill(build_transformer(MODEL, golden.LATENT, 4)).state_dict()
    save_milestone(path, state, {"projectors.0.weight": torch.ones(2)}, DESCRIPTION)


def write_tokenizer(path: Path) -> None:
    arguments = vae_arguments(TOKENIZER, 16)
    save_network(
        path,
        golden.fill(build_vae(arguments)).state_dict(),
        {"kind": "tokenizer", "arguments": arguments, "scale": 1.3},
    )


def write_critic(path: Path) -> None:
    state = golden.fill(LatentCritic((4, 8, 8), (16, 6), 8, 1)).state_dict()
    save_network(path, state, CRITIC)


def write_classifier(path: Path) -> None:
    state = golden.fill(create_network(ENCODER, 3)).state_dict()
    save_network(path, state, classifier_description(3))


def write_official(path: Path) -> None:
    torch.save(
        {
            "ema": official_state(8, MODEL),
            "opt": {"state": {}},
            "args": argparse.Namespace(model="DiT-XL/2", global_seed=1),
            "steps": 3,
        },
        path,
    )


def write_old_official(path: Path) -> None:
    torch.save(official_state(8, MODEL), path, _use_new_zipfile_serialization=False)


def load_official(path: Path) -> nn.Module:
    import_checkpoint(path, path.with_name("out.safetensors"), family="dit", heads=2)
    return load_milestone(path.with_name("out.safetensors"))[0]


def load_local_encoder(path: Path) -> nn.Module:
    return load_encoder(ENCODER.model_copy(update={"weights": str(path)}), None, "cpu")


KINDS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], nn.Module]]] = {
    "milestone": ("a.safetensors", write_milestone, lambda path: load_milestone(path)[0]),
    "tokenizer": (
        "a.safetensors",
        write_tokenizer,
        lambda path: load_tokenizer(TOKENIZER, path, "cpu"),
    ),
    "critic": ("a.safetensors", write_critic, lambda path: load_critic(path, "cpu")),
    "classifier": ("a.safetensors", write_classifier, lambda path: load_classifier(ENCODER, path)),
    "local encoder": (
        "a.safetensors",
        lambda path: save_file(create_network(ENCODER, 0).state_dict(), path),
        load_local_encoder,
    ),
    "official safetensors": (
        "a.safetensors",
        lambda path: save_file(official_state(8, MODEL), path),
        load_official,
    ),
    "official": ("a.pt", write_official, load_official),
    "official, old format": ("a.pt", write_old_official, load_official),
}


def taken(load: Callable[[Path], nn.Module], path: Path) -> bool:
    """Whether the file is loaded; if so, its values are finite.

    Otherwise one line names it and tells how to fix it.
    """
    try:
        module = load(path)
    except UserError as error:
        message = str(error)
        assert message.isprintable(), message
        assert str(path) in message and "; " in message, message
        return False
    assert all(map(is_finite, module.state_dict().values()))
    return True


def flipped(data: bytes, bits: range, generator: random.Random) -> bytes:
    """`data` with one bit of bytes `bits` flipped."""
    changed = bytearray(data)
    changed[generator.choice(bits)] ^= 1 << generator.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_flips_and_cuts_end_in_a_line(tmp_path: Path, kind: str) -> None:
    name, write, load = KINDS[kind]
    path, generator = tmp_path / name, random.Random(kind)
    write(path)
    data = path.read_bytes()
    assert taken(load, path)

    def tried(damage: Callable[[], bytes], times: int) -> int:
        count = 0
        for _ in range(times):
            path.write_bytes(damage())
            count += taken(load, path)
        return count

    assert tried(lambda: data[: generator.randrange(len(data))], 20) == 0
    if path.suffix == ".safetensors":
        start = 8 + struct.unpack("<Q", data[:8])[0]
        assert tried(lambda: flipped(data, range(8), generator), 10) == 0
        assert (
            tried(lambda: flipped(data, range(start), generator), 100) <= 10
        )  # in the name of the seal, or of foreign files' metadata
        unnoticed = tried(lambda: flipped(data, range(start, len(data)), generator), 20)
        assert unnoticed == 0 if b"sha256_of_all" in data else unnoticed >= 10
    else:
        tried(lambda: flipped(data, range(len(data)), generator), 60)


def test_no_flip_in_an_archive_changes_weights_unnoticed(tmp_path: Path) -> None:
    """Its parts have checksums, which `torch.load` does not compare."""
    path, generator = tmp_path / "a.pt", random.Random(0)
    write_official(path)
    data, whole, loaded = path.read_bytes(), load_official(path).state_dict(), 0
    for _ in range(100):
        path.write_bytes(flipped(data, range(len(data)), generator))
        if taken(load_official, path):
            state = load_milestone(tmp_path / "out.safetensors")[0].state_dict()
            assert all(torch.equal(state[name], value) for name, value in whole.items())
            loaded += 1
    assert loaded < 20


def rewritten(path: Path, change: Callable[[State, dict[str, Any]], object]) -> None:
    """Write `path` anew with tensors and description changed in place."""
    state, description = read_network(path)
    change(state, description)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        path,
        {METADATA_KEY: json.dumps(description)},
    )


FIRST = {  # a tensor of each
    "milestone": "network.blocks.0.attn.qkv.weight",
    "tokenizer": "encoder.conv_in.weight",
    "critic": "stem.weight",
    "classifier": "blocks.0.attn.qkv.weight",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state, name: state.pop(name), "is missing"),
        (
            lambda state, name: state.update({name: state[name][1:]}),
            r"\[\d+, .*\], not \[\d+, .*\]",
        ),
        (lambda state, name: state.update({name: state[name].half()}), "is float16, not float32"),
        (lambda state, name: state.update({name: state[name].int()}), "is int32, not float32"),
        (
            lambda state, name: state.update(
                {name.rpartition("blocks")[0] + "more": torch.ones(2)}
            ),
            "more (\\[2\\] is not in the network|belongs to neither)",
        ),
    ],
    ids=["missing", "shape", "half", "integers", "extra"],
)
@pytest.mark.parametrize("kind", FIRST)
def test_missing_wrong_and_extra_tensors_are_named(
    tmp_path: Path, kind: str, change: Callable[[State, str], object], words: str
) -> None:
    name, write, load = KINDS[kind]
    write(tmp_path / name)
    rewritten(tmp_path / name, lambda state, _: change(state, FIRST[kind]))
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: [^\n]*{words}[^\n]*; [^\n]+$"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {METADATA_KEY: ""},
        {METADATA_KEY: "{"},
        {METADATA_KEY: "[1]"},
        {METADATA_KEY: "3"},
    ],
)
@pytest.mark.parametrize("kind", FIRST)
def test_missing_and_malformed_descriptions_are_refused(
    tmp_path: Path, kind: str, metadata: dict[str, str] | None
) -> None:
    name, write, load = KINDS[kind]
    write(tmp_path / name)
    save_file(dict(read_weights(tmp_path / name, "").content), tmp_path / name, metadata)
    words = (
        "was not written by this pipeline"
        if not metadata or METADATA_KEY not in metadata
        else "its description is damaged"
    )
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: [^\n]*{words}[^\n]*; [^\n]+$"):
        load(tmp_path / name)


@pytest.mark.parametrize("value", [None, "x", -1, 0, 1.5, [], {}, 64])
def test_no_value_in_a_description_ends_in_a_traceback(tmp_path: Path, value: Any) -> None:
    """Every value of every description replaced, those within too."""
    refused = 0
    for kind in FIRST:
        name, write, load = KINDS[kind]
        write(tmp_path / name)
        _, whole = read_network(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        places = [(key,) for key in whole] + [
            (key, inner)
            for key, values in whole.items()
            if isinstance(values, dict)
            for inner in values
        ]
        places += [
            (key, index)
            for key, values in whole.items()
            if isinstance(values, list)
            for index in range(len(values))
        ]
        for *outer, last in places:
            (tmp_path / name).write_bytes(data)

            def change(
                _: State, description: dict[str, Any], outer: list[Any] = outer, last: Any = last
            ) -> None:
                for key in outer:
                    description = description[key]
                description[last] = value

            rewritten(tmp_path / name, change)
            refused += not taken(load, tmp_path / name)
    assert refused > 20


@pytest.mark.parametrize("size", ["width", "num_classes"])
def test_a_damaged_size_takes_no_memory(tmp_path: Path, size: str) -> None:
    write_milestone(tmp_path / "a.safetensors")
    rewritten(
        tmp_path / "a.safetensors",
        lambda _, description: description["model"].update({size: 400_000}),
    )
    with pytest.raises(UserError, match=r"a\.safetensors: the weights are of another architecture"):
        load_milestone(tmp_path / "a.safetensors")
