"""Names in targets: those of the experiment are accepted, others refused with a list."""

import pytest

from vrpo.config import parse_experiment
from vrpo.errors import UserError
from vrpo.plan.jobs import evaluations, represented
from vrpo.plan.targets import Targets

from tests.fixtures.config import changed

CONFIG = parse_experiment(
    changed(
        runs={"dit-none": {"seeds": [3], "milestones": [2000]}},
        checkpoints={"theirs": {"file": "theirs.pt", "family": "sit", "model": "B/2", "step": 7}},
        samplers={"late": {"kind": "sde", "milestones": "last"}},
        encoders={"bought": {"architecture": "test_vit"}},
        evaluation={
            "extra_networks": {
                "fitted": {"architecture": "test_vit", "weights": "trained"},
                "bought": {"architecture": "test_vit"},
            }
        },
    ),
    "test",
)
TARGETS = Targets(CONFIG)


@pytest.mark.parametrize(
    ("require", "names", "words"),
    [
        (
            "run",
            ["sit-nnoe"],
            ["run: `sit-nnoe` is not in `runs` or `checkpoints`", "did you mean `sit-none`?"],
        ),
        ("milestone", ["sit-nnoe", "0", "0000500"], ["`sit-nnoe` is not in `runs`"]),
        ("milestone", ["sit-none", "5", "0000500"], ["seed 5 of `sit-none` is not in `seeds` [0]"]),
        (
            "milestone",
            ["sit-none", "00", "0000500"],
            ["seed 00 of `sit-none` is not in `seeds` [0]"],
        ),
        ("milestone", ["sit-none", "x", "0000500"], ["seed x of `sit-none` is not in `seeds` [0]"]),
        (
            "milestone",
            ["dit-none", "0", "0002000"],
            ["seed 0 of `dit-none` is not in `runs.dit-none.seeds` [3]"],
        ),
        (
            "milestone",
            ["theirs", "1", "0000007"],
            ["seed 1 of `theirs` is not in `checkpoints.theirs.seed` [0]"],
        ),
        (
            "milestone",
            ["sit-none", "0", "0000501"],
            ["step 0000501 of `sit-none` is not in `milestones` [500, 1000, 2000]"],
        ),
        ("milestone", ["sit-none", "0", "500"], ["step 500 of `sit-none` is not in `milestones`"]),
        (
            "milestone",
            ["dit-none", "3", "0000500"],
            ["step 0000500 of `dit-none` is not in `runs.dit-none.milestones` [2000]"],
        ),
        (
            "milestone",
            ["theirs", "0", "0000008"],
            ["step 0000008 of `theirs` is not in `checkpoints.theirs.step` [7]"],
        ),
        (
            "samples",
            ["sit-none", "5", "0000500", "ode"],
            ["seed 5 of `sit-none` is not in `seeds`"],
        ),
        (
            "samples",
            ["sit-none", "0", "0000500", "oed"],
            ["sampler: `oed` is not in `samplers`", "did you mean `ode`?"],
        ),
        (
            "samples",
            ["sit-none", "0", "0000500", "ddpm"],
            ["sampler `ddpm` does not serve `sit-none`", "`interpolant`", "name one of ode, late"],
        ),
        (
            "samples",
            ["sit-none", "0", "0000500", "late"],
            ["sampler `late` has `milestones: last`", "name step 0002000"],
        ),
        (
            "represented",
            ["sit-none", "0", "0000500"],
            ["representation of `sit-none` is not measured at step 0000500"],
        ),
        ("represented", ["theirs", "0", "0000007"], ["representation of `theirs` is not measured"]),
        ("encoder", ["vti"], ["encoder: `vti` is not in `encoders`", "did you mean `vit`?"]),
        ("fitted_encoder", ["bought"], ["encoder `bought` has `weights: timm`"]),
        ("fitted_encoder", ["vti"], ["encoder: `vti` is not in `encoders`"]),
        (
            "extra_network",
            ["bought"],
            ["`bought` is not in `evaluation.extra_networks` with `weights: trained`"],
        ),
    ],
)
def test_refusals(require: str, names: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        getattr(TARGETS, f"require_{require}")(*names)
    text = str(caught.value)
    assert (
        text.startswith("target: ")
        and "\n" not in text
        and [word for word in words if word not in text] == []
    ), text


def test_long_lists_are_cut() -> None:
    many = Targets(
        parse_experiment(changed(milestones=list(range(1, 5000)), representation=None), "test")
    )
    with pytest.raises(UserError) as caught:
        many.require_milestone("sit-none", "0", "0005000")
    assert len(str(caught.value)) < 300


def test_what_is_made() -> None:
    for run, seed, step, sampler in evaluations(CONFIG):
        TARGETS.require_samples(run, str(seed), f"{step:07d}", sampler)
    for run, seed, step in represented(CONFIG):
        TARGETS.require_represented(run, str(seed), f"{step:07d}")
    TARGETS.require_encoder("bought")
    TARGETS.require_fitted_encoder("vit")
    TARGETS.require_extra_network("fitted")
