"""YAML: ambiguous values are refused with their line, all else is read as PyYAML reads it.

Written files are read back.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vrpo.config import load_experiment, merge_configs
from vrpo.config.reading import read_yaml
from vrpo.config.strict_yaml import dump_yaml, parse_yaml
from vrpo.errors import UserError

from tests.fixtures import ROOT


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: [0]\nresults: a\nseeds: [1]", ["line 3: `seeds` is given twice, first in line 1"]),
        (
            "training:\n  batch_size: 8\n  learning_rate: 1.0\n  batch_size: 16",
            ["line 4: `batch_size` is given twice, first in line 2"],
        ),
        ("a:\n- {x: 1, x: 2}", ["line 2: `x` is given twice"]),
        ("1: a\n'1': b", ["line 2: `1` is given twice"]),
        ("no: a\n'no': b", ["line 2: `no` is given twice"]),
        ('{"a": 1,\n"a": 2}', ["line 2: `a` is given twice"]),
        ("a: {<<: {x: 1}, <<: {y: 2}}", ["`<<` is given twice"]),
        ("a: {<<: {x: 1, x: 2}}", ["`x` is given twice"]),
        ("a: {<<: 3}", ["`<<` merges mappings"]),
        ("\na: 010", ["line 2: `010` is an octal number"]),
        ("a: [-007]", ["`-007` is an octal number"]),
        ("a: 08", ["`08` is an octal number"]),
        ("a: 2024-01-31", ["`2024-01-31` is a date", "quotes"]),
        ("a: 2024-13-45", ["`2024-13-45` is a date"]),
        ("a: 2024-01-31 10:00:00", ["is a date"]),
        ("a:\n\tb: 1", ["line 2", "indent with spaces"]),
        ("a: 1\n---\nb: 2", ["line 2", "not valid YAML"]),
        ("a: [1, 2", ["line 1", "not valid YAML"]),
        ("a: *b", ["undefined alias"]),
        ("a: &b [*b]", ["contains itself"]),
        ("a: &b {c: *b}", ["contains itself"]),
        ("? [a, b]\n: 1", ["cannot be a key"]),
        ("a: 1\nb: \x00", ["line 2", "'\\x00'"]),
        ('a: "\\UFFFFFFFF"', ["not valid YAML"]),
        ("a: !!python/object:os.system 1", ["the tag", "not supported"]),
        ("a: !!set {b, c}", ["the tag", "not supported"]),
        ("a: !!int x", ["the tag", "not supported"]),
        ("a: " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
        ("a: " + "9" * 5000, ["`9999", "not a number that can be used"]),
        ("a: 0x" + "f" * 5000, ["`0xff", "too large"]),
        ("a: 1e999", ["`1e999` is too large"]),
        ("a: 0x_", ["`0x_` is not a number"]),
    ],
)
def test_what_is_ambiguous_or_malformed_is_refused(text: str, words: list[str]) -> None:
    message = refusal(text)
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        (
            "a: 1e-4\nb: 1E5\nc: 1.5e3\nd: .5\ne: 5.\nf: -1e3",
            {"a": 1e-4, "b": 1e5, "c": 1500.0, "d": 0.5, "e": 5.0, "f": -1000.0},
        ),
        ("[0, -3, +3, 50_000, 0x1f, 0o17, 0b101]", [0, -3, 3, 50_000, 31, 15, 5]),
        ("[yes, No, ON, off, true, False]", [True, False, True, False, True, False]),
        (
            "[~, null, '~', \"null\", none, 'on', '1', '1e-4', '010', '2024-01-31']",
            [None, None, "~", "null", "none", "on", "1", "1e-4", "010", "2024-01-31"],
        ),
        (
            "{no: 1, on: 2, 1: 3, 2.5: 4, 010: 5, 2024-01-31: 6, ~: 7}",
            {"no": 1, "on": 2, "1": 3, "2.5": 4, "010": 5, "2024-01-31": 6, "~": 7},
        ),
        ("[12:30:00, 1.2.3, =, '<<', 1-2, e5]", ["12:30:00", "1.2.3", "=", "<<", "1-2", "e5"]),
        (
            "base: &base {x: 1, y: 2}\nmore: {<<: *base, y: 3}",
            {"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}},
        ),
        (
            "[&a {x: 1}, &b {x: 2, y: 2}, {<<: [*a, *b], z: 3}]",
            [{"x": 1}, {"x": 2, "y": 2}, {"x": 1, "y": 2, "z": 3}],
        ),
        ("a: &list [1, 2]\nb: *list", {"a": [1, 2], "b": [1, 2]}),
        ("a: !!str 12", {"a": "12"}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert repr(parse_yaml(text, "my.yaml")) == repr(value)


def test_numbers_that_are_not_finite() -> None:
    low, high, nothing = parse_yaml("[-.inf, .inf, .nan]", "my.yaml")
    assert low == -math.inf and high == math.inf and math.isnan(nothing)


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "config").glob("*.yaml"), ROOT / "tests/workflow/tiny.yaml"],
    ids=lambda path: path.name,
)
def test_shipped_configs_mean_the_same_to_other_readers(path: Path) -> None:
    assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.from_regex(r"[-+0-9._eExo:TZ ]{1,12}")
)
CONTENT = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(CONTENT)
def test_what_is_written_is_read_back(content: Any) -> None:
    assert repr(parse_yaml(dump_yaml(content), "my.yaml")) == repr(content)


@given(st.text(alphabet="ab01<&*!?[]{}:,-|>'\"#%@\\\n\t .~=e_", max_size=30))
def test_no_text_brings_another_error(text: str) -> None:
    try:
        parse_yaml(text, "my.yaml")
    except UserError as error:
        assert str(error).startswith("my.yaml: line ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("experiment: café".encode("latin-1"), ["not UTF-8", "save the file"]),
        ("experiment: a".encode("utf-16"), ["not UTF-8", "save the file"]),
        (b"", ["empty"]),
        (b"# nothing yet\n", ["empty"]),
        (b"- 1\n", ["a mapping of options, this is a list"]),
        (b"abc\n", ["a mapping of options, this is a single value"]),
        (None, ["not a regular file"]),
    ],
    ids=["latin-1", "utf-16", "empty", "comment", "list", "text", "folder"],
)
def test_files_that_are_no_configs(content: bytes | None, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    for name in ("absent.yaml", "dangling.yaml"):
        with pytest.raises(UserError, match=f"{name}: no such config file"):
            load_experiment(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(tmp_path / ("a" * 300))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes("experiment: a".encode("utf-8-sig"))
    assert read_yaml(path) == {"experiment": "a"}


def test_assignments_lie_over_files(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("seeds: [0]\ntraining: {batch_size: 8, learning_rate: 0.1}\n")
    assert merge_configs(
        [path], ["seeds=[1, 2]", "training={batch_size: 16}", 'results="7"', "report="]
    ) == {
        "seeds": [1, 2],
        "training": {"batch_size": 16, "learning_rate": 0.1},
        "results": "7",
        "report": None,
    }


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["fid"], ["--config fid", "NAME=VALUE", "`--`"]),
        (["seeds=[0]", "seeds=[1]"], ["--config seeds", "twice"]),
        (
            ["training={batch_size: 8, batch_size: 16}"],
            ["--config training", "`batch_size` is given twice"],
        ),
        (["training={batch_size: 8"], ["--config training", "not valid YAML"]),
        (["seeds=[010]"], ["--config seeds", "octal"]),
    ],
)
def test_assignments_are_read_as_strictly(assignments: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        merge_configs([], assignments)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value
