"""Configs: accepted and refused content, messages, and the files written for the stages."""

from pathlib import Path
from typing import Any

import pytest

from vrpo.config import load_experiment, load_resolved, parse_experiment
from vrpo.config.data import DataOptions
from vrpo.config.reading import sealed
from vrpo.config.resolved import CollectOptions, RunConfig
from vrpo.errors import UserError
from vrpo.plan.jobs import collection, evaluations, shown
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import Plan

from tests.fixtures import ROOT
from tests.fixtures.config import MINI, OVER, changed, refusal

FIDELITY = {"eta": 0, "rewards": {"fidelity": {"pathwise": 0.05}}}
SCORING = {"eta": 0.1, "rewards": {"fidelity": {"score": 1.0}}}


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "config").glob("*.yaml"), ROOT / "tests/workflow/tiny.yaml"],
    ids=lambda path: path.name,
)
def test_shipped_configs_are_sound(path: Path) -> None:
    config = load_experiment(*(path.with_name(name) for name in OVER.get(path.name, [])), path)
    assert list(evaluations(config))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(millestones=[1]), ["unknown option `millestones`", "did you mean `milestones`"]),
        (
            changed(training={"learning_rat": 1e-3}),
            ["unknown option `learning_rat` in `training`", "did you mean `learning_rate`"],
        ),
        (changed(alignments={"repa": {"wheight": 1}}), ["`wheight`", "did you mean `weight`"]),
        (changed(training={"batch_size": "many"}), ["training.batch_size", "integer", "'many'"]),
        (
            changed(training={"batch_size": 0}),
            ["training.batch_size", "greater than or equal to 1"],
        ),
        (
            changed(alignments={"repa": {"encoders": ["vitt"]}}),
            ["alignments.repa.encoders", "`vitt` is not in `encoders`", "did you mean `vit`"],
        ),
        (
            changed(runs={"sit-none": {"process": "sti"}}),
            ["runs.sit-none.process", "did you mean `sit`"],
        ),
        (
            changed(runs={"sit-none": {"alignment": "vrp"}}),
            ["runs.sit-none.alignment", "did you mean `vrpo`"],
        ),
        (
            changed(runs={"sit-none": {"model": "XXL/2"}}),
            ["runs.sit-none.model", "`XXL` is not in `sizes`", "did you mean `XL`"],
        ),
        (changed(runs={"sit-none": {"model": "XL"}}), ["SIZE/PATCH"]),
        (
            changed(alignments={"repa": {"depth": 9}}),
            ["runs.sit-repa", "block 9", "lower `alignments.repa.depth`"],
        ),
        (
            changed(alignments={"vrpo": {"group_size": 7}}),
            ["alignments.vrpo.group_size: groups of 7", "multiple of 7", "divisor of 64"],
        ),
        (changed(alignments={"vrpo": {"group_size": 128}}), ["alignments.vrpo.group_size"]),
        (
            changed(alignments={"vrpo": {"group_size": 128, "grouping": "image", **SCORING}}),
            ["alignments.vrpo.group_size", "do not divide the 64 samples"],
        ),
        (
            changed(alignments={"vrpo": {"spatial": {"kernel_size": 2}}}),
            ["alignments.vrpo.spatial.kernel_size", "1, 3, 5 or 7"],
        ),
        (
            changed(alignments={"vrpo": {"least_rollouts": -1}}),
            ["alignments.vrpo.least_rollouts", "greater than or equal to 0"],
        ),
        (
            changed(alignments={"vrpo": {"least_rollouts": 400}}),
            ["alignments.vrpo.least_rollouts", "never reached", "about 320"],
        ),
        (
            changed(alignments={"vrpo": {**FIDELITY, "grouping": "image"}}),
            ["alignments.vrpo", "`grouping: image`", "`eta` is 0"],
        ),
        (
            changed(alignments={"vrpo": {**FIDELITY, "old_policy": "ema"}}),
            ["alignments.vrpo", "`old_policy: ema`", "`eta` is 0"],
        ),
        (
            changed(alignments={"vrpo": {**SCORING, "old_policy": "ema", "kappa": 50.0}}),
            ["alignments.vrpo", "`kappa` 50", "at most 40"],
        ),
        (
            changed(alignments={"vrpo": {**SCORING, "weight": 0.0}}),
            ["alignments.vrpo", "`weight`, lambda, is zero", "`eta: 0`"],
        ),
        (
            changed(alignments={"repa": {"weight_schedule": {"final": 0.1}}}),
            ["weight_schedule", "has no `start`, `end` or `final`"],
        ),
        (
            changed(alignments={"none": {"encoders": ["vit"]}}),
            ["unknown option `encoders` in `alignments.none`"],
        ),
        (
            changed(alignments={"vrpo": {"noise_bins": 5}}),
            ["unknown option `noise_bins` in `alignments.vrpo`"],
        ),
        (
            changed(alignments={"vrpo": {"rewards": {"agreement": {"score": 1.0}}}}),
            ["unknown option `agreement` in `alignments.vrpo.rewards`"],
        ),
        (
            changed(
                alignments={"repa": {"weight_schedule": {"kind": "stop", "start": 5, "end": 9}}}
            ),
            ["weight_schedule", "has no `start`"],
        ),
        (
            changed(alignments={"repa": {"weight": 0}}),
            ["alignments.repa", "`weight` is zero", "`kind: none`"],
        ),
        (
            changed(alignments={"vrpo": {**FIDELITY, "eta": 0.1}}),
            ["alignments.vrpo", "all `rewards.*.score` weights are zero", "`eta: 0`"],
        ),
        (
            changed(
                alignments={
                    "vrpo": {"weight": 0, "eta": 0, "rewards": {"fidelity": {"pathwise": 0}}}
                }
            ),
            ["`weight` and all `rewards.*.pathwise`"],
        ),
        (
            changed(
                alignments={"vrpo": {"eta": 0, "beta": 0, "rewards": {"fidelity": {"pathwise": 0}}}}
            ),
            ["`beta`, `eta`", "`kind: none`"],
        ),
        (
            changed(training={"accumulation": 3}),
            [
                "training.batch_size: the global batch 64 is not divisible by 1 GPUs or ranks x 3",
                "multiple of 3",
            ],
        ),
        (changed(milestones=[500, 400]), ["milestones", "ascending"]),
        (changed(resources={"gpus": 8}), ["`gpus` in `resources`", "RULE:gpu=N", "`device: cpu`"]),
        (changed(resources={"memory_mb": 8}), ["`memory_mb`", "--set-resources RULE:mem_mb=N"]),
        (changed(methods={}), ["`methods`", "is called `benchmark` now"]),
        (changed(seeds=[1, 1]), ["seeds", "different"]),
        (
            changed(samplers={"ode": {"guidance": {"interval": [0.2, 1.5]}}}),
            ["samplers.ode.guidance", "[0, 1]"],
        ),
        (
            {**changed(), "samplers": {"ode": MINI["samplers"]["ode"]}},
            ["runs.dit-none", "no sampler", "ddpm"],
        ),
        (changed(data={"source": "folder"}), ["data", "`root`"]),
        (changed(runs={"a/b": MINI["runs"]["sit-none"]}), ["file names"]),
        ({key: value for key, value in changed().items() if key != "runs"}, ["`runs` is missing"]),
    ],
)
def test_bad_input_is_named(content: dict[str, Any], words: list[str]) -> None:
    text = refusal(content)
    assert [word for word in words if word not in text] == [], text
    assert "\n" not in text and "Traceback" not in text


