"""Each option of the schema with values of the wrong type and of extreme size.

A value is accepted and written faithfully, or refused with the option's name.
"""

import copy
import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from vrpo.config import ExperimentConfig, parse_experiment
from vrpo.config.reading import deep_merge, read_yaml
from vrpo.config.strict_yaml import dump_yaml, parse_yaml
from vrpo.errors import UserError
from vrpo.plan.jobs import evaluations, shown
from vrpo.plan.resolved import resolved_files

from tests.fixtures import ROOT
from tests.fixtures.config import MINI

REPA, VRPO, VIT = MINI["alignments"]["repa"], MINI["alignments"]["vrpo"], MINI["encoders"]["vit"]
SCORED = {"eta": 0.1, "rewards": {"fidelity": {"score": 1.0}}}
ONE_OF_EACH = {  # every kind of section, and few runs
    "encoders": {"deep": {**VIT, "attention": [1, 2], "class_token": True}},
    "sizes": {"own": {"depth": 4, "width": 64, "heads": 4, "backbone": "mine:Network"}},
    "alignments": {
        "irepa": {"kind": "irepa", "encoders": ["vit"], "depth": 2},
        "haste": {"kind": "haste", "encoders": ["deep"], "depth": 2, "attention_blocks": [1, 2]},
        "contrastive": {"kind": "contrastive", "encoders": ["vit"], "depth": 2},
        "dispersive": {"kind": "dispersive", "depth": 2},
        "sra": {"kind": "sra", "depth": 2, "target_depth": 3},
        "reg": {"kind": "reg", "encoders": ["deep"], "depth": 2},
        "relational": {"kind": "relational", "encoders": ["vit"], "depth": 2},
        "custom": {"kind": "custom", "loss": "mine:Loss", "encoders": ["vit"], "depth": 2},
        "spatial": {**VRPO, **SCORED, "spatial": {}},
    },
    "samplers": {
        "steered": {
            **MINI["samplers"]["ode"],
            "guidance": {"kind": "representation", "classifier_free": {"scale": 2.0}},
        },
        "best": {**MINI["samplers"]["ddpm"], "guidance": {"kind": "best-of", "candidates": 2}},
    },
    "checkpoints": {"theirs": {"file": "theirs.pt", "family": "sit", "model": "S/2"}},
    "evaluation": {"extra_networks": {"more": MINI["evaluation"]["trained"]}},
    "representation": {"blocks": [1]},
    "tracking": {"preview": {}},
}
EXTREMES = [
    *(None, True, "", "a\0\nb", "{x}", "é" * 300),
    *(-1, 0, 1.5, 2**63, 10**400, 1e308, math.inf, math.nan),
    *([], [-1, -1], ["a", "a"], {}, {"x" * 300: {}}),
]


@cache
def bases() -> tuple[dict[str, Any], dict[str, Any]]:
    """Whole contents with every option: one with rows, one with a method benchmark."""
    rows = {
        **deep_merge(MINI, ONE_OF_EACH),
        "runs": {
            "dit": MINI["runs"]["dit-vrpo"],
            "sit": {**MINI["runs"]["sit-repa"], "seeds": [3], "milestones": [7]},
        },
    }
    methods = read_yaml(ROOT / "config/benchmark.yaml")
    few = {"processes": ["sit"], "ablations": [], "ablation_processes": None, "diagnosed": None}
    benchmark = deep_merge(deep_merge(MINI, methods), {"benchmark": few})
    return tuple(
        parse_experiment(content, "base").model_dump(mode="json") for content in (rows, benchmark)
    )


