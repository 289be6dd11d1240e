"""The method benchmark's numbers and words against made-up results whose answers are known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vrpo.benchmark import figures, numbers
from vrpo.benchmark.page import write_benchmark
from vrpo.benchmark.snapshot import redraw_snapshot, write_snapshot
from vrpo.benchmark.verdict import against_repa, faster, verdict
from vrpo.config import parse_experiment
from vrpo.config.benchmark import BenchmarkOptions
from vrpo.errors import UserError
from vrpo.plan.paths import Paths
from vrpo.report.catalogue import benchmark_entries
from vrpo.runtime.machine import processor

from tests.fixtures import ROOT
from tests.fixtures.benchmark import KINDS, OPTIONS, REPORT, metrics_of, write_collected

METRICS = metrics_of()


def without(**changes: object) -> BenchmarkOptions:
    return BenchmarkOptions.model_validate({**OPTIONS.model_dump(), **changes})


def benchmark_of(options: BenchmarkOptions, metrics: pd.DataFrame) -> numbers.Benchmark:
    benchmark = numbers.Benchmark(options, REPORT, Path())
    vars(benchmark)["metrics"] = metrics
    return benchmark


# ---- the rule ---------------------------------------------------------------------------------------------------------


def test_rule_takes_the_lowest_and_ties_go_to_the_first() -> None:
    assert numbers.choose({"a": 2.0, "b": 1.0, "c": 3.0}) == "b"
    assert numbers.choose({"a": 1.0099, "b": 1.0}) == "a"
    assert numbers.choose({"a": 1.011, "b": 1.0}) == "b"
    assert numbers.choose({"a": 1.5, "b": 1.005, "c": 1.0}) == "b"


def test_search_table_and_agreement_with_the_config() -> None:
    searched = benchmark_of(OPTIONS, METRICS).searched
    assert list(searched["candidate"]) == ["repa-a", "repa-b", "vrpo-a", "vrpo-b"]
    np.testing.assert_allclose(searched["mean"], [3.02, 3.0, 2.5, 2.0])
    columns = [
        "sit_10",
        "sit_11",
        "dit_10",
        "dit_11",
    ]  # the mean is geometric: processes whose scores differ in size weigh the same
    np.testing.assert_allclose(
        searched[columns].iloc[2], 2.5 * np.array([1 / 4.4, 1.1 / 4, 4 / 1.1, 4.4])
    )
    assert list(searched["rule"]) == list(searched["chosen"]) == [True, False, False, True]
    assert benchmark_of(OPTIONS, METRICS).disagreements == []


def test_disagreement_is_said_plainly(tmp_path: Path) -> None:
    other = without(
        chosen={"repa": "repa-b", "vrpo": "vrpo-b"},
        compared=["none", "repa-b", "vrpo-b"],
        diagnosed=None,
    )
    metrics = metrics_of()
    verdict_rows = metrics[metrics["run"].isin(["sit-repa-a", "dit-repa-a"])].replace(
        {"repa-a": "repa-b", "sit-repa-a": "sit-repa-b", "dit-repa-a": "dit-repa-b"}
    )
    write_benchmark(
        other,
        REPORT,
        write_collected(tmp_path / "collected", pd.concat([metrics, verdict_rows])),
        tmp_path / "benchmark",
    )
    text = (tmp_path / "benchmark/README.md").read_text()
    assert (
        "**The config and the rule disagree: `benchmark.chosen.repa` is `repa-b`, the rule gives `repa-a`."
        in text
    )


def test_before_anything_is_chosen_only_the_search_is_reported(tmp_path: Path) -> None:
    searching = without(chosen=None)
    assert set(searching.rows([500])) == {
        *searching.search_runs("sit"),
        *searching.search_runs("dit"),
    }
    metrics = METRICS[METRICS["run"].str.startswith("search-")]
    write_benchmark(
        searching, REPORT, write_collected(tmp_path / "collected", metrics), tmp_path / "benchmark"
    )
    assert {path.name for path in (tmp_path / "benchmark").iterdir()} == {
        "README.md",
        "search.csv",
        "search.md",
        "search.tex",
    }
    assert (
        "`benchmark.chosen.vrpo` is not set; the rule gives `vrpo-b`."
        in (tmp_path / "benchmark/README.md").read_text()
    )


# ---- the comparison ---------------------------------------------------------------------------------------------------


def test_comparison_is_paired_and_in_both_spaces() -> None:
    table = benchmark_of(OPTIONS, METRICS).compared.set_index(["process", "alignment", "score"])
    row = table.loc[("dit", "vrpo-b", "fid")]
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (2.0, 2.0, 2.0)
    assert (
        row["speedup"] == row["speedup_high"] == pytest.approx(2.0)
    )  # 4.0 is reached at 1,000 of 2,000 steps
    assert (row["reached"], row["seeds"], row["step"], row["label"]) == (5, 5, 2000, "VRPO")
    assert table.loc[("sit", "vrpo-b", "fd_validation"), "gain"] == 1.0
    assert np.isnan(table.loc[("sit", "repa-a", "fid"), "gain"])
    assert table.loc[("sit", "none", "fid"), "gain"] == -4.0
    assert table.loc[("sit", "none", "fid"), "speedup"] == pytest.approx(0.5)
    haste = table.loc[("sit", "haste", "fid")]
    assert haste["gain_low"] < 0 < haste["gain_high"]
    assert haste["gain"] == pytest.approx(-0.2)
    assert haste["reached"] == 2  # seeds 1 and 3, whose wobble is -0.4 and -0.2
    assert set(table["label"]) == {"none", "REPA", "HASTE", "VRPO"}


def test_ablations_are_compared_with_the_chosen_vrpo() -> None:
    table = benchmark_of(OPTIONS, METRICS).ablated.set_index(["alignment", "score"])
    assert table.loc[("vrpo-worse", "fid"), ["change", "change_low", "change_high"]].tolist() == [
        3.0,
        3.0,
        3.0,
    ]
    alike = table.loc[("vrpo-alike", "fid")]
    assert (
        alike["change"] == pytest.approx(0.0, abs=1e-12)
        and alike["change_low"] < 0 < alike["change_high"]
    )
    assert set(table["process"]) == {"sit"}


def test_a_second_form_of_repa_is_not_called_repa() -> None:
    options = without(compared=[*OPTIONS.compared, "repa-b", "vrpo-a"])
    kinds = pd.DataFrame({"alignment": list(KINDS), "kind": list(KINDS.values())})
    named = benchmark_of(options, kinds).labels
    assert named == {
        "none": "none",
        "repa-a": "REPA",
        "haste": "HASTE",
        "vrpo-b": "VRPO",
        "repa-b": "repa-b",
        "vrpo-a": "vrpo-a",
    }


def test_without_a_search_none_is_told(tmp_path: Path) -> None:
    options = without(candidates=None)
    write_benchmark(
        options, REPORT, write_collected(tmp_path / "collected", METRICS), tmp_path / "benchmark"
    )
    text = (tmp_path / "benchmark/README.md").read_text()
    assert "Search:" not in text and "Verdict: seeds 0, 1, 2, 3, 4, by fid." in text


def test_one_milestone_tells_no_speed(tmp_path: Path) -> None:
    metrics = METRICS[METRICS["step"] == METRICS["step"].max()]
    compared = benchmark_of(OPTIONS, metrics).compared
    assert compared["speedup"].isna().all() and compared["gain"].notna().sum() == 2 * 2 * 3
    write_benchmark(
        OPTIONS, REPORT, write_collected(tmp_path / "collected", metrics), tmp_path / "benchmark"
    )
    text = (tmp_path / "benchmark/README.md").read_text()
    assert (
        "VRPO beats REPA by 2.00 FID" in text
        and "steps saved" not in text
        and "fewer steps" not in text
        and "nan" not in text
    )


def test_changes_are_those_of_the_ablations_and_of_repa(tmp_path: Path) -> None:
    _, data = figures.changes(
        numbers.Benchmark(OPTIONS, REPORT, write_collected(tmp_path, METRICS))
    )
    assert set(data["process"]) == {"sit"}, "ablations were run on one process"
    fid = data[data["score"] == "fid"].set_index("alignment")["change"]
    assert fid.to_dict() == pytest.approx(
        {"vrpo-worse": 3.0, "vrpo-alike": 0.0, "REPA": 2.0}, abs=1e-12
    )


def test_wall_time_is_steps_over_cost(tmp_path: Path) -> None:
    benchmark = numbers.Benchmark(OPTIONS, REPORT, write_collected(tmp_path, METRICS))
    table = benchmark.wall_time.set_index(["process", "label"])
    assert table.loc[("sit", "VRPO"), "cost"] == pytest.approx(1.25)
    assert table.loc[("sit", "VRPO"), "speedup"] == pytest.approx(2.0 / 1.25)


def test_missing_runs_are_named() -> None:
    with pytest.raises(UserError, match=r"run `dit-haste` has no score `fid`"):
        assert benchmark_of(OPTIONS, METRICS[METRICS["run"] != "dit-haste"]).compared is not None
    unscored = METRICS.assign(
        fid=METRICS["fid"].where((METRICS["run"] != "sit-none") | (METRICS["step"] != 2000))
    )
    with pytest.raises(UserError, match=r"run `sit-none` has no score `fid`"):
        assert benchmark_of(OPTIONS, unscored).compared is not None


@pytest.mark.parametrize(
    ("run", "seed", "step"),
    [("dit-haste", 3, None), ("sit-repa-a", 1, None), ("sit-vrpo-b", 2, 2000)],
)
def test_a_missing_seed_or_milestone_is_named_and_not_counted(
    run: str, seed: int, step: int | None
) -> None:
    gone = (
        (METRICS["run"] == run)
        & (METRICS["seed"] == seed)
        & (METRICS["step"] == (step or METRICS["step"]))
    )
    with pytest.raises(UserError, match=rf"run `{run}` lacks scores `fid` of seed {seed}"):
        assert benchmark_of(OPTIONS, METRICS[~gone]).compared is not None


def test_a_missing_seed_of_the_search_is_named() -> None:
    searched = METRICS[METRICS["run"].str.startswith("search-")]
    run, seed = searched.iloc[-1][["run", "seed"]]
    with pytest.raises(UserError, match=rf"run `{run}` lacks scores `\w+` of seed {seed}"):
        assert (
            benchmark_of(
                OPTIONS, METRICS[(METRICS["run"] != run) | (METRICS["seed"] != seed)]
            ).searched
            is not None
        )


def test_the_second_score_is_called_after_the_search_only_where_there_was_one() -> None:
    unsearched = OPTIONS.model_copy(update={"candidates": None})
    for options, words in (
        (OPTIONS, "in the score that the search looked at, VRPO"),
        (unsearched, "in the second feature space, VRPO"),
    ):
        sentences = verdict(benchmark_of(options, METRICS))
        assert any(words in sentence for sentence in sentences)


# ---- words ------------------------------------------------------------------------------------------------------------

ROW = {
    "label": "VRPO",
    "score": "fid",
    "seeds": 5,
    "gain": 0.3,
    "gain_low": 0.1,
    "gain_high": 0.5,
    "at_least": False,
    "reached": 5,
}
FAST = {"speedup": 1.2, "speedup_low": 1.1, "speedup_high": 1.3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "VRPO beats REPA by 0.30 FID [0.10, 0.50] over 5 seeds."),
        (
            {"gain": -0.3, "gain_low": -0.5, "gain_high": -0.1},
            "VRPO is worse than REPA by 0.30 FID [0.10, 0.50] over 5 seeds.",
        ),
        (
            {"gain_low": -0.1, "score": "fd_validation"},
            "VRPO against REPA is undecided: +0.30 FD-validation [-0.10, +0.50] over 5 seeds.",
        ),
    ],
)
def test_gain_in_words(change: dict[str, object], words: str) -> None:
    assert against_repa({**ROW, **change}) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            [
                "in 1.20x [1.10, 1.30] fewer steps",
                "2.3x, which is about ImageNet-256, is not reached here",
            ],
        ),
        ({"speedup_high": 2.5}, ["is within the interval"]),
        ({"speedup_low": 2.4, "speedup_high": 2.6}, ["is exceeded here"]),
        (
            {"speedup_low": 0.9, "reached": 3.0},
            [
                "is undecided: 1.20x [0.90, 1.30]",
                "does not reach REPA's last score in 2 of 5 seeds",
            ],
        ),
        ({"speedup": 0.8, "speedup_low": 0.7, "speedup_high": 0.9}, ["needs more steps than REPA"]),
        (
            {"at_least": True},
            [
                "in at least 1.20x",
                "2.3x, which is about ImageNet-256, cannot be judged by milestones this far apart",
            ],
        ),
        ({"at_least": True, "speedup_low": 2.4, "speedup_high": 2.6}, ["is exceeded here"]),
    ],
)
def test_speed_in_words(change: dict[str, object], words: list[str]) -> None:
    text = faster({**ROW, **FAST, **change})
    assert [word for word in words if word not in text] == [], text


def test_verdict_names_every_part() -> None:
    text = " ".join(verdict(benchmark_of(OPTIONS, METRICS)))
    for words in (
        "On SiT-mini/2, VRPO beats REPA by 2.00 FID",
        "On DiT-mini/2",
        "1.00 FD-validation",
        "none is worse than REPA by 4.00 FID",
    ):
        assert words in text
    assert "worse: `vrpo-worse` +3.00 [+3.00, +3.00]; undecided: `vrpo-alike`" in text


# ---- files ------------------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_everything_is_written_and_always_the_same(tmp_path: Path) -> None:
    collected = write_collected(tmp_path / "collected", METRICS)
    for name in ("a", "b"):
        write_benchmark(OPTIONS, REPORT, collected, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    wanted = {file for entry in benchmark_entries(OPTIONS) for file in entry.files}
    assert set(files(tmp_path / "a")) == wanted | {"README.md"}
    text = (tmp_path / "a/compared.md").read_text()
    assert (
        "| SiT-mini/2 | VRPO | `vrpo-b` | **2.00 ± 0.00** | +2.00 [+2.00, +2.00] |" in text
        and "made up" in text
    )
    readme = (tmp_path / "a/README.md").read_text()
    assert (
        "disagree" not in readme and "images/s" not in readme
    )  # what is by the clock is not among what is the same each time
    times = pd.read_csv(tmp_path / "a/scores_time.csv")
    assert times.loc[
        (times["label"] == "VRPO") & (times["score"] == "fid"), "seconds_of_training"
    ].max() == pytest.approx(2000 * 64 / 64)
    diagnosed = {
        process: pd.read_csv(tmp_path / f"a/diagnostics_{process}.csv")
        for process in ("sit", "dit")
    }
    assert list(dict.fromkeys(diagnosed["sit"]["label"])) == ["REPA", "VRPO", "VRPO, worse"]
    assert list(dict.fromkeys(diagnosed["dit"]["label"])) == [
        "REPA",
        "VRPO",
    ]  # the ablation was trained on the other process alone
    assert {run.partition("-")[0] for run in diagnosed["dit"]["run"]} == {"dit"}
    assert all(f"(diagnostics_{process}.png)" in readme for process in diagnosed)
    steps = pd.read_csv(tmp_path / "a/scores.csv")
    assert set(steps["score"]) == {"fid", "fd_validation"} and set(steps["seeds"]) == {5}


def test_snapshot_is_the_same_but_for_the_machine(
    tmp_path: Path, mini_benchmark: dict[str, object]
) -> None:
    config = parse_experiment(
        {**mini_benchmark, "results": str(tmp_path / "results"), "benchmark": OPTIONS.model_dump()},
        "made up",
    )
    with pytest.raises(UserError, match="run the benchmark to its end"):
        write_snapshot(config, tmp_path / "early")
    write_collected(Paths.of(config).folder / "collected", METRICS)
    write_benchmark(
        OPTIONS,
        REPORT,
        Paths.of(config).folder / "collected",
        Paths.of(config).folder / "benchmark",
    )
    for name in ("a", "b"):
        write_snapshot(config, tmp_path / name)
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert {name for name in first if first[name] != second[name]} <= {"machine.json"}
    assert {"README.md", "compared.md", "metrics.csv", "scores.png", "provenance.json"} <= set(
        first
    )
    whole, copied = (
        pd.read_csv(folder / "diagnostics_dit.csv")
        for folder in (Paths.of(config).folder / "benchmark", tmp_path / "a")
    )
    drawn = {200, 800, 2000}  # 10%, 40% and the end of what was logged
    assert set(copied["step"]) == drawn
    pd.testing.assert_frame_equal(copied, whole[whole["step"].isin(drawn)].reset_index(drop=True))
    assert json.loads(first["machine.json"])["processor"] == processor()
    provenance = json.loads(first["provenance.json"])
    assert provenance["benchmark"]["verdict_seeds"] == [0, 1, 2, 3, 4] and provenance[
        "versions"
    ] == {"torch": ["2.15"]}
    elsewhere = parse_experiment(
        {**mini_benchmark, "results": str(tmp_path), "benchmark": OPTIONS.model_dump()}, "made up"
    )
    (tmp_path / elsewhere.experiment).symlink_to(Paths.of(config).folder)
    write_snapshot(elsewhere, tmp_path / "c")
    assert files(tmp_path / "c")["provenance.json"] == first["provenance.json"]
    with pytest.raises(UserError, match="no method benchmark"):
        write_snapshot(
            parse_experiment({**mini_benchmark, "benchmark": None}, "made up"), tmp_path / "none"
        )


def test_a_snapshot_is_redrawn_from_its_own_files(
    tmp_path: Path, mini_benchmark: dict[str, object]
) -> None:
    words = {"title": REPORT.title, "metric_space": REPORT.metric_space}
    config = parse_experiment(
        {
            **mini_benchmark,
            "results": str(tmp_path / "results"),
            "benchmark": OPTIONS.model_dump(),
            "report": words,
        },
        "made up",
    )
    write_collected(Paths.of(config).collected, METRICS)
    write_benchmark(OPTIONS, REPORT, Paths.of(config).collected, Paths.of(config).benchmark)
    folder = tmp_path / "snapshot"
    write_snapshot(config, folder)
    before = files(folder)
    redrawn = (
        "README.md",
        "compared.md",
        "ablations.csv",
        "search.md",
        "wall_time.md",
        "changes.png",
        "scores.png",
    )
    for name in redrawn:
        (folder / name).unlink()
    redraw_snapshot(folder)
    assert files(folder) == before
    (folder / "provenance.json").write_text("{}")
    with pytest.raises(UserError, match=r"provenance\.json: missing or not a snapshot's"):
        redraw_snapshot(folder)


@pytest.fixture
def mini_benchmark() -> dict[str, object]:
    """config/mini.yaml with the alignments that the made-up benchmark names."""
    from vrpo.config.reading import deep_merge, read_yaml

    from tests.fixtures.benchmark import KINDS

    mini = read_yaml(ROOT / "config/mini.yaml")
    repa, vrpo = mini["alignments"]["repa"], mini["alignments"]["vrpo"]
    haste = {
        "kind": "haste",
        "encoders": ["vit"],
        "depth": 2,
        "attention_blocks": [2],
        "stop_step": 5,
    }
    bases = {"none": {"kind": "none"}, "repa": repa, "vrpo": vrpo, "haste": haste}
    more = {
        "alignments": {name: bases[kind] for name, kind in KINDS.items()},
        "encoders": {"vit": {"attention": [2]}},
    }
    network = {"architecture": "test_convnext", "weights": "trained", "image_size": 32}
    return deep_merge(
        mini,
        {
            **more,
            "experiment": "made-up",
            "evaluation": {"extra_networks": {"validation": network}},
        },
    )


def test_metrics_are_read_as_collected(tmp_path: Path) -> None:
    labels = numbers.Benchmark(OPTIONS, REPORT, write_collected(tmp_path, METRICS)).labels
    assert labels == {"none": "none", "repa-a": "REPA", "haste": "HASTE", "vrpo-b": "VRPO"}
