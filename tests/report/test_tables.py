"""Tables of made-up results."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
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


def test_epochs_to_reach_a_fid(three_seeds: Path, tmp_path: Path) -> None:
    """Steps of 10 of 1,000 images are hundredths of an epoch; log-linear between milestones."""
    folder = shutil.copytree(three_seeds, tmp_path / "collected")
    protocol = json.loads((folder / "protocol.json").read_text())
    protocol["training"] = {"images": 1_000, "batch_size": 10}
    (folder / "protocol.json").write_text(json.dumps(protocol))
    options = MINIATURE.model_copy(update={"epochs_to_fid": [11.0, 50.0]})
    draw("table", "convergence", options, folder, tmp_path / "t.csv")
    data = pd.read_csv(tmp_path / "t.csv").set_index(["run", "step"])
    assert data["EP_FID@11"].loc["sit-none"].isna().all()  # its FIDs end at 12, 13 and 14
    late, early = [12.0 + 1.1 * seed for seed in range(3)], [8.0 + 1.1 * seed for seed in range(3)]
    parts = [math.log(a / 11) / math.log(a / b) for a, b in zip(late, early, strict=True)]
    expected = sum(10 + 5 * part for part in parts) / 3
    assert data["EP_FID@11"].loc["sit-vrpo"].to_list() == pytest.approx([expected] * 3)
    assert data["EP_FID@50"].to_list() == pytest.approx([5.0] * len(data))
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert any("SiT-B/2" in line and line.endswith("| > 15 | ≤ 5 |") for line in lines)
    assert any("VRPO" in line and f"| {expected:.4g} | ≤ 5 |" in line for line in lines)


def test_epochs_of_guided_samples_are_not_told(three_seeds: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(three_seeds, tmp_path / "collected")
    metrics = pd.read_csv(folder / "metrics.csv").assign(guidance=1.5)
    metrics.to_csv(folder / "metrics.csv", index=False)
    protocol = json.loads((folder / "protocol.json").read_text())
    protocol["training"] = {"images": 1_000, "batch_size": 10}
    (folder / "protocol.json").write_text(json.dumps(protocol))
    options = MINIATURE.model_copy(update={"epochs_to_fid": [50.0]})
    draw("table", "convergence", options, folder, tmp_path / "t.csv")
    assert pd.read_csv(tmp_path / "t.csv")["EP_FID@50"].isna().all()


def test_results_without_the_size_of_the_data_are_refused(
    three_seeds: Path, tmp_path: Path
) -> None:
    options = MINIATURE.model_copy(update={"epochs_to_fid": [50.0]})
    with pytest.raises(UserError, match=r"protocol.json: .*number of training images.*again"):
        draw("table", "convergence", options, three_seeds, tmp_path / "t.csv")