def test_every_mistake_is_told() -> None:
    assert (
        len(refusal(changed(training={"batchsize": 1}, evaluation={"split": 1})).splitlines()) == 2
    )


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_experiment(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1, 2")
    with pytest.raises(UserError, match="not valid YAML"):
        load_experiment(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="a config is a mapping"):
        load_experiment(tmp_path / "list.yaml")


def test_later_files_override_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("seeds: [3, 4]\ntraining: {batch_size: 32}\n")
    config = load_experiment(ROOT / "config/mini.yaml", tmp_path / "more.yaml")
    assert config.seeds == [3, 4]
    assert config.training.batch_size == 32
    assert config.training.learning_rate == MINI["training"]["learning_rate"]


def test_evaluations_follow_milestones_and_samplers() -> None:
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    rows = list(evaluations(config))
    assert len(rows) == 15 * (4 + 1) == len(set(rows))
    assert {step for _, _, step, sampler in rows if sampler.endswith("guided")} == {400_000}
    assert all(("sde" in sampler) == run.startswith("sit") for run, _, _, sampler in rows)
    assert [row for row in shown(config) if row not in rows] == []


def texts(plan: Plan) -> dict[str, str]:
    return {
        path.relative_to(Paths.of(plan.experiment).folder).as_posix(): text
        for path, text in plan.texts.items()
    }


def test_planning_writes_nothing_and_knows_what_is_stale(tmp_path: Path) -> None:
    plan = Plan.of(parse_experiment(changed(results=str(tmp_path)), "mini"))
    assert list(tmp_path.iterdir()) == []
    path, text = next(iter(plan.texts.items()))
    assert not plan.is_stale(path), "what is missing is made anyway"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert not plan.is_stale(path)
    path.write_text(text + "learning_rate: 0.5\n")
    assert plan.is_stale(path)


def test_a_resolved_config_changes_only_with_what_its_stage_depends_on() -> None:
    before = texts(Plan.of(parse_experiment(changed(), "mini")))
    title = texts(Plan.of(parse_experiment(changed(report={"title": "another"}), "mini")))
    assert {name for name in title if title[name] != before[name]} == {
        "config/report.yaml",
        "config/experiment.yaml",
    }
    seeds = texts(Plan.of(parse_experiment(changed(seeds=[0, 1]), "mini")))
    runs = [name.split("/")[1] for name in before if name.startswith("runs/")]
    assert {name for name in seeds if seeds[name] != before.get(name)} == {
        "config/experiment.yaml",
        "config/collect.yaml",
        *(f"runs/{run}/seed1/config.yaml" for run in runs),
    }


def test_resolved_files_are_read_back(tmp_path: Path) -> None:
    config = parse_experiment(changed(results=str(tmp_path)), "mini")
    for path, text in Plan.of(config).texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert load_resolved(
        RunConfig, Paths.of(config).folder / "runs/dit-vrpo/seed0/config.yaml"
    ) == config.run_config("dit-vrpo", 0)
    assert load_resolved(
        CollectOptions, Paths.of(config).folder / "config/collect.yaml"
    ) == collection(config)
    assert load_experiment(Paths.of(config).folder / "config/experiment.yaml") == config
    with pytest.raises(UserError, match="unknown option"):
        load_resolved(RunConfig, Paths.of(config).folder / "config/collect.yaml")


def test_cluster_jobs_get_the_plan_they_were_submitted_with(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    plan = Plan.of(parse_experiment(changed(results=str(tmp_path)), "mini"))
    plan.publish(environment)
    assert Plan.published({}) is None
    assert Plan.published(environment) is None, "it is published before it is written"
    plan.write()
    assert Plan.published(environment) == plan
    Plan.of(parse_experiment(changed(results=str(tmp_path), seeds=[3]), "mini")).write()
    with pytest.raises(
        UserError, match=r"\.plan\.yaml: another workflow was started .*; start the workflow again"
    ):
        Plan.published(environment)


def test_a_config_too_long_for_a_command_is_refused_when_planned() -> None:
    many = {
        f"run-{number:05d}-{'-long' * 10}": {
            "model": "mini/2",
            "process": "sit",
            "alignment": "none",
        }
        for number in range(2000)
    }
    with pytest.raises(UserError, match="cut the experiment in two"):
        Plan.of(parse_experiment(changed(runs=many), "mini"))


def test_rows_that_are_null_are_left_out() -> None:
    """So a later file can drop rows; what another row needs stays needed."""
    dropped = changed(runs={"sit-none": None}, samplers={"unused": None}, encoders={"x": None})
    config = parse_experiment(dropped, "mini")
    assert list(config.runs) == [name for name in MINI["runs"] if name != "sit-none"]
    assert {"unused", "x"}.isdisjoint([*config.samplers, *config.encoders])
    scores = {"extra_networks": {"judge": None}}
    assert parse_experiment(changed(evaluation=scores), "mini").evaluation.extra_networks == {}
    assert "runs.sit-repa.alignment" in refusal(changed(alignments={"repa": None}))
    assert "runs: dictionary should have at least 1" in refusal(
        changed(runs=dict.fromkeys(MINI["runs"]))
    )


def test_a_run_depends_on_nothing_else() -> None:
    base, other = (
        parse_experiment(changed(), "a"),
        parse_experiment(
            changed(report={"title": "x"}, resources={"threads": 2}, milestones=[7]), "b"
        ),
    )
    assert base.run_config("sit-vrpo", 0) == other.run_config("sit-vrpo", 0)
    assert base.run_config("sit-vrpo", 0) != base.run_config("sit-vrpo", 1)


def test_a_resolved_config_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.yaml"
    path.write_text(sealed({"source": "digits", "resolution": 32}))
    assert load_resolved(DataOptions, path).resolution == 32
    path.write_text(path.read_text().replace("32", "64"))
    with pytest.raises(
        UserError,
        match=r"images\.yaml: changed since this job was planned; start the workflow again",
    ):
        load_resolved(DataOptions, path)
    path.write_text("source: digits\nresolution: 64\n")  # written by hand, for a stage by hand
    assert load_resolved(DataOptions, path).resolution == 64
