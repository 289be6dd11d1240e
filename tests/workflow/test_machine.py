"""What jobs ask of a machine, and what is refused before the first of them."""

from pathlib import Path

import pytest
from running import snakemake, whole

pytestmark = [pytest.mark.workflow]
TRAINED = "results/tiny/runs/sit-vrpo/seed0/step0000008.safetensors"


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ("{gpus: 2}", "resources.gpus: 2 GPUs are asked for, this machine offers none"),
        ("{device: cuda, gpus: 1}", "resources.gpus: a GPU is asked for, this machine offers none"),
        ("{device: cuda}", "resources.gpus: 0 does not go with `resources.device: cuda`"),
    ],
)
def test_gpus_that_are_missing_are_refused_before_the_first_job(resources: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = snakemake(tmp_path, "--cores", "1", "--config", f"resources={resources}", "--", TRAINED)
    text = whole(result)
    assert result.returncode != 0
    assert words in text and "Traceback" not in text
    assert not list(tmp_path.rglob("images*.h5")), "no job was started"


def test_stages_without_gpus_run_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a config that states GPUs, which nothing that is due needs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = snakemake(tmp_path, "--cores", "1", "--config", "resources={device: cuda, gpus: 2}", "--", "results/tiny/images.h5")
    assert result.returncode == 0, whole(result)[-4000:]
