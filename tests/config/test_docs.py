"""The generated option reference and schema fit the code, the schema fits the configs."""

import functools
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from vrpo.config.docs import option_reference, schema_text, write_docs
from vrpo.config.reading import deep_merge

from tests.fixtures import ROOT
from tests.fixtures.config import OVER


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


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "config").glob("*.yaml")), ROOT / "tests/workflow/tiny.yaml"],
    ids=lambda path: path.name,
)
def test_configs_fit_the_schema(path: Path) -> None:
    whole = [*(path.with_name(name) for name in OVER.get(path.name, [])), path]
    content = functools.reduce(
        deep_merge, (yaml.safe_load(part.read_text(encoding="utf-8")) for part in whole)
    )
    jsonschema.validate(content, json.loads(schema_text()))


def test_docs_are_written_once(tmp_path: Path) -> None:
    assert len(write_docs(tmp_path)) == 2
    assert write_docs(tmp_path) == []
