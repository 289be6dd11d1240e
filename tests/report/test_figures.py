"""Figures of made-up results."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vrpo.report import style
from vrpo.report.diagnostics import compare
from vrpo.report.draw import draw
from vrpo.report.results import read_diagnostics

from tests.fixtures.report import (
    FIGURES,
    MINIATURE,
    collected,
    metrics_frame,
)


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
                "fidelity weight",
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
