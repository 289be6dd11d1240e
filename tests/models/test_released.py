"""Networks in released checkpoints: wrappers in names, dicts around tensors, types of values."""

from __future__ import annotations

import argparse
import random
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vrpo.errors import UserError
from vrpo.models.checkpoints import read_milestone
from vrpo.models.official import import_checkpoint
from vrpo.models.released import WRAPPERS

from tests.fixtures.released import State, assert_equal, dit_state, repa_state


def imported(
    folder: Path, content: Any, name: str = "DiT-x.pt", **options: Any
) -> tuple[State, State, dict[str, Any]]:
    torch.save(content, folder / name)
    import_checkpoint(folder / name, folder / "out.safetensors", **{"heads": 4, **options})
    return read_milestone(folder / "out.safetensors")


def scattered(name: str, generator: random.Random) -> str:
    """`name` with wrappers, any of them in any order.

    They precede any of its parts but those that number blocks and the last.
    """
    parts = name.split(".")
    wrapped: list[str] = []
    for index, part in enumerate(parts):
        if index == 0 or not (part.isdigit() or index == len(parts) - 1):
            wrapped += generator.sample(sorted(WRAPPERS), generator.randrange(4))
        wrapped.append(part)
    return ".".join(wrapped)


NAMINGS: dict[str, Callable[[str], str]] = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "distributed": lambda name: f"module.{name}",
    "compiled around distributed": lambda name: f"_orig_mod.module.{name}",
    "distributed around compiled": lambda name: f"module._orig_mod.{name}",
    "three deep": lambda name: f"module._orig_mod.module.{name}",
    "sharded": lambda name: f"_fsdp_wrapped_module.{name}".replace(
        ".attn.", "._fsdp_wrapped_module.attn."
    ),
    "blocks checkpointed": lambda name: re.sub(
        r"blocks\.(\d+)\.", r"blocks.\1._checkpoint_wrapped_module.", name
    ),
    "blocks sharded, checkpointed and compiled": lambda name: re.sub(
        r"blocks\.(\d+)\.",
        r"blocks.\1._fsdp_wrapped_module._checkpoint_wrapped_module._orig_mod.",
        name,
    ),
    "layers compiled": lambda name: name.replace(".mlp.", ".mlp._orig_mod."),
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("state", [dit_state, repa_state])
def test_wrappers_anywhere_in_the_names(
    tmp_path: Path, naming: str, state: Callable[[], State]
) -> None:
    plain = imported(tmp_path, state())
    wrapped = {NAMINGS[naming](name): value for name, value in state().items()}
    assert wrapped.keys() != state().keys()
    found = imported(tmp_path, {"ema": wrapped})
    assert_equal(found[0], plain[0])
    assert_equal(found[1], plain[1])


