"""The comparison table: published scores beside ours."""

from pathlib import Path

import pandas as pd
import pytest

from vrpo.config.published import read_published
from vrpo.config.report import ReportOptions
from vrpo.report.catalogue import find
from vrpo.report.comparison import OURS
from vrpo.report.formatting import Table, latex, markdown

from tests.fixtures import ROOT
from tests.fixtures.report import IMAGENET, MINIATURE


def made(options: ReportOptions, folder: Path) -> Table:
    return find("table", "comparison").make(options, folder)


@pytest.fixture(scope="module")
def table(three_seeds: Path) -> Table:
    """Of none, REPA and VRPO on SiT-B/2 and DiT-XL/2."""
    return made(IMAGENET, three_seeds)


def test_published_scores_are_only_beside_imagenet(table: Table, three_seeds: Path) -> None:
    mini = made(MINIATURE, three_seeds)
    assert set(mini.data["source"]) == {OURS} and not mini.sources
    assert "source" not in mini.shown and "published" not in markdown(mini).lower()
    published = table.data[table.data["source"] != OURS]
    assert {33.0, 24.4, 22.39, 18.99} <= set(published["fid"])


def test_all_published_rows_of_our_models_and_methods_are_shown(table: Table) -> None:
    wanted = [
        row
        for row in read_published(ROOT / "config/published.csv")
        if row["model"] in ("SiT-B/2", "DiT-XL/2") or row["method"] in ("REPA", "VRPO")
    ]
    published = table.data[table.data["source"] != OURS]
    assert len(published) == len(wanted) > 30
    others = published[~published["model"].isin(["SiT-B/2", "DiT-XL/2"])]
    assert set(others["label"]) == {"REPA", "VRPO"}  # none is no method


def test_a_published_score_follows_ours_of_its_model_method_and_guidance(table: Table) -> None:
    rows = table.shown[table.shown["model"] == "SiT-B/2"]
    methods = list(dict.fromkeys(rows["alignment"]))
    assert methods[:3] == ["none", "REPA", "VRPO"] and {"iREPA", "HASTE"} <= set(methods[3:])
    repa = rows[rows["alignment"] == "REPA"]
    steps = ["1,500", "50,000", "100,000", "200,000", "400,000", "400,000", "1,500", "400,000"]
    assert list(repa["steps"]) == steps
    assert list(repa["epochs"]) == ["", "10", "20", "40", "80", "80", "", "80"]
    assert list(repa["guidance"]) == ["none"] * 6 + ["1.8", "1.65 on t<=0.72"]
    models = list(dict.fromkeys(table.shown["model"]))
    assert models == ["SiT-B/2", "DiT-XL/2", "SiT-L/2", "SiT-XL/2", "any"]


def test_each_row_names_its_source_and_who_reported_it(table: Table) -> None:
    marks = {"authors": "published", "quoted": "quoted", "others": "by others"}
    numbers = {text.partition(" ")[0]: text for text in table.small_print[1:]}
    assert len(numbers) == len(table.sources) == len(set(table.sources))
    for shown, row in zip(
        table.shown.to_dict("records"), table.data.to_dict("records"), strict=True
    ):
        if row["source"] == OURS:
            assert shown["source"] == OURS
            continue
        mark, number = shown["source"].rsplit(" ", 1)
        assert row["source"] in numbers[number] and row["note"] in numbers[number]
        assert mark == marks[row["reported"]]
    marked = table.data.assign(mark=table.shown["source"])
    found = marked.set_index(["label", "fid"])["mark"].to_dict()
    assert found["REPA", 22.39].startswith("by others")
    assert found["REPA", 24.4].startswith("quoted")
    assert found["RARE", 18.02].startswith("published [")
    for text in (markdown(table), latex(table)):
        assert "[1] REPA (arXiv:2410.06940)" in text and "2.3x faster" in text


def test_published_scores_never_compete_for_bold(table: Table) -> None:
    bold = table.shown["FID"].str.startswith("**")
    assert set(table.shown.loc[bold, "source"]) == {OURS}
    assert set(table.shown.loc[bold, "FID"]) == {"**9.10 ± 1.10**"}


def test_the_numbers_for_programs_have_one_type_a_column(table: Table, tmp_path: Path) -> None:
    table.data.to_csv(tmp_path / "t.csv", index=False)
    data = pd.read_csv(tmp_path / "t.csv")
    for name in ("step", "epochs", "fid", "is", "precision", "recall", "seeds"):
        assert pd.api.types.is_numeric_dtype(data[name]), name
