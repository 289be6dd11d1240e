"""The section `benchmark`: the runs it gives, and what it refuses."""

from itertools import chain
from typing import Any

import pytest

from vrpo.config import ExperimentConfig, load_experiment, parse_experiment
from vrpo.config.benchmark import BenchmarkOptions
from vrpo.config.reading import deep_merge, read_yaml
from vrpo.plan.jobs import evaluations, shown
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import resolved_files
from vrpo.report.catalogue import benchmark_entries
from vrpo.report.collect import model_name

from tests.fixtures import ROOT
from tests.fixtures.config import refusal

SMALL = {
    "model": "mini/2",
    "processes": ["sit", "dit"],
    "search_seeds": [10],
    "verdict_seeds": [0, 1, 2, 3, 4],
    "validation": "fd_validation",
    "candidates": {"repa": ["repa", "repa-2"], "vrpo": ["vrpo", "vrpo-2"]},
    "chosen": {"repa": "repa", "vrpo": "vrpo-2"},
    "compared": ["none", "repa", "vrpo-2"],
    "ablations": ["vrpo"],
    "ablation_processes": ["sit"],
}


def content(**changes: Any) -> dict[str, Any]:
    mini = read_yaml(ROOT / "config/mini.yaml")
    alignments = mini["alignments"]
    more = {
        "alignments": {
            "repa-2": {**alignments["repa"], "weight": 2.0},
            "vrpo-2": {**alignments["vrpo"], "beta": 0.9},
        },
        "evaluation": {
            "extra_networks": {
                "validation": {
                    "architecture": "test_convnext",
                    "weights": "trained",
                    "image_size": 32,
                }
            }
        },
        "representation": None,
    }
    return {**deep_merge(mini, more), "benchmark": {**SMALL, **changes}}


def test_runs_are_generated_and_paired() -> None:
    config = parse_experiment(content(), "a")
    assert list(config.runs) == [
        *(
            f"search-{process}-{name}"
            for process in ("sit", "dit")
            for name in ("repa", "repa-2", "vrpo", "vrpo-2")
        ),
        *(f"sit-{name}" for name in ("none", "repa", "vrpo-2", "vrpo")),
        *(f"dit-{name}" for name in ("none", "repa", "vrpo-2")),
    ]
    rows = set(evaluations(config))
    assert {(seed, step) for run, seed, step, _ in rows if run.startswith("search")} == {(10, 2000)}
    assert {(seed, step) for run, seed, step, _ in rows if run == "dit-repa"} == {
        (seed, step) for seed in range(5) for step in (500, 1000, 2000)
    }
    assert {step for run, _, step, _ in rows if run == "sit-vrpo"} == {2000}  # an ablation
    assert {
        step
        for run, _, step, _ in evaluations(
            parse_experiment(content(ablation_milestones="all"), "b")
        )
        if run == "sit-vrpo"
    } == {500, 1000, 2000}
    assert {run for run, *_ in shown(config)} == {
        f"{process}-{name}" for process in ("sit", "dit") for name in ("none", "repa", "vrpo-2")
    }
    assert Paths.of(config).config("benchmark") in resolved_files(config)


def test_runs_of_one_seed_differ_in_their_alignment_alone() -> None:
    config = parse_experiment(content(), "a")
    ours, theirs = (
        config.run_config(run, 3).model_dump(exclude={"run", "alignment"})
        for run in ("sit-repa", "sit-vrpo-2")
    )
    assert ours == theirs


def test_what_is_read_back_is_the_same() -> None:
    config = parse_experiment(content(), "a")
    assert parse_experiment(config.model_dump(mode="json"), "b") == config


def made(config: ExperimentConfig) -> list[str]:
    return [entry.name for entry in benchmark_entries(config.benchmark)]


def test_before_a_choice_only_the_search_is_run() -> None:
    config = parse_experiment(content(chosen=None), "a")
    assert all(run.startswith("search-") for run in config.runs)
    assert made(config) == ["search"]


def test_without_a_search() -> None:
    config = parse_experiment(content(candidates=None, search_seeds=[], validation=None), "a")
    assert not any(run.startswith("search-") for run in config.runs)
    assert made(config)[:3] == ["compared", "ablations", "wall_time"]
    assert made(config)[3:] == [
        "changes",
        "scores",
        "scores_time",
        "diagnostics_sit",
        "diagnostics_dit",
    ]


