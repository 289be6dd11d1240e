"""Targets that the workflow does not make, and command lines that Snakemake would misread.

Each ends in one line.
"""

import random
from pathlib import Path

import pytest

from vrpo.config import load_experiment
from vrpo.errors import UserError

from tests.fixtures import ROOT
from tests.fixtures.workflow import TINY, plan, stats, whole

pytestmark = [pytest.mark.workflow]
THEIRS = "checkpoints={theirs: {file: theirs.pt, family: sit, model: tiny/2, step: 7}}"


def refusal(folder: Path, *arguments: str) -> str:
    """The one line of a refused command line."""
    result = plan(folder, "--quiet", "rules", *arguments)
    text = whole(result)
    assert result.returncode == 2, text[-4000:]
    assert text.count("vrpo: error: ") == 1 and "Traceback" not in text and "Exception" not in text
    return text.splitlines()[-1]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            "runs/sit-vrpo/seed5/step0000008.safetensors",
            ["seed 5 of `sit-vrpo` is not in `seeds` [0]"],
        ),
        (
            "runs/sit-vrp/seed0/step0000008.safetensors",
            ["`sit-vrp` is not in `runs` or `checkpoints`", "did you mean `sit-vrpo`?"],
        ),
        (
            "runs/theirs/seed1/step0000007.safetensors",
            ["seed 1 of `theirs` is not in `checkpoints.theirs.seed`"],
        ),
        (
            "samples/sit-vrpo/seed0/step0000008/oed.h5",
            ["sampler: `oed` is not in `samplers`", "did you mean `ode`?"],
        ),
        (
            "metrics/sit-vrpo/seed0/step0000009/ode.json",
            ["step 0000009 of `sit-vrpo` is not in `milestones` [8, 16]"],
        ),
        (
            "representation/sit-vrpo/seed0/step0000008.json",
            ["representation of `sit-vrpo` is not measured at step 0000008"],
        ),
        (
            "features/vti/shard-00000-of-00001.h5",
            ["encoder: `vti` is not in `encoders`", "did you mean `vit`?"],
        ),
        ("features/vti.json", ["encoder: `vti` is not in `encoders`"]),
        ("networks/encoder-vti.safetensors", ["encoder: `vti` is not in `encoders`"]),
        ("networks/critic-vti.safetensors", ["encoder: `vti` is not in `encoders`"]),
        ("networks/foo.safetensors", ["network: `foo` is not trained here", "known: "]),
        ("networks/tokenizer-x.safetensors", ["not trained here", "did you mean `tokenizer`?"]),
        (
            "networks/evaluation-other.safetensors",
            ["`other` is not in `evaluation.extra_networks`"],
        ),
    ],
)
def test_files_that_are_not_made(target: str, words: list[str], tmp_path: Path) -> None:
    line = refusal(tmp_path, "--config", THEIRS, "--", f"results/tiny/{target}")
    assert [word for word in words if word not in line] == [], line


def test_files_that_are_made(tmp_path: Path) -> None:
    (tmp_path / "theirs.pt").touch()
    files = [
        "runs/theirs/seed0/step0000007.safetensors",
        "samples/theirs/seed0/step0000007/ode.h5",
        "metrics/dit-none/seed0/step0000016/ddpm.json",
        "representation/sit-vrpo/seed0/step0000016.json",
        "networks/encoder-vit.safetensors",
        "networks/critic-vit.safetensors",
    ]
    result = plan(tmp_path, "--config", THEIRS, "--", *(f"results/tiny/{file}" for file in files))
    assert result.returncode == 0, whole(result)[-4000:]
    planned = stats(whole(result))
    assert {
        name: planned[name]
        for name in ("import_checkpoint", "train", "sample", "evaluate", "representation_of_run")
    } == {
        "import_checkpoint": 1,
        "train": 3,
        "sample": 2,
        "evaluate": 1,
        "representation_of_run": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "fidd"], ["fidd: neither a rule nor", "did you mean `fid`?"]),
        (["--", "./results/tiny/report.html"], ["name it `results/tiny/report.html`"]),
        (["--omit-from", "trian"], ["trian: neither a rule nor", "did you mean `train`?"]),
        (["--config", "seeds=[1]", "fid"], ["--config fid: not of the form NAME=VALUE", "`--`"]),
        (["--config", "seeds=[1]", "--config", "results=other"], ["--config: given twice"]),
    ],
)
def test_command_lines(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    line = refusal(tmp_path, *arguments)
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_files_that_snakemake_itself_cannot_read(profile: str, tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("experiment: café".encode("latin-1"))
    for file, words in (
        (latin, "latin.yaml: line 1: not UTF-8 text"),
        (tmp_path / "fid", "fid: no such file; correct its name, or, if it is a target"),
    ):
        result = plan(
            tmp_path, "--workflow-profile", str(ROOT / "profiles" / profile), config=(TINY, file)
        )
        text = whole(result)
        assert (
            result.returncode == 2 and words in text.splitlines()[-1] and "Traceback" not in text
        ), text[-4000:]


def test_damaged_files_are_planned_or_refused(tmp_path: Path) -> None:
    """As the commands read them (tests/config/test_fuzz.py), so does the workflow."""
    dice, whole_text, outcomes = random.Random(1), TINY.read_bytes(), set()
    for number in range(10):
        path, at = tmp_path / f"{number}.yaml", dice.randrange(len(whole_text))
        path.write_bytes(
            whole_text[:at]
            + bytes([whole_text[at] ^ (1 << dice.randrange(7))])
            + whole_text[at + 1 :]
        )
        result = plan(tmp_path, "--quiet", "rules", "--", "collect", config=path)
        text = whole(result)
        outcomes.add(result.returncode)
        try:
            load_experiment(path)
        except UserError:
            assert (
                result.returncode == 2
                and f"vrpo: error: {path}: " in text
                and "Traceback" not in text
            ), text[-4000:]
        else:
            assert result.returncode == 0 and "This was a dry-run" in text, text[-4000:]
    assert outcomes == {0, 2}


def test_another_workflow_asks_for_what_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(
        f"""
import yaml
module vrpo:
    snakefile: "{ROOT}/Snakefile"
    config: yaml.safe_load(open("{ROOT}/tests/workflow/tiny.yaml"))
use rule * from vrpo as vrpo_*
rule mine:
    default_target: True
    input: "results/tiny/runs/sit-vrpo/seed%s/step0000016.safetensors" % config["asked"]
"""
    )
    asked = ["--snakefile", "Snakefile", "--workflow-profile", "none"]
    (tmp_path / "asked.yaml").write_text("asked: 0\n")
    assert stats(whole(plan(tmp_path, *asked, config=tmp_path / "asked.yaml")))["vrpo_train"] == 2
    (tmp_path / "asked.yaml").write_text("asked: 5\n")
    result = plan(tmp_path, *asked, config=tmp_path / "asked.yaml")
    assert result.returncode == 2 and whole(result).splitlines()[-1].startswith(
        "vrpo: error: target: seed 5 of `sit-vrpo` is not in `seeds` [0]"
    )
