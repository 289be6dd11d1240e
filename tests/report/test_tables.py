"""Tables of made-up results."""

from pathlib import Path

import pandas as pd
import pytest

from vrpo.config.report import ReportOptions
from vrpo.report.draw import draw

from tests.fixtures.report import (
    IMAGENET,
    MINIATURE,
    TABLES,
)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("options", [MINIATURE, IMAGENET], ids=["miniature", "imagenet"])
def test_tables_in_three_formats(
    name: str, options: ReportOptions, three_seeds: Path, tmp_path: Path
) -> None:
    draw("table", name, options, three_seeds, tmp_path / f"{name}.csv")
    data = pd.read_csv(tmp_path / f"{name}.csv")
    markdown, latex = (tmp_path / f"{name}.md").read_text(), (tmp_path / f"{name}.tex").read_text()
    assert len(data) > 0
    assert options.metric_space in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {rows[0].count("|")}
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body} == {body[0].count("&")}
    code = [line for line in latex.splitlines() if not line.startswith("% ")]
    assert not [line for line in code if "%" in line.replace(r"\%", "")]


def test_best_is_bold_only_where_there_is_a_rival(three_seeds: Path, tmp_path: Path) -> None:
    draw("table", "comparison", MINIATURE, three_seeds, tmp_path / "t.csv")
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert [
        line for line in lines if "VRPO" in line and "| ode |" in line and "**9.10 ± 1.10**" in line
    ]
    assert not [line for line in lines if "guided" in line and "**" in line]  # all equal