@pytest.mark.parametrize("seed", range(5))
def test_any_wrappers_in_any_order_and_depth(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    plain = imported(tmp_path, repa_state())
    found = imported(
        tmp_path, {scattered(name, generator): value for name, value in repa_state().items()}
    )
    assert_equal(found[0], plain[0])
    assert_equal(found[1], plain[1])
    assert found[1]


def headed(head: str, state: State) -> State:
    return {f"{head}.{name}": value for name, value in state.items()}


AVERAGED, PLAIN = dit_state("ema"), dit_state("plain")
CONTENTS: dict[str, Any] = {
    "ours": {
        "ema": AVERAGED,
        "model": PLAIN,
        "opt": {"state": {0: {"exp_avg": torch.zeros(1)}}},
        "args": argparse.Namespace(),
        "steps": 7,
    },
    "ordered": {"ema": OrderedDict(AVERAGED), "model": OrderedDict(PLAIN), "step": 7},
    "timm": {
        "state_dict_ema": AVERAGED,
        "state_dict": PLAIN,
        "step": torch.tensor(7),
        "optimizer": {},
    },
    "other names": {
        "model_ema": AVERAGED,
        "model_state_dict": PLAIN,
        "train_steps": 7,
        "scheduler": None,
        "delete_me": [1],
    },
    "Lightning": {
        "state_dict": {**headed("ema_model", AVERAGED), **headed("model", PLAIN)},
        "global_step": 7,
        "pytorch-lightning_version": "2",
    },
    "one dict": {**headed("ema.module", AVERAGED), **headed("_orig_mod.net", PLAIN), "step": 7},
    "average of PyTorch": {
        "ema": {"n_averaged": torch.tensor(3), **headed("module", AVERAGED)},
        "model": {"module": PLAIN},
        "steps": 7,
    },
    "dicts within dicts": {
        "ema": {"decay": 0.999, "state_dict": AVERAGED},
        "generator": {"model": PLAIN},
        "steps": 7,
    },
    "counters": {
        "ema": {**AVERAGED, "epoch": 3, "num_updates": torch.tensor(3)},
        "model": PLAIN,
        "steps": 7,
    },
}


@pytest.mark.parametrize("content", CONTENTS)
def test_averaged_and_plain_weights_wherever_they_are(tmp_path: Path, content: str) -> None:
    averaged, plain = (
        imported(tmp_path, CONTENTS[content], weights=weights) for weights in ("ema", "model")
    )
    for (state, _, description), wanted in ((averaged, AVERAGED), (plain, PLAIN)):
        assert_equal(state, {name: value for name, value in wanted.items() if name != "pos_embed"})
        assert description["step"] == 7


def test_the_only_network_of_a_file_is_taken_or_asked_for(tmp_path: Path) -> None:
    for weights in ("ema", "model"):
        assert_equal(
            imported(tmp_path, {"module": headed("_orig_mod", PLAIN)}, weights=weights)[0],
            imported(tmp_path, PLAIN)[0],
        )
    with pytest.raises(
        UserError,
        match=r"has no weights `ema`, only state_dict; choose those \(`--weights model`\)",
    ):
        imported(tmp_path, {"state_dict": PLAIN})
    with pytest.raises(
        UserError, match=r"has no weights `model`, only ema; choose those \(`--weights ema`\)"
    ):
        imported(tmp_path, {"ema": PLAIN}, weights="model")
    with pytest.raises(
        UserError,
        match=(
            r"has several networks of weights `ema` \(ema_fast, ema_slow\); save the "
            r"one that is meant alone"
        ),
    ):
        imported(tmp_path, {"ema_fast": AVERAGED, "ema_slow": PLAIN})


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_every_floating_type_becomes_float32(
    tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    state = {
        name: value if name == "pos_embed" else value.to(dtype)
        for name, value in dit_state().items()
    }
    path = tmp_path / f"DiT-x.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    import_checkpoint(path, tmp_path / "out.safetensors", heads=4)
    network, _, _ = read_milestone(tmp_path / "out.safetensors")
    assert_equal(
        network, {name: value.float() for name, value in state.items() if name != "pos_embed"}
    )


LAYER = "blocks.1.attn.qkv.weight"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            torch.zeros(144, 48, dtype=torch.int8),
            "is int8; give weights in floating point, neither quantised nor sparse",
        ),
        (
            torch.zeros(144, 48, dtype=torch.complex64),
            "is complex64; give weights in floating point",
        ),
        (torch.zeros(144, 48).to_sparse(), "is sparse_coo; give weights in floating point"),
        (torch.zeros(144, 48, device="meta"), "is without values; give weights in floating point"),
        (torch.full((144, 48), 1e300, dtype=torch.float64), "holds NaN or infinite values"),
        ([1.0], "is not a tensor but a list"),
        (None, "is not a tensor but a NoneType"),
        (torch.zeros(48, 144), r"is \[48, 144\], not \[144, 48\]"),
    ],
    ids=["int8", "complex", "sparse", "meta", "overflow", "list", "none", "transposed"],
)
def test_values_that_are_no_weights_are_refused(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(
        UserError,
        match=(
            rf"^{tmp_path}/DiT-x.pt: [^\n]*{LAYER} {words}|^{tmp_path}/DiT-x.pt: {LAYER} "
            rf"[^\n]*{words}"
        ),
    ):
        imported(tmp_path, {**dit_state(), LAYER: value})
    assert not (tmp_path / "out.safetensors").exists()


def test_a_name_with_and_without_wrapper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"module\.{LAYER} \[144, 48\] is not in the network"):
        imported(tmp_path, {**dit_state(), f"module.{LAYER}": torch.zeros(144, 48)})


