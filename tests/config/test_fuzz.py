"""Random damage to a config file: what comes of it is a plan, or one line for each mistake."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from vrpo.config import load_experiment
from vrpo.config.reading import read_yaml
from vrpo.config.strict_yaml import dump_yaml
from vrpo.errors import UserError
from vrpo.plan.jobs import evaluations, shown
from vrpo.plan.resolved import resolved_files

from tests.fixtures import ROOT

MINI = ROOT / "config/mini.yaml"
PIECES = [
    b"\t",
    b"\n",
    b":",
    b": ",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"'",
    b'"',
    b"#",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!",
    b"|",
    b"%",
    b"\x00",
    b"\xff",
    b"\xe9",
    b"0",
    b"~",
]
VALUES: list[Any] = [
    None,
    True,
    "",
    "x",
    "mini/2",
    -1,
    0,
    1,
    10**25,
    0.5,
    1e300,
    [],
    [1],
    ["vit"],
    {},
    {"kind": "none"},
    {"x": {"y": 1}},
]


def outcome(path: Path) -> str:
    """`accepted`, or `refused` in clear lines."""
    try:
        config = load_experiment(path)
    except UserError as error:
        lines = str(error).splitlines()
        assert all(
            line.startswith(f"{path}: ") and line.isprintable() and len(line) < 700
            for line in lines
        ), lines
        assert len(set(lines)) == len(lines) > 0
        return "refused"
    assert resolved_files(config) and list(evaluations(config)) and list(shown(config))
    return "accepted"


def damaged(text: bytes, dice: random.Random) -> bytes:
    """`text` with one to three bytes changed, put in, taken out or moved."""
    for _ in range(dice.randint(1, 3)):
        start = dice.randrange(len(text))
        end = min(len(text), start + dice.choice([1, 1, 2, 20, 200]))
        text = dice.choice(
            [
                text[:start] + bytes([text[start] ^ (1 << dice.randrange(8))]) + text[start + 1 :],
                text[:start] + dice.choice(PIECES) + text[start:],
                text[:start] + text[end:],
                text[:end] + text[start:end] + text[end:],
                text[:start],
            ]
        )
        if not text:
            break
    return text


def places(node: Any, at: tuple = ()) -> list[tuple]:
    """Paths of all nodes below `node`."""
    inner = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [place for key, value in inner for place in [(*at, key), *places(value, (*at, key))]]


def edited(content: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """`content` with one to three nodes removed, renamed, replaced by a value or by each other."""
    content = copy.deepcopy(content)
    for _ in range(dice.randint(1, 3)):
        found = places(content)
        if not found:
            break
        *path, key = dice.choice(found)
        parent: Any = content
        for step in path:
            parent = parent[step]
        other: Any = content
        for step in dice.choice(found):
            other = other[step]
        edit = dice.choice(["remove", "rename", "value", "node"])
        if edit == "remove":
            del parent[key]
        elif edit == "rename" and isinstance(parent, dict):
            parent[f"{key}{dice.choice(['s', '.', ' ', '/', 'x' * 120])}"] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(dice.choice(VALUES) if edit == "value" else other)
    return content


@pytest.mark.parametrize("seed", range(2))
def test_damaged_bytes(seed: int, tmp_path: Path) -> None:
    dice, text, path = random.Random(seed), MINI.read_bytes(), tmp_path / "my.yaml"
    outcomes = set()
    for _ in range(100):
        path.write_bytes(damaged(text, dice))
        outcomes.add(outcome(path))
    assert outcomes == {"accepted", "refused"}


@pytest.mark.parametrize("seed", range(2))
def test_edited_structure(seed: int, tmp_path: Path) -> None:
    dice, content, path = random.Random(seed), read_yaml(MINI), tmp_path / "my.yaml"
    outcomes = set()
    for _ in range(100):
        path.write_text(dump_yaml(edited(content, dice)), encoding="utf-8")
        outcomes.add(outcome(path))
    assert outcomes == {"accepted", "refused"}
