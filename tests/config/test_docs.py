"""The generated option reference and schema fit the code, the schema fits the configs."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from vrpo.config.docs import option_reference, schema_text, write_docs

from tests.fixtures import ROOT


@pytest.mark.parametrize(
    ("name", "text"), [("options.md", option_reference()), ("options.schema.json", schema_text())]
)
def test_docs_are_up_to_date(name: str, text: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, (
        "the options changed: run `make docs`"
    )


def test_every_option_is_documented() -> None:
    undocumented = [
        line
        for line in option_reference().splitlines()
        if line.startswith("| `") and line.endswith("|  |")
    ]
    assert not undocumented


CONFIGS = [
    *sorted((ROOT / "config").glob("*.yaml")),
    ROOT / "benchmarks/runs.yaml",
    ROOT / "tests/workflow/tiny.yaml",
]
FIRST_LINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_name_the_schema_and_fit_it_alone(path: Path) -> None:
    """As an editor sees them, without the config that they are given over."""
    text = path.read_text(encoding="utf-8")
    schema = (path.parent / FIRST_LINE.match(text)[1]).resolve()
    assert schema == ROOT / "docs/options.schema.json"
    jsonschema.validate(yaml.safe_load(text), json.loads(schema.read_text(encoding="utf-8")))
    assert not re.search(r"\b\d+_\d", text), "editors read YAML 1.2, where 50_000 is text"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"seed": [1]}, "'seed' was unexpected"),
        ({"training": {"batch_size": "many"}}, "'many' is not of type 'integer'"),
        ({"alignments": {"repa": {"kind": "repa", "eta": 0.1}}}, "not valid under any"),
    ],
)
def test_the_schema_finds_mistakes(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=told):
        jsonschema.validate(wrong, json.loads(schema_text()))


def test_docs_are_written_once(tmp_path: Path) -> None:
    assert len(write_docs(tmp_path)) == 2
    assert write_docs(tmp_path) == []
