"""Figures, tables and claims from made-up results whose answers are known."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vrpo.config.options import ReportOptions
from vrpo.errors import UserError
from vrpo.report import style
from vrpo.report.catalogue import BENCHMARK, CATALOGUE, COLLECTED, Entry
from vrpo.report.claims import gains, headline, judge
from vrpo.report.collect import over_stretches
from vrpo.report.diagnostics import compare
from vrpo.report.draw import draw
from vrpo.report.report import write_report
from vrpo.report.results import last_milestone, main_sampler, read_diagnostics, read_metrics

from tests.fixtures import ROOT
from tests.fixtures.report import (
    FIGURES,
    IMAGENET,
    MINIATURE,
    TABLES,
    collected,
    metrics_frame,
)

# ---- numbers ----------------------------------------------------------------------------------------------------------


def test_gains_are_paired_by_seed(three_seeds: Path) -> None:
    table = gains(read_metrics(three_seeds))
    row = table[(table["run"] == "sit-vrpo") & (table["base"] == "sit-repa")].iloc[0]
    assert row["gain"] == pytest.approx(1.9)  # 2.0, 1.9, 1.8
    assert row["gain_high"] - row["gain"] == pytest.approx(
        4.302652729749464 * 0.1 / np.sqrt(3)
    )  # seeds' common shift is gone
    assert row["seeds"] == 3
    assert len(table) == 6


def test_seeds_without_a_partner_are_left_out() -> None:
    metrics = metrics_frame((0, 1, 2))
    metrics = metrics[~((metrics["kind"] == "vrpo") & (metrics["seed"] == 2))]
    table = gains(metrics.assign(label=metrics["kind"]))
    assert set(table.loc[table["kind"] == "vrpo", "seeds"]) == {2}


def test_verdicts(one_seed: Path, three_seeds: Path, tmp_path: Path) -> None:
    assert set(judge(read_metrics(one_seed), comparable=True)["verdict"]) == {
        "one seed proves nothing"
    }
    judged = judge(read_metrics(three_seeds), comparable=True)
    assert set(judged.loc[judged["claim"].str.startswith("FID"), "verdict"]) == {
        "reproduced"
    }  # [1.65, 2.15] reaches 1.8
    assert set(judged.loc[judged["claim"].str.startswith("training"), "verdict"]) == {
        "not reproduced"
    }
    assert set(judged["finding"]) == {"VRPO better"}
    assert (
        judge(read_metrics(three_seeds), comparable=False)["verdict"]
        .str.startswith("not run")
        .all()
    )
    without = read_metrics(
        collected(tmp_path / "collected", metrics_frame((0, 1), ("none", "repa")))
    )
    assert set(judge(without, comparable=True)["verdict"]) == {"not run"}


def test_headline_says_what_was_measured(one_seed: Path) -> None:
    text = " ".join(headline(read_metrics(one_seed), comparable=False))
    assert "SiT-B/2, FID after 1,500 steps: none 12.00, REPA 10.00, VRPO 8.00 (one seed)." in text
    assert "one seed proves nothing" in text


def test_main_sampler_and_last_milestone(one_seed: Path) -> None:
    metrics = read_metrics(one_seed)
    assert set(main_sampler(metrics)["sampler"]) == {"ode", "ddpm"}
    assert set(last_milestone(metrics)["step"]) == {1500}
    assert "guided" in " ".join(last_milestone(metrics)["sampler"])


def test_rivals_of_one_kind_keep_their_own_names(tmp_path: Path) -> None:
    metrics = metrics_frame()
    other = metrics[metrics["kind"] == "vrpo"].assign(
        run=lambda frame: frame["run"] + "-2", alignment="vrpo-eta1"
    )
    labels = read_metrics(collected(tmp_path / "collected", pd.concat([metrics, other])))["label"]
    assert set(labels) == {"none", "REPA", "vrpo", "vrpo-eta1"}


# ---- figures, tables, report ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_deterministic_and_not_blank(
    name: str, three_seeds: Path, tmp_path: Path
) -> None:
    for place in ("a", "b"):
        draw("figure", name, MINIATURE, three_seeds, tmp_path / place / f"{name}.pdf")
    for ending in ("pdf", "png", "csv"):
        first, second = (
            (tmp_path / place / f"{name}.{ending}").read_bytes() for place in ("a", "b")
        )
        assert first == second
    assert np.asarray(Image.open(tmp_path / "a" / f"{name}.png").convert("L")).std() > 5


def test_fid_figure_holds_the_band(three_seeds: Path, tmp_path: Path) -> None:
    draw("figure", "fid", MINIATURE, three_seeds, tmp_path / "fid.pdf")
    data = pd.read_csv(tmp_path / "fid.csv")
    row = data[(data["run"] == "sit-repa") & (data["step"] == 1500)].iloc[0]
    assert (row["least"], row["mean"], row["greatest"], row["seeds"]) == (10.0, 11.0, 12.0, 3)
    assert set(data["label"]) == {"none", "REPA", "VRPO"}


def test_rewards_without_vrpo_say_so(tmp_path: Path) -> None:
    folder = collected(tmp_path / "collected", metrics_frame(kinds=("none", "repa")))
    draw("figure", "rewards", MINIATURE, folder, tmp_path / "rewards.pdf")
    assert (tmp_path / "rewards.png").stat().st_size > 0


def test_diagnostics_figure_sets_vrpo_beside_repa(three_seeds: Path, tmp_path: Path) -> None:
    draw("figure", "diagnostics", MINIATURE, three_seeds, tmp_path / "a.pdf")
    data = pd.read_csv(tmp_path / "a.csv").set_index(["run", "quantity", "step"])
    assert set(data["label"]) == {"REPA", "VRPO"} and set(data.index.get_level_values("run")) == {
        "sit-repa",
        "sit-vrpo",
    }
    overall, by_level = data[data["noise_level"].isna()], data[data["noise_level"].notna()]
    assert overall.loc[("sit-vrpo", "weight", 1500), "mean"] == pytest.approx(1.5)  # 1.25 and 1.75
    assert overall.loc[("sit-repa", "weight", 1500), "mean"] == 1.0
    assert overall.loc[("sit-repa", "kl", 1500), "mean"] == pytest.approx(0.25)  # 1 - cos
    assert [
        overall.loc[("sit-vrpo", f"advantage_{part}", 1500), "mean"] for part in range(1, 7)
    ] == pytest.approx([1 / 6] * 6)
    assert by_level.loc[("sit-vrpo", "error", 500), "mean"].tolist() == pytest.approx(
        [0.25 / 500, 0.75 / 500]
    )
    logged = read_diagnostics(three_seeds)
    logged = logged[logged["run"].isin(["sit-repa", "sit-vrpo"])]
    critic_free = logged.drop(
        columns=[name for name in logged if name.startswith("advantage_") or name == "perceptual"]
    )
    for rows, shown in (
        (
            logged,
            [
                "denoising error",
                "perceptual reward",
                "semantic reward",
                "weight of the alignment",
                "rollouts by advantage",
            ],
        ),
        (
            critic_free.assign(pathwise_fidelity=10 ** critic_free["noise_level"]),
            [
                "denoising error",
                "semantic reward",
                "weight of the alignment",
                "pathwise weight, fidelity",
            ],
        ),
    ):
        figure, _ = compare(rows.assign(label=rows["kind"]), "SiT-mini/2")
        titles = [
            axis.get_title(loc="left") or axis.get_title() for axis in figure.axes if axis.axison
        ]
        assert titles == [
            *shown,
            "KL to encoder's policy / κ",
            "share of clipped ratios",
        ]  # no panel for what nobody logged
    folder = collected(tmp_path / "collected", metrics_frame(kinds=("none", "repa")))
    draw("figure", "diagnostics", MINIATURE, folder, tmp_path / "b.pdf")
    assert (tmp_path / "b.png").stat().st_size > 0


def test_long_logs_are_averaged_over_stretches_of_steps() -> None:
    rows = pd.DataFrame(
        [
            {"step": step, "noise_level": level, "value": step + level}
            for step in range(10, 130, 10)
            for level in (0.25, 0.75)
        ]
    )
    short = over_stretches(rows, stretches=4)
    assert short["step"].tolist() == [30, 30, 60, 60, 90, 90, 120, 120]
    assert short["value"].tolist() == [20.25, 20.75, 50.25, 50.75, 80.25, 80.75, 110.25, 110.75]
    pd.testing.assert_frame_equal(over_stretches(rows, stretches=50), rows)
    assert over_stretches(rows[:0]).empty


def test_representation_figure_holds_all_levels_and_may_be_empty(
    one_seed: Path, tmp_path: Path
) -> None:
    draw("figure", "representation", MINIATURE, one_seed, tmp_path / "a.pdf")
    data = pd.read_csv(tmp_path / "a.csv")
    assert set(data["noise_level"]) == {0.2, 0.5, 0.8} and set(data["label"]) == {
        "none",
        "REPA",
        "VRPO",
    }
    folder = collected(tmp_path / "collected", metrics_frame())
    (folder / "representation.csv").write_text(
        (folder / "representation.csv").read_text().splitlines()[0] + "\n"
    )
    draw("figure", "representation", MINIATURE, folder, tmp_path / "b.pdf")
    assert (tmp_path / "b.png").stat().st_size > 0


def test_labels_at_line_ends_keep_their_distance() -> None:
    placed = style._spread(np.array([0.0, 1.0, 2.0, 50.0]), 10.0)
    assert np.diff(placed).min() >= 10.0 - 1e-9
    assert placed[:3].mean() == pytest.approx(1.0)
    assert placed[3] == 50.0


def test_colours_are_the_same_everywhere() -> None:
    assert style.colours(["none", "REPA", "VRPO"]) == style.COLOURS
    assert style.colours(["VRPO", "iREPA"])["VRPO"] == style.COLOURS["VRPO"]


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
    assert "%" not in latex.split("\n", 1)[1].replace(r"\%", "")


def test_published_numbers_stand_only_beside_imagenet(three_seeds: Path, tmp_path: Path) -> None:
    draw("table", "comparison", MINIATURE, three_seeds, tmp_path / "mini.csv")
    draw("table", "comparison", IMAGENET, three_seeds, tmp_path / "imagenet.csv")
    assert set(pd.read_csv(tmp_path / "mini.csv")["source"]) == {"this pipeline"}
    published = pd.read_csv(tmp_path / "imagenet.csv")
    assert 24.4 in set(published.loc[published["source"] != "this pipeline", "fid"])
    assert set(published["model"]) == {
        "SiT-B/2",
        "DiT-XL/2",
    }  # what is not compared here does not appear


def test_best_is_bold_only_where_there_is_a_rival(three_seeds: Path, tmp_path: Path) -> None:
    draw("table", "comparison", MINIATURE, three_seeds, tmp_path / "t.csv")
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert [
        line for line in lines if "VRPO" in line and "| ode |" in line and "**9.10 ± 1.10**" in line
    ]
    assert not [line for line in lines if "guided" in line and "**" in line]  # all equal


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


def test_entries_of_the_catalogue_are_whole() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    for entry in [*CATALOGUE, *BENCHMARK]:
        module, _, name = entry.function.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert entry.title and set(entry.needs) <= set(COLLECTED)
        assert not entry.caption or entry.caption.endswith(".")


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_an_entry_reads_what_it_needs_and_nothing_else(
    entry: Entry, three_seeds: Path, tmp_path: Path
) -> None:
    for file in entry.needs:
        shutil.copy(three_seeds / file, tmp_path)
    assert entry.make(MINIATURE, tmp_path)


def test_the_makefile_asks_the_catalogue() -> None:
    words = [sys.executable, "-m", "vrpo.report.catalogue"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.split() == [*FIGURES, *TABLES]
    assert (
        "FIGURE ?= $$(python -m vrpo.report.catalogue) report\n" in (ROOT / "Makefile").read_text()
    )


def test_bad_input_is_named(one_seed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"figure `fidd`.*known: fid"):
        draw("figure", "fidd", MINIATURE, one_seed, tmp_path / "x.pdf")
    with pytest.raises(
        UserError,
        match=r"^table `claim`: not in the catalogue; known: comparison, convergence, gains, claims$",
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
