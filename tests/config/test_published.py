"""Published scores: the project's file, and malformed ones."""

from pathlib import Path

import pytest

from vrpo.config import load_experiment
from vrpo.config.published import read_published
from vrpo.errors import UserError
from vrpo.plan.inputs import Inputs

from tests.fixtures import ROOT

HEADER = "model,method,iterations,epochs,cfg,fid,sfid,is,precision,recall,reported,source,note\n"
ROW = "SiT-B/2,REPA,400000,80,none,24.4,,,,,authors,a paper,\n"


def test_every_row_of_the_project_has_its_source_and_setting() -> None:
    rows = read_published(ROOT / "config/published.csv")
    scored = [row for row in rows if row["fid"] is not None]
    assert len(rows) == 52
    assert all(row["iterations"] and row["epochs"] and row["cfg"] for row in scored)
    assert [row["method"] for row in rows if row["fid"] is None] == ["VRPO"]


def test_at_imagenet_scale_haste_is_before_irepa_and_repa() -> None:
    """The file holds the orders of other papers that docs/findings.md names."""
    rows = read_published(ROOT / "config/published.csv")
    rare = {
        row["method"]: row["fid"]
        for row in rows
        if str(row["source"]).startswith("RARE paper") and row["cfg"] == "none"
    }
    assert (rare["HASTE"], rare["iREPA"], rare["REPA"]) == (18.99, 20.4, 22.39)


def test_numbers_may_be_missing_and_columns_may_be_added(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("\ufeffmine," + HEADER + "x," + ROW + "\n")
    (row,) = read_published(path)
    assert (row["fid"], row["sfid"], row["iterations"]) == (24.4, None, 400_000)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "lacks the column `model`; add it"),
        (HEADER.replace("fid,sfid", "sfid") + ROW, "lacks the column `fid`; add it"),
        (HEADER.replace("note", "note,fid"), "has the column `fid` more than once; keep one"),
        (HEADER + ROW + ROW.replace("24.4", "about 24"), "line 3: fid `about 24` is no number"),
        (HEADER + ROW.replace("24.4", "nan"), "line 2: fid `nan` is no number"),
        (HEADER + ROW.replace("24.4", "-1"), "line 2: fid `-1` is no number from 0 up"),
        (HEADER + ROW.replace("a paper", "a, b"), "line 2: has 14 cells, the header 13; put"),
        (HEADER + ROW.replace("a paper", " "), "line 2: source is empty"),
        (HEADER + ROW.replace("authors", "me"), "line 2: reported is `me`; give one of authors,"),
        (HEADER + ROW.replace("a paper", '"a paper'), r"cannot be read \(unexpected end of data"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^{path}: .*{fault}") as refusal:
        read_published(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"model\0"])
def test_what_is_no_csv_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"own\.csv: "):
        read_published(tmp_path / "own.csv")


def test_it_is_refused_when_the_work_is_planned(tmp_path: Path) -> None:
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    for text, fault in ((HEADER + "SiT-B/2\n", "has 1 cells"), (None, "there is no file")):
        path = tmp_path / "own.csv"
        path.unlink(missing_ok=True)
        if text:
            path.write_text(text)
        report = config.report.model_copy(update={"published": str(path)})
        with pytest.raises(UserError, match=fault):
            _ = Inputs(config.model_copy(update={"report": report})).published
