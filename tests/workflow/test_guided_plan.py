"""Plans of guidance by the aligned representation: targets, moments, samples and the table."""

from pathlib import Path

import pytest

from vrpo.config.strict_yaml import dump_yaml

from tests.fixtures import ROOT
from tests.fixtures.workflow import TINY, plan, stats, whole

pytestmark = [pytest.mark.workflow]
MINI = ROOT / "config/mini.yaml", ROOT / "config/guidance.yaml"


def test_the_comparison_of_guidance_is_planned(tmp_path: Path) -> None:
    result = plan(tmp_path, "--config", "seeds=[0]", "--", "guidance", config=MINI)
    text = whole(result)
    assert result.returncode == 0, text[-4000:]
    jobs = stats(text)
    # two aligned runs of each process, whose samplers are six guided ones and four others
    assert {name: jobs[name] for name in ("train", "class_tokens", "reward_moments")} == {
        "train": 4,
        "class_tokens": 1,
        "reward_moments": 4,
    }
    assert (jobs["sample_guided"], jobs["sample"], jobs["evaluate"]) == (4 * 6, 4 * 4, 4 * 10)
    assert jobs["guidance"] == 1


def test_a_target_image_is_encoded_and_must_be_there(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    guidance = {"kind": "best-of", "target": str(image)}
    over = tmp_path / "over.yaml"
    over.write_text(dump_yaml({"samplers": {"best": {"kind": "ode-euler", "guidance": guidance}}}))
    target = "results/tiny/samples/sit-vrpo/seed0/step0000016/best.h5"
    result = plan(tmp_path, "--", target, config=(TINY, over))
    assert "samplers.best.guidance.target: there is no file" in whole(result)
    image.touch()
    jobs = stats(whole(plan(tmp_path, "--", target, config=(TINY, over))))
    assert jobs["image_tokens"] == jobs["sample_guided"] == 1
    assert not {"class_tokens", "reward_moments", "sample"} & jobs.keys()


def test_without_a_guided_sampler_there_is_no_table(tmp_path: Path) -> None:
    result = plan(tmp_path, "--", "guidance")
    assert result.returncode != 0
    assert "no sampler of this config is guided by the representation" in whole(result)
