"""The report and the input that it refuses."""

from pathlib import Path

import pytest

from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
from vrpo.report.draw import draw
from vrpo.report.report import write_report

from tests.fixtures.report import (
    FIGURES,
    MINIATURE,
    TABLES,
)


def test_report_is_whole(three_seeds: Path) -> None:
    folder = three_seeds.parent
    for name in FIGURES:
        draw("figure", name, MINIATURE, three_seeds, folder / f"figures/{name}.pdf")
    write_report(MINIATURE, folder, folder / "report.html")
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(FIGURES)
    assert "http" not in html.replace("https://", "http://").split("<body>")[1].replace(
        "http://www.w3.org", ""
    )
    assert "miniature: made up" in html and "Nothing on this page is comparable" in html
    readme = (folder / "README.md").read_text()
    assert all(f"`figures/{name}." in readme for name in FIGURES) and all(
        f"`tables/{name}." in readme for name in TABLES
    )
    first = (folder / "report.html").read_bytes()
    write_report(MINIATURE, folder, folder / "report.html")
    assert (folder / "report.html").read_bytes() == first


def test_bad_input_is_named(one_seed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"figure `fidd`.*known: fid"):
        draw("figure", "fidd", MINIATURE, one_seed, tmp_path / "x.pdf")
    with pytest.raises(
        UserError,
        match=(
            r"^table `claim`: not in the catalogue; known: comparison, convergence, "
            r"gains, claims$"
        ),
    ):
        draw("table", "claim", MINIATURE, one_seed, tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"metrics.csv: is missing"):
        draw("figure", "fid", MINIATURE, tmp_path, tmp_path / "x.pdf")
    (tmp_path / "metrics.csv").write_text("run,fid\n")
    with pytest.raises(UserError, match="lacks the column"):
        draw("figure", "fid", MINIATURE, tmp_path, tmp_path / "x.pdf")
    (tmp_path / "samples.npz").write_bytes(b"PK half a file")
    with pytest.raises(UserError, match=r"samples.npz: not a .npz, truncated or damaged"):
        draw("figure", "samples", MINIATURE, tmp_path, tmp_path / "x.pdf")
    with pytest.raises(UserError, match="published numbers"):
        draw(
            "table",
            "comparison",
            ReportOptions(published=str(tmp_path / "absent.csv")),
            one_seed,
            tmp_path / "x.csv",
        )
    assert not list(tmp_path.glob("x.*"))