@pytest.mark.parametrize(
    "change",
    [
        {"x_embedder.proj.weight": torch.zeros(48, 4)},
        {"y_embedder.embedding_table.weight": torch.zeros(3)},
        {"pos_embed": torch.zeros(16)},
        {"pos_embed": torch.zeros(1, 0, 48)},
        {"final_layer.linear.bias": torch.zeros(7)},
        {"final_layer.linear.bias": torch.zeros(())},
        {"final_layer.linear.weight": torch.zeros(31, 48)},
        {"t_embedder.mlp.0.weight": torch.zeros(48, 10)},
        {"blocks.x.attn.qkv.weight": torch.zeros(1)},
        {"blocks.٣.attn.qkv.weight": torch.zeros(1)},
        {"blocks.999999999999.attn.qkv.weight": torch.zeros(1)},
        {"a\nb": torch.zeros(1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["dit", "sit", "repa"])
def test_wrong_shapes_and_names_end_in_a_line(tmp_path: Path, change: State, family: str) -> None:
    with pytest.raises(UserError) as error:
        imported(tmp_path, {**dit_state(), **change}, "x.pt", family=family)
    assert str(error.value).startswith(f"{tmp_path}/x.pt: ") and str(error.value).isprintable()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "family", "words"),
    [
        (
            repa_state(),
            "sit",
            "--family sit: .* has projectors, or arguments, of REPA's code; say `--family repa`",
        ),
        (
            {"ema": dit_state(), "args": argparse.Namespace(model="DiT-XL/2")},
            "sit",
            "has `DiT-XL/2` among its arguments; say `--family dit`",
        ),
        (
            {"ema": dit_state(), "args": {"model": "SiT-XL/2"}},
            "dit",
            "has `SiT-XL/2` among its arguments; say `--family sit`",
        ),
    ],
)
def test_a_family_that_the_file_contradicts_is_refused(
    tmp_path: Path, content: Any, family: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        imported(tmp_path, content, "x.pt", family=family)


def test_what_is_one_of_several_files_or_none_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"is one of 3 files that hold one set of weights; save them as one file"
    ):
        imported(tmp_path, dit_state(), "DiT-00001-of-00003.pt")
    assert imported(tmp_path, dit_state(), "DiT-00001-of-00001.pt")[0]
    (tmp_path / "index.json").write_text('{"metadata": {}, "weight_map": {}}')
    with pytest.raises(UserError, match="is a JSON file"):
        import_checkpoint(tmp_path / "index.json", tmp_path / "a.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".metadata").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=(
            r"is a distributed checkpoint \(`python -m "
            r"torch.distributed.checkpoint.format_utils dcp_to_torch"
        ),
    ):
        import_checkpoint(tmp_path / "folder", tmp_path / "a.safetensors")
    import_checkpoint(
        tmp_path / "DiT-00001-of-00001.pt", tmp_path / "milestone.safetensors", heads=4
    )
    with pytest.raises(
        UserError, match="was written by this pipeline; give it to `sample` as it is"
    ):
        import_checkpoint(tmp_path / "milestone.safetensors", tmp_path / "a.safetensors", heads=4)
    assert not (tmp_path / "a.safetensors").exists()
