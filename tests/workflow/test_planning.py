"""What snakemake plans and what it refuses, without running a job."""

from pathlib import Path

import pytest
from running import ROOT, snakemake, whole

pytestmark = [pytest.mark.workflow]
IMAGENET = ROOT / "config/imagenet256.yaml"


def stats(text: str) -> dict[str, int]:
    table = text.split("Job stats:")[1].split("Job stats:")[0].split("\n\n")[0]
    return {line.split()[0]: int(line.split()[1]) for line in table.splitlines()[3:] if len(line.split()) == 2}


def test_the_paper_is_planned_without_imagenet(tmp_path: Path) -> None:
    result = snakemake(ROOT, "-n", "--workflow-profile", "slurm", "--config", f"results={tmp_path}", config=IMAGENET)
    text = whole(result)
    assert result.returncode == 0, text[-4000:]
    assert {name: stats(text)[name] for name in ("train", "sample", "evaluate", "encode_features")} == {
        "train": 60,
        "sample": 75,
        "evaluate": 75,
        "encode_features": 1,
    }
    said = [line for line in text.splitlines() if "no training images at data/imagenet/train" in line]
    assert len(said) == 1
    assert "gpu=8" in text and "nodes=1" in text and "runtime=720" in text


def test_the_default_is_planned(tmp_path: Path) -> None:
    result = snakemake(tmp_path, "-n", config=ROOT / "config/mini.yaml")
    assert result.returncode == 0, whole(result)[-4000:]
    assert stats(whole(result))["train"] == 18


@pytest.mark.parametrize("target", ["fid", "claims", "figures", "tables", "report", "prepare", "milestones"])
def test_named_targets(target: str, tmp_path: Path) -> None:
    result = snakemake(tmp_path, "-n", "--quiet", "rules", "--", target)
    assert result.returncode == 0, whole(result)[-4000:]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainig={batch_size: 8}", ["unknown option `trainig`", "did you mean `training`"]),
        ("training={batch_size: many}", ["training.batch_size", "'many'"]),
        ("milestones=[20, 10]", ["ascending"]),
    ],
)
def test_bad_options_are_one_line(override: str, words: list[str], tmp_path: Path) -> None:
    result = snakemake(tmp_path, "-n", "--config", override)
    text = whole(result)
    assert result.returncode != 0
    assert all(word in text for word in words), text
    assert "Traceback" not in text
    assert not (tmp_path / "results").exists(), "nothing is written for a config that is refused"