def test_null_leaves_a_chosen_kind_out() -> None:
    changes = {"candidates": None, "search_seeds": [], "validation": None}
    chosen = {"repa": "repa", "vrpo": "vrpo-2", "irepa": None}
    assert parse_experiment(content(chosen=chosen, **changes), "a").benchmark.chosen == {
        "repa": "repa",
        "vrpo": "vrpo-2",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"candidates": {"repa": ["repa"], "vrpo": ["vrpo", "vrpo-2"]}},
            ["repa has 1, vrpo has 2", "equally many"],
        ),
        (
            {"candidates": {"repa": ["repa", "repa"], "vrpo": ["vrpo", "vrpo-2"]}},
            ["candidates.repa", "twice"],
        ),
        (
            {"candidates": {"repa": [], "vrpo": []}},
            ["candidates.repa", "empty"],
        ),
        (
            {"candidates": {"repa": ["repa", "repa-2"]}, "chosen": None},
            ["has `repa` and lacks `vrpo`", "add it"],
        ),
        ({"chosen": {"vrpo": "vrpo-2"}}, ["`chosen` has `vrpo` and lacks `repa`"]),
        (
            {"chosen": {"repa": "repa", "vrpo": "vrpo-2", "haste": "none"}},
            ["`chosen` has `repa`, `vrpo`, `haste`, `candidates` `repa`, `vrpo`"],
        ),
        (
            {"search_seeds": [4, 10]},
            ["seed 4 is in `search_seeds` and in `verdict_seeds`", "fresh"],
        ),
        ({"search_seeds": []}, ["`search_seeds` and `validation` must be"]),
        ({"search_seeds": [10, 10]}, ["`search_seeds`", "different"]),
        ({"verdict_seeds": [0, 1, 2, 3]}, ["`verdict_seeds`", "5 or more"]),
        ({"verdict_seeds": [0, 1, 2, 3, 3]}, ["`verdict_seeds`", "all different"]),
        ({"validation": "fid"}, ["both `fid`"]),
        ({"validation": "fd_validatoin"}, ["benchmark.validation", "did you mean `fd_validation`"]),
        ({"held_out": "fd_inception"}, ["benchmark.held_out", "`fd_inception` is not in"]),
        ({"processes": ["sit", "dti"]}, ["benchmark.processes", "did you mean `dit`"]),
        ({"ablation_processes": ["edm"]}, ["`ablation_processes`", "`edm`"]),
        ({"ablations": ["vrpo-3"]}, ["benchmark.ablations", "did you mean `vrpo-2`"]),
        ({"compared": ["none", "repa"]}, ["`chosen.vrpo`", "not in `compared`"]),
        ({"compared": ["none", "repa", "vrpo-2", "none"]}, ["`compared`", "twice"]),
        (
            {"chosen": {"repa": "none", "vrpo": "vrpo-2"}},
            ["`chosen.repa`", "not in `candidates.repa`"],
        ),
        (
            {"candidates": {"repa": ["repa", "vrpo"], "vrpo": ["vrpo", "vrpo-2"]}},
            ["candidates.repa", "of kind `vrpo`, this must be one of kind `repa`"],
        ),
        ({"candidates": None, "chosen": None}, ["neither `candidates` nor `chosen`"]),
        (
            {"diagnosed": {"REPA": "repa", "other": "repa-2"}},
            ["`diagnosed`", "`repa-2` is neither in `compared` nor in `ablations`"],
        ),
        ({"diagnosed": {"VRPO": "vrpo"}}, ["`diagnosed`", "nothing that is trained on `dit`"]),
        ({"processes": ["sit", "sit"]}, ["`processes`", "twice"]),
        ({"ablations": ["vrpo", "vrpo"]}, ["`ablations`", "twice"]),
        ({"ablation_processes": []}, ["benchmark.ablation_processes", "at least 1"]),
        ({"model": "mni/2"}, ["did you mean `mini`"]),
        ({"seeds": [1]}, ["unknown option `seeds` in `benchmark`"]),
    ],
)
def test_refusals(changes: dict[str, Any], words: list[str]) -> None:
    text = refusal(content(**changes))
    assert [word for word in words if word not in text] == [], text
    assert "\n" not in text


def test_paper_scale_ablations_hold_what_they_should() -> None:
    config = load_experiment(ROOT / "config/imagenet256.yaml", ROOT / "config/ablations.yaml")
    base = config.run_config("sit-vrpo-all", 0).alignment.model_dump()
    for run in config.benchmark.ablation_runs("sit"):
        assert config.run_config(run, 0).alignment.model_dump() != base, f"{run} ablates nothing"
    alignments = [
        config.run_config(run, 0).alignment for run in config.benchmark.ablation_runs("sit")
    ]
    for option_name in (
        "rewards",
        "group_size",
        "grouping",
        "eta",
        "clip",
        "encoders",
        "depth",
        "old_policy",
    ):
        assert any(
            getattr(alignment, option_name) != base[option_name] for alignment in alignments
        ), option_name
    everything = {str(alignment.model_dump()) for alignment in alignments}
    assert len(everything) == len(alignments), "two ablations are the same"


def test_paper_scale_ablations_share_the_rest_with_the_comparison() -> None:
    paths = [ROOT / "config/imagenet256.yaml", ROOT / "config/ablations.yaml"]
    comparison, ablations = (
        load_experiment(paths[0]).model_dump(),
        load_experiment(*paths).model_dump(),
    )
    for section in (
        "data",
        "tokenizer",
        "critic",
        "evaluation",
        "training",
        "samplers",
        "processes",
        "sizes",
    ):
        assert ablations[section] == comparison[section], section
    for section in ("encoders", "alignments"):
        kept = {name: ablations[section][name] for name in comparison[section]}
        assert kept == comparison[section], section


def test_what_the_miniature_compares_is_all_different_and_named_rightly() -> None:
    """The candidates for VRPO are full forms; each ablation lacks or changes something."""
    config = load_experiment(ROOT / "config/mini.yaml", ROOT / "config/benchmark.yaml")
    benchmark: BenchmarkOptions = config.benchmark
    assert {*benchmark.candidates} >= {"repa", "irepa", "contrastive", "vrpo"}
    assert {config.label_of(name) for name in benchmark.candidates["vrpo"]} == {"VRPO"}
    searched = chain.from_iterable(benchmark.candidates.values())
    names = {*searched, *benchmark.compared, *benchmark.ablations}
    described = {str(config.alignments[name].model_dump()) for name in names}
    assert len(described) == len(names), "two alignments of the benchmark are the same"


def test_processes_of_one_kind_are_told_apart_by_name() -> None:
    processes = {f"dit-{limit}": {"kind": "ddpm", "loss_weight_limit": limit} for limit in (3, 10)}
    weighted = content(processes=["dit", *processes], ablation_processes=["dit"])
    config = parse_experiment(deep_merge(weighted, {"processes": processes}), "a")
    assert model_name(config, "dit-repa") == "DiT-mini/2"
    names = {model_name(config, run) for run in config.runs}
    assert names == {"DiT-mini/2", "DiT-mini/2 (dit-3)", "DiT-mini/2 (dit-10)"}