def options_of(options: BaseModel, *at: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(class, option, path) of all options of `options` and of the sections in it."""
    for name in type(options).model_fields:
        yield type(options).__name__, name, (*at, name)
        value = getattr(options, name)
        for key, section in value.items() if isinstance(value, dict) else [(None, value)]:
            if isinstance(section, BaseModel):
                yield from options_of(section, *at, name, *([] if key is None else [key]))


@cache
def every_option() -> dict[tuple[str, str], tuple[int, tuple[str, ...]]]:
    """{(class, option): (base, path of one place that has it)}."""
    found: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}
    for number, base in enumerate(bases()):
        for owner, name, path in options_of(parse_experiment(base, "base")):
            found.setdefault((owner, name), (number, path))
    return found


def test_every_option_of_the_schema_is_tried() -> None:
    schema = json.loads((ROOT / "docs/options.schema.json").read_text(encoding="utf-8"))
    sections = {"ExperimentConfig": schema, **schema["$defs"]}
    assert {
        (owner, name) for owner, section in sections.items() for name in section["properties"]
    } == every_option().keys()


def test_the_bases_are_accepted() -> None:
    for base in bases():
        assert faithful(parse_experiment(base, "base"))


def with_value(content: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.copy(content)
    changed[path[0]] = with_value(content[path[0]], path[1:], value) if path[1:] else value
    return changed


def faithful(config: ExperimentConfig) -> bool:
    """Whether the resolved configs can be made, and the experiment's says what was accepted."""
    assert resolved_files(config) and list(evaluations(config)) and list(shown(config))
    return (
        ExperimentConfig.model_validate(
            parse_yaml(dump_yaml(config.model_dump(mode="json")), "resolved")
        )
        == config
    )


@pytest.mark.parametrize("owner", sorted({owner for owner, _ in every_option()}))
def test_extreme_values(owner: str) -> None:
    outcomes = set()
    for (section, _), (base, path) in every_option().items():
        for value in EXTREMES if section == owner else []:
            what = f"{'.'.join(path)}: {str(value)[:40]}"
            try:
                config = parse_experiment(with_value(bases()[base], path, value), "some.yaml")
            except UserError as error:
                lines = str(error).splitlines()
                assert all(
                    line.startswith("some.yaml: ")
                    and line.isprintable()
                    and ";" in line
                    and len(line) < 600
                    for line in lines
                ), what
                assert any(part in line for line in lines for part in path[-2:]), (what, lines)
                assert len(lines) == 1 or isinstance(value, list | dict), (what, lines)
                outcomes.add("refused")
            else:
                assert faithful(config), what
                outcomes.add("accepted")
    assert "refused" in outcomes


def changed(**sections: Any) -> dict[str, Any]:
    return deep_merge(copy.deepcopy(MINI), sections)


def row(**options: Any) -> dict[str, Any]:
    return {"runs": {"sit-repa": options}}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"seeds": [-1]}, ["seeds.0", "greater than or equal to 0"]),
        ({"seeds": [10**29]}, ["seeds", "largest number, 9223372036854775807"]),
        (row(seeds=[2**63]), ["runs.sit-repa.seeds", "largest number"]),
        (row(seeds=[]), ["runs.sit-repa.seeds", "at least 1 item"]),
        ({"milestones": [10**30]}, ["milestones", "largest number"]),
        (row(milestones=[5, 5]), ["runs.sit-repa.milestones", "ascending"]),
        ({"runs": {"x" * 300: MINI["runs"]["sit-none"]}}, ["runs.xxx", "at most 100 characters"]),
        ({"runs": {"ab" * 25: MINI["runs"]["sit-none"]}}, ["runs.abab", "repeats `ab`"]),
        ({"encoders": {"a b": VIT}}, ["encoders.a b", "file names"]),
        ({"experiment": "-x"}, ["experiment", "begin with"]),
        (
            {"evaluation": {"extra_networks": {"s": MINI["evaluation"]["trained"]}}},
            ["evaluation", "extra_networks.s", "choose another name"],
        ),
        (row(model="mini/0"), ["runs.sit-repa.model", "'mini/0'", "SIZE/PATCH"]),
        (row(model="mini/٢"), ["runs.sit-repa.model", "SIZE/PATCH"]),
        (row(model="mini/3"), ["runs.sit-repa.model", "side of 8", "patches of 3"]),
        (
            {"checkpoints": {"theirs": {"file": "a.pt", "family": "sit", "model": "S/5"}}},
            ["checkpoints.theirs.model", "patches of 5"],
        ),
        (
            {"tokenizer": {"block_channels": [8] * 7}},
            ["tokenizer.block_channels", "7 levels divide by 64"],
        ),
        (
            {"tokenizer": {"block_channels": [8] * 10_000}},
            ["tokenizer.block_channels", "fewer levels"],
        ),
        ({"tokenizer": {"block_channels": [8, -8]}}, ["tokenizer.block_channels.1"]),
        ({"tokenizer": {"scale": 0}}, ["tokenizer.scale", "greater than 0"]),
        ({"samplers": {"ode": {"preset": ["a"]}}}, ["samplers.ode.preset", "'repa'", "['a']"]),
        (
            {"alignments": {"repa": {"encoders": ["vit", "vit"]}}},
            ["alignments.repa.encoders", "different"],
        ),
        (
            {"representation": {"encoders": ["vit", "vit"]}},
            ["representation.encoders", "different"],
        ),
        ({"representation": {"blocks": [1, 1]}}, ["representation.blocks", "different"]),
        (
            {"representation": {"blocks": [5]}},
            ["representation.blocks", "run sit-none has 4 blocks"],
        ),
        ({"encoders": {"vit": {"attention": [2, 1]}}}, ["encoders.vit.attention", "ascending"]),
        ({"training": {"adam_betas": [0.9, 1.0]}}, ["training.adam_betas.1", "less than 1"]),
        ({"training": {"learning_rate": math.inf}}, ["training.learning_rate", "not finite"]),
        (
            {"encoders": {"vit": {"arguments": {"drop": [math.nan]}}}},
            ["encoders.vit.arguments", "not finite"],
        ),
        ({"training": {"batch_size": True}}, ["training", "`batch_size` is True", "give a number"]),
        (
            {"alignments": {"repa": {"encoders": [False]}}},
            ["alignments.repa.encoders.0", "not False", "quotes"],
        ),
        (
            {"alignments": {"repa": {"kind": "rep"}}},
            ["alignments.repa.kind", "did you mean `repa`"],
        ),
        ({"alignments": {"repa": {"kind": None}}}, ["alignments.repa.kind"]),
        ({"results": ""}, ["results", "is empty"]),
        ({"results": "a{run}"}, ["results", "braces"]),
        ({"results": "x" * 256}, ["results", "too long"]),
        ({"results": "x/" * 2000}, ["results", "too long"]),
        ({"report": {"published": "a\nb"}}, ["report.published", "line breaks"]),
        ({"report": {"title": "a\x1b[31mb"}}, ["report.title", "control characters"]),
    ],
)
def test_refusals(sections: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_experiment(changed(**sections), "some.yaml")
    text = str(caught.value)
    assert "\n" not in text and [word for word in words if word not in text] == [], text


def test_a_refused_benchmark_is_one_line_without_runs() -> None:
    content = deep_merge(MINI, read_yaml(ROOT / "config/benchmark.yaml"))
    del content["runs"]
    for path, value in [
        (("benchmark", "compared"), "none"),
        (("benchmark", "model"), "mini/0"),
        (("milestones",), []),
    ]:
        with pytest.raises(UserError) as caught:
            parse_experiment(with_value(content, path, value), "some.yaml")
        assert ".".join(path) in str(caught.value) and "\n" not in str(caught.value), caught.value


def test_the_home_folder() -> None:
    assert parse_experiment(changed(results="~/results"), "some.yaml").results == str(
        Path.home() / "results"
    )
    assert parse_experiment(changed(results="a~/b"), "some.yaml").results == "a~/b"
