"""Reports of experiments in which something that is compared is missing.

One milestone, one seed, one run, one logged row, or none.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vrpo.config.reading import deep_merge, parse_experiment, read_yaml
from vrpo.data.arrays import ArrayWriter
from vrpo.errors import UserError
from vrpo.files import write_text
from vrpo.plan.paths import Paths
from vrpo.report import style
from vrpo.report.catalogue import find
from vrpo.report.claims import ONE_MILESTONE, ONE_SEED, gains, headline, judge
from vrpo.report.collect import collect
from vrpo.report.diagnostics import compare
from vrpo.report.draw import draw
from vrpo.report.report import write_report
from vrpo.report.results import (
    read_diagnostics,
    read_metrics,
    read_protocol,
    read_samples,
    read_speed,
    seeds_text,
)

from tests.fixtures import ROOT
from tests.fixtures.metrics import make_images
from tests.fixtures.report import MINIATURE, blank_figures, collected, metrics_frame


def written(name, folder, tmp_path):
    """The table as text, and its numbers."""
    draw("table", name, MINIATURE, folder, tmp_path / f"{name}.csv")
    return (tmp_path / f"{name}.md").read_text(), pd.read_csv(tmp_path / f"{name}.csv")


def report_of(folder):
    """All of report.html but its pictures, of which there is only the place."""
    blank_figures(folder)
    write_report(MINIATURE, folder, folder / "report.html")
    return " ".join((folder / "report.html").read_text().split("<body>")[1].split())


def speaks_of_speed(text):
    return re.search(r"faster by|Faster:|\d\.\d\dx|≥|\bnan\b", text, re.IGNORECASE) is not None


# ---- one milestone -------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one seed", "three seeds"])
def test_one_milestone_says_nothing_of_speed(tmp_path, seeds):
    metrics = metrics_frame(seeds)
    folder = collected(tmp_path / "collected", metrics[metrics["step"] == 1500])
    text, data = written("gains", folder, tmp_path)
    assert not speaks_of_speed(text) and "FID gained" in text
    assert (
        data[["speedup", "speedup_low", "speedup_high"]].isna().all().all()
        and not data["at_least"].any()
    )
    assert data["gain"].notna().all() and data["gain_low"].notna().all() == (
        len(seeds) > 1
    )  # what one milestone does tell
    text, data = written("claims", folder, tmp_path)
    assert not speaks_of_speed(text)
    speed = data[data["claim"].str.startswith("training faster")]
    assert (
        len(speed) == 2
        and set(speed["verdict"]) == {ONE_MILESTONE}
        and set(speed["finding"]) == {"not run"}
        and speed["observed"].isna().all()
    )
    assert set(judge(read_metrics(folder), comparable=True)["verdict"]) == {
        ONE_MILESTONE,
        ONE_SEED if len(seeds) == 1 else "reproduced",
    }
    assert f"training faster than REPA's”: {ONE_MILESTONE}." in " ".join(
        headline(read_metrics(folder), comparable=True)
    )
    assert not speaks_of_speed(report_of(tmp_path))


def test_one_common_milestone_is_one(tmp_path):
    """The runs of one model share only the last milestone.

    Those of the other have all, and keep their speed.
    """
    metrics = metrics_frame((0, 1))
    folder = collected(
        tmp_path / "collected",
        metrics[~((metrics["run"] == "sit-vrpo") & (metrics["step"] < 1500))],
    )
    table = gains(read_metrics(folder)).set_index(["run", "base"])
    assert (
        table.loc[("sit-vrpo", "sit-repa"), "speedup"]
        != table.loc[("sit-vrpo", "sit-repa"), "speedup"]
    )  # NaN
    assert (
        table.loc[("sit-repa", "sit-none"), "speedup"] > 1
        and table.loc[("dit-vrpo", "dit-repa"), "speedup"] > 1
    )
    text, _ = written("gains", folder, tmp_path)
    lines = {line.split(" | ")[1]: line for line in text.splitlines() if line.startswith("| SiT")}
    assert "x [" in lines["REPA against none"] and "x" not in lines["VRPO against REPA"]


def test_a_milestone_that_a_seed_lacks_is_left_out_for_all(tmp_path):
    metrics = metrics_frame((0, 1, 2))
    metrics = metrics[
        ~((metrics["run"] == "sit-vrpo") & (metrics["seed"] == 1) & (metrics["step"] == 1500))
    ]
    row = (
        gains(read_metrics(collected(tmp_path / "collected", metrics)))
        .set_index(["run", "base"])
        .loc[("sit-vrpo", "sit-repa")]
    )
    assert (
        (row["step"], row["seeds"]) == (1000, 3)
        and row["gain"] == pytest.approx(2.9)
        and np.isfinite(row["speedup"])
    )


# ---- one seed, several, or not as many of each ---------------------------------------------------


def test_brackets_are_explained_only_where_there_are_any(tmp_path):
    for seeds, said in (
        ((0,), "One seed gives no interval."),
        ((0, 1), "In brackets 95% intervals over seeds: Student's t of the paired differences."),
    ):
        folder = collected(tmp_path / str(len(seeds)), metrics_frame(seeds))
        for name in ("gains", "claims"):
            text, _ = written(name, folder, tmp_path)
            assert said in text and (" [" in text) == (len(seeds) > 1)


def test_headline_counts_the_seeds_of_each_run(tmp_path):
    metrics = metrics_frame((0, 1, 2))
    folder = collected(
        tmp_path / "collected", metrics[~((metrics["kind"] == "vrpo") & (metrics["seed"] > 0))]
    )
    assert "REPA 11.00, VRPO 8.00 (mean of 1 to 3 seeds)." in " ".join(
        headline(read_metrics(folder), comparable=False)
    )
    assert [seeds_text(counts) for counts in ([1, 1], [3, 3], [2, 1, 3])] == [
        "one seed",
        "mean of 3 seeds",
        "mean of 1 to 3 seeds",
    ]


# ---- a pair that is missing ----------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("none",), ("vrpo",), ("repa",)], ids=str)
def test_one_run_of_a_model_is_compared_with_nothing(tmp_path, kinds):
    folder = collected(tmp_path / "collected", metrics_frame(kinds=kinds))
    text, data = written("gains", folder, tmp_path)
    assert (
        data.empty
        and "No two alignments of a model have a milestone in common." in text
        and not speaks_of_speed(text)
    )
    text, data = written("claims", folder, tmp_path)
    assert set(data["verdict"]) == {"not run"} and "[" not in text and "interval." not in text
    text, _ = written("convergence", folder, tmp_path)
    assert "**" not in text  # the only one is not the best
    assert not speaks_of_speed(report_of(tmp_path))


# ---- one row in the log, or none -----------------------------------------------------------------


def cut(folder, rows):
    """`folder` with the first `rows` logged steps of each training."""
    for name in ("training.csv", "diagnostics.csv"):
        log = pd.read_csv(folder / name)
        log[log["step"] <= 100 * rows].to_csv(folder / name, index=False)
    return folder


@pytest.mark.parametrize("name", ["losses", "rewards", "diagnostics"])
def test_a_single_logged_row_is_visible(tmp_path, name):
    """As a point: a line of one value draws nothing."""
    folder = cut(collected(tmp_path / "collected", metrics_frame()), 1)
    with style.applied():
        figure, data = find("figure", name).make(MINIATURE, folder)
    assert len(data)
    lines = [
        line for axis in figure.axes for line in axis.get_lines() if len(line.get_xdata()) == 1
    ]
    assert len(lines) >= 3 and all(line.get_marker() == "o" for line in lines)


def test_moments_of_a_short_training_are_not_told_apart(tmp_path):
    logged = {}
    for rows in (1, 2, 15):
        log = read_diagnostics(cut(collected(tmp_path / str(rows), metrics_frame()), rows))
        log = log[log["run"].isin(["sit-repa", "sit-vrpo"])]
        figure, _ = compare(log.assign(label=log["kind"]), "SiT-B/2")
        logged[rows] = figure.legends[0].get_title().get_text().partition("by noise level, ")[2]
    assert logged == {
        1: "at the end of the training",
        2: "light to dark in the order of the steps",
        15: "light to dark: after 10%, 40% of the training, and at its end",
    }


def test_nothing_logged_is_said(tmp_path):
    """Trainings shorter than `log_every`: every figure is drawn, and none says VRPO is missing."""
    folder = cut(collected(tmp_path / "collected", metrics_frame()), 0)
    for name, said in (
        ("losses", "ended before"),
        ("rewards", "ended before"),
        ("diagnostics", "trainings with VRPO ended before"),
    ):
        with style.applied():
            figure, data = find("figure", name).make(MINIATURE, folder)
        assert data.empty and said in figure.axes[0].texts[0].get_text()
        draw("figure", name, MINIATURE, folder, tmp_path / f"{name}.pdf")
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 0


def test_trainings_shorter_than_a_logged_row_are_collected(tmp_path):
    """They never began speed.csv, and their other logs are empty.

    The figures of what was collected are drawn.
    """
    content = deep_merge(
        read_yaml(ROOT / "config/mini.yaml"),
        {"results": str(tmp_path), "milestones": [50], "representation": None},
    )
    content["runs"] = {"sit-vrpo": content["runs"]["sit-vrpo"]}
    config = parse_experiment(content, "test")
    images, labels = make_images(20), np.arange(20) % 10
    described = {"fingerprint": "f", "resolution": images.shape[1], "classes": 10}
    for path in (
        Paths.of(config).shard(Paths.of(config).images, 0),
        Paths.of(config).folder / "samples/sit-vrpo/seed0/step0000050/ode.h5",
    ):
        with ArrayWriter(
            path,
            {"images": (images.shape, images.dtype), "labels": (labels.shape, labels.dtype)},
            described,
        ) as writer:
            writer.write(0, {"images": images, "labels": labels})
            writer.finish()
    record = {
        "run": "sit-vrpo",
        "seed": 0,
        "step": 50,
        "scores": {"fid": 5.0, "sfid": None, "kid": None},
        "protocol": {},
        "provenance": {},
    }
    write_text(
        Paths.of(config).folder / "metrics/sit-vrpo/seed0/step0000050/ode.json", json.dumps(record)
    )
    run = Paths.of(config).folder / "runs/sit-vrpo/seed0"
    for name in ("train.csv", "diagnostics.csv"):
        write_text(run / name, "")
    folder = Paths.of(config).folder / "collected"
    collect(config, folder)
    for name in ("losses", "rewards", "diagnostics"):
        draw("figure", name, MINIATURE, folder, tmp_path / f"{name}.pdf")
    assert read_speed(folder)["images_per_second"].isna().all()
    assert not speaks_of_speed(report_of(Paths.of(config).folder))
    write_text(run / "train.csv", "step,loss\n50,1.0\n")
    with pytest.raises(UserError, match=r"speed\.csv: the log of this training is missing"):
        collect(config, folder)
    write_text(run / "train.csv", "step,loss\n50,1")
    with pytest.raises(UserError, match=r"train\.csv: .* damaged \(its last line is cut off\)"):
        collect(config, folder)
    for name, read in (
        ("metrics.csv", read_metrics),
        ("samples.npz", read_samples),
        ("protocol.json", read_protocol),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(
            UserError, match=rf"{name}: is not as it was collected, .*--forcerun collect"
        ):
            read(folder)
        (folder / name).write_bytes(whole)
        read(folder)
