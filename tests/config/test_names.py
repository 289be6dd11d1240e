"""VRPO is the name of the full form, the default; every other form has a name of its own."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vrpo.benchmark import figures as benchmark_figures
from vrpo.benchmark.numbers import Benchmark
from vrpo.benchmark.page import write_benchmark
from vrpo.benchmark.tables import search_table
from vrpo.benchmark.verdict import verdict
from vrpo.config import load_experiment, parse_experiment
from vrpo.config.alignments import REPAOptions, VRPOOptions
from vrpo.config.alignments.base import SpatialOptions
from vrpo.config.benchmark import BenchmarkOptions
from vrpo.config.described import title
from vrpo.config.reading import deep_merge, read_yaml
from vrpo.config.strict_yaml import parse_yaml
from vrpo.errors import UserError
from vrpo.report import style
from vrpo.report.catalogue import report_entries
from vrpo.report.claims import judge
from vrpo.report.collect import _names
from vrpo.report.formatting import latex, markdown
from vrpo.report.results import read_metrics

from tests.fixtures import ROOT
from tests.fixtures.benchmark import OPTIONS, REPORT, metrics_of, write_collected
from tests.fixtures.report import MINIATURE, collected, metrics_frame

REWARDS = ("fidelity", "perceptual", "semantic")
POLICY = "policy term"
RAW = "standardisation"
FIDELITY = "VRPO (fidelity only)"


def vrpo(**options: Any) -> VRPOOptions:
    return VRPOOptions(kind="vrpo", encoders=["vit"], **options)


def experiment(alignment: dict[str, Any], **sections: Any) -> Any:
    """The miniature with another VRPO."""
    content = read_yaml(ROOT / "config/mini.yaml")
    content["alignments"]["vrpo"] = {"kind": "vrpo", "encoders": ["vit"], "depth": 2, **alignment}
    return parse_experiment(deep_merge(content, sections), "mini")


# ---- the options ----


def test_the_default_is_the_full_form() -> None:
    options = vrpo()
    assert (options.name, options.missing) == ("VRPO", [])
    assert options.eta == 0.1 and options.beta == 1.0 and options.least_rollouts == 32
    weights = {name: getattr(options.rewards, name) for name in REWARDS}
    assert {name: own.score for name, own in weights.items()} == dict.fromkeys(REWARDS, 1.0)
    assert [own.pathwise for own in weights.values()] == [0.1, 0.05, 0.0]
    assert options.spatial == SpatialOptions()
    assert options.needs_critic and options.group == 8 and not options.by_image


@pytest.mark.parametrize(
    ("options", "name", "missing"),
    [
        ({"beta": 0.0}, "VRPO", []),  # replaced
        ({"spatial": {}}, "VRPO", []),
        (
            {"eta": 0.0, "rewards": {"fidelity": {"pathwise": 0.05}}},
            FIDELITY,
            [POLICY, *REWARDS[1:]],
        ),
        (  # without a policy term a score is without effect
            {"eta": 0.0},
            "VRPO (fidelity and perceptual only)",
            [POLICY, "semantic"],
        ),
        (
            {"eta": 0.0, "rewards": {name: {"pathwise": 0.05} for name in REWARDS}},
            "VRPO (no policy term)",
            [POLICY],
        ),
        (
            {"rewards": {"fidelity": {"score": 1}, "semantic": {"score": 1}}},
            "VRPO (no perceptual reward)",
            ["perceptual"],
        ),
        (
            {"rewards": {"fidelity": {"score": 1, "pathwise": 0.05}}},
            "VRPO (no perceptual or semantic reward)",
            REWARDS[1:],
        ),
        ({"eta": 0.0, "rewards": {}}, "VRPO (no rewards)", [POLICY, *REWARDS]),
        ({"standardise": False}, "VRPO (raw rewards)", [RAW]),
        (
            {"standardise": False, "eta": 0.0, "rewards": {"fidelity": {"pathwise": 0.05}}},
            "VRPO (fidelity only, raw rewards)",
            [POLICY, *REWARDS[1:], RAW],
        ),
    ],
)
def test_a_reduced_form_says_what_is_missing(
    options: dict[str, Any], name: str, missing: list[str]
) -> None:
    expected = [part if part in (POLICY, RAW) else f"{part} reward" for part in missing]
    assert (vrpo(**options).name, vrpo(**options).missing) == (name, expected)


def test_different_forms_have_different_names() -> None:
    names = {
        vrpo(
            eta=eta,
            rewards={name: {"score": 1, "pathwise": 0.1} for name in chosen},
            standardise=standardise,
        ).name
        for standardise in (True, False)
        for eta in (0.0, 0.1)
        for count in range(4)
        for chosen in combinations(REWARDS, count)
        if count or not eta  # a policy term needs a score
    }
    assert len(names) == 29 and all(name == "VRPO" or name.startswith("VRPO (") for name in names)


def test_the_documented_forms_have_these_names() -> None:
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    (rows,) = re.findall(r"```yaml\n(anchored:.*?)```", text, re.DOTALL)
    forms = {name: VRPOOptions(**row) for name, row in parse_yaml(rows, "method.md").items()}
    names = {name: form.name for name, form in forms.items()}
    assert names == {"anchored": "VRPO", "replaced": "VRPO", "fidelity-only": FIDELITY}
    assert forms["anchored"] == vrpo() and forms["replaced"].beta == 0


def test_other_kinds_have_all_parts() -> None:
    options = REPAOptions(kind="repa", encoders=["vit"])
    assert (options.name, options.missing) == ("REPA", [])


# ---- labels of a config ----


@pytest.mark.parametrize(
    ("alignment", "label", "told"),
    [
        ({"eta": 0.0}, "VRPO", "has no policy term and no semantic reward; .* `VRPO .fidelity and"),
        (
            {"rewards": {"fidelity": {"score": 1}}},
            "vrpo",
            "has no perceptual reward and no semantic reward; give another label",
        ),
    ],
)
def test_the_name_of_the_full_form_is_refused_for_another(
    alignment: dict[str, Any], label: str, told: str
) -> None:
    with pytest.raises(UserError, match=told) as error:
        experiment(alignment, report={"labels": {"vrpo": label}})
    text = str(error.value)
    assert "report.labels.vrpo: `" in text and len(text.splitlines()) == 1


def test_no_other_kind_takes_the_name() -> None:
    with pytest.raises(UserError, match=r"labels.repa: `VRPO` .* is of kind `repa`; .* `REPA`"):
        experiment({}, report={"labels": {"repa": "VRPO"}})
    with pytest.raises(UserError, match=r"report.labels: .*did you mean `repa`"):
        experiment({}, report={"labels": {"rpea": "REPA"}})


def test_diagnosed_forms_are_called_by_their_names() -> None:
    content = [read_yaml(ROOT / f"config/{name}.yaml") for name in ("mini", "benchmark")]
    content = deep_merge(*content)
    content["alignments"]["reduced"] = {**content["alignments"]["vrpo-anchored"], "eta": 0.0}
    content["benchmark"]["ablations"] = ["reduced"]
    content["benchmark"]["diagnosed"] = {"VRPO": "reduced"}
    with pytest.raises(UserError, match=r"benchmark.diagnosed: `VRPO` .* has no policy term"):
        parse_experiment(content, "benchmark")
    kept = {"VRPO (without)": "reduced"}
    content["benchmark"]["diagnosed"] = {"VRPO": None, **kept}
    assert parse_experiment(content, "benchmark").benchmark.diagnosed == kept


@pytest.mark.parametrize("label", ["", " a", "a|b", "a\nb", "$a$", "a" * 61])
def test_labels_that_tables_cannot_hold_are_refused(label: str) -> None:
    with pytest.raises(UserError, match=r"report.labels.vrpo: .* give another label"):
        experiment({}, report={"labels": {"vrpo": label}})


def test_labels_name_what_is_trained_and_change_no_training() -> None:
    plain = experiment({"eta": 0.0})
    named = experiment({"eta": 0.0}, report={"labels": {"vrpo": "VRPO, two rewards"}})
    assert plain.label_of("vrpo") == "VRPO (fidelity and perceptual only)"
    assert named.label_of("vrpo") == _names(named, "sit-vrpo")["name"] == "VRPO, two rewards"
    assert "REPA and VRPO, two rewards on SiT" in title(named)
    assert plain.run_config("sit-vrpo", 0) == named.run_config("sit-vrpo", 0)
    full = experiment({}, report={"labels": {"vrpo": "VRPO"}})
    assert full.label_of("vrpo") == "VRPO" and full.label_of("none") == "none"


@pytest.mark.parametrize(
    "names",
    [
        ["mini"],
        ["mini", "benchmark"],
        ["imagenet256"],
        ["imagenet256", "ablations"],
        ["imagenet512"],
    ],
    ids=lambda names: names[-1],
)
def test_our_configs_call_no_reduced_form_vrpo(names: list[str]) -> None:
    config = load_experiment(*(ROOT / f"config/{name}.yaml" for name in names))
    for name, options in config.alignments.items():
        assert (config.label_of(name) == "VRPO") == (options.kind == "vrpo" and not options.missing)


# ---- tables and figures ----


def renamed(metrics: pd.DataFrame, name: str = FIDELITY) -> pd.DataFrame:
    """As collected: `name` for all runs of VRPO."""
    names = {"none": "none", "repa": "REPA", "haste": "HASTE", "vrpo": name}
    return metrics.assign(name=metrics["kind"].map(names))


def test_no_table_or_figure_calls_a_reduced_form_vrpo(tmp_path: Path) -> None:
    metrics = renamed(metrics_frame((0, 1, 2)))
    folder = collected(tmp_path / "collected", metrics)
    for path in folder.glob("*.csv"):  # as `collect` writes all of them
        renamed(pd.read_csv(path, keep_default_na=False, na_values=[""])).to_csv(path, index=False)
    assert set(read_metrics(folder)["label"]) == {"none", "REPA", FIDELITY}
    texts = []
    for entry in report_entries("table"):
        table = entry.make(MINIATURE, folder)
        texts += [markdown(table), latex(table)]
    with style.applied():
        for entry in report_entries("figure"):
            figure, data = entry.make(MINIATURE, folder)
            texts += [
                text.get_text() for text in figure.findobj(lambda found: hasattr(found, "get_text"))
            ]
            texts += data["label"].tolist() if "label" in data else []
    found = " ".join(texts)
    assert FIDELITY in found and "VRPO" not in found.replace(FIDELITY, "")
    assert f"{FIDELITY} better" in set(judge(read_metrics(folder), comparable=False)["finding"])


def test_ambiguous_forms_keep_the_configs_names_but_not_that_of_the_full_form(
    tmp_path: Path,
) -> None:
    metrics = renamed(metrics_frame())
    other = metrics[metrics["kind"] == "vrpo"].assign(
        run=lambda frame: frame["run"] + "-2", alignment="vrpo-w2"
    )
    labels = read_metrics(collected(tmp_path / "a", pd.concat([metrics, other])))["label"]
    assert set(labels) == {"none", "REPA", f"{FIDELITY}, vrpo", "vrpo-w2"}
    different = pd.concat([metrics, other.assign(name="VRPO")])
    labels = read_metrics(collected(tmp_path / "b", different))["label"]
    assert set(labels) == {"none", "REPA", FIDELITY, "VRPO"}


def test_a_reduced_form_has_vrpos_colour_where_it_is_alone() -> None:
    assert style.colours(["REPA", FIDELITY])[FIDELITY] == style.COLOURS["VRPO"]
    both = style.colours(["VRPO", FIDELITY])
    assert both["VRPO"] == style.COLOURS["VRPO"] != both[FIDELITY]


def test_the_benchmark_calls_its_chosen_form_by_its_name(tmp_path: Path) -> None:
    options = BenchmarkOptions.model_validate({**OPTIONS.model_dump(), "diagnosed": None})
    folder = write_collected(tmp_path / "collected", renamed(metrics_of()))
    benchmark = Benchmark(options, REPORT, folder)
    assert benchmark.labels["vrpo-b"] == FIDELITY and benchmark.labels["repa-a"] == "REPA"
    assert set(search_table(benchmark).shown["method"]) == {"REPA", FIDELITY}
    with style.applied():
        figure, _ = benchmark_figures.changes(benchmark)
        _, diagnosed = benchmark_figures.during_training(benchmark, "sit")
    assert figure.axes[0].get_xlabel() == f"FID more than {FIDELITY}'s (worse →)"
    assert set(diagnosed["label"]) == {"REPA", FIDELITY}
    sentences = " ".join(verdict(benchmark))
    assert f"ablations against {FIDELITY} by FID" in sentences
    assert "VRPO" not in sentences.replace(FIDELITY, "")
    write_benchmark(options, REPORT, folder, tmp_path / "out")
    tables = "".join(
        path.read_text() for path in (tmp_path / "out").glob("*.md") if path.stem != "README"
    )
    assert FIDELITY in tables and "VRPO" not in tables.replace(FIDELITY, "")
