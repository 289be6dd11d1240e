"""Requests of jobs to a machine or a queue, and refusals before the first job."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fixtures.workflow import command, environment, snakemake, whole

pytestmark = [pytest.mark.workflow]
AUTO = ["--config", "resources={device: auto}", "--set-resources"]
TRAINED = "results/tiny/runs/sit-vrpo/seed0/step0000008.safetensors"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            [*AUTO, "train:gpu=2"],
            "gpu: 2 GPUs are asked for, this machine offers none",
        ),
        (
            ["--config", "resources={device: cuda}"],
            "gpu: a GPU is asked for, this machine offers none",
        ),
        (
            [*AUTO, "train:gpu=3", "-n"],
            "train:gpu=3: the global batch 16 is not divisible by 3 GPUs",
        ),
        ([*AUTO, "train:gpu=3", "-n"], "or --set-resources train:gpu=N with N in [1, 2]"),
        (["--set-resources", "train:gpu=2", "-n"], "the config has `resources: {device: cpu}`"),
        (["--set-resources", "train:gpu=x", "-n"], "train:gpu=x: is no number of GPUs"),
        (["--set-resources=train:gpu=1.5", "-n"], "train:gpu=1.5: is no number of GPUs"),
        (["--set-resources", "train:gpus=2", "-n"], "did you mean `gpu`?"),
        (["--set-resources", "train:mem_mb=lots", "-n"], "is no number of megabytes"),
        (
            ["--set-resources", "trian:gpu=4", "-n"],
            "--set-resources trian: there is no such rule",
        ),
        (
            [*AUTO, "train:gpu=4", "-n"],
            "train:gpu=4: groups of 8 rollouts do not divide the 4 samples",
        ),
        (
            [*AUTO, "train:gpu=1", "train:nodes=3", "-n"],
            "train:nodes=3 train:gpu=1: the global batch 16 is not divisible by 3 GPUs",
        ),
        (
            [*AUTO, "train:gpu=4", "train:nodes=2", "-n"],
            "or --set-resources train:gpu=N with N in [1] (run",
        ),
        (
            [*AUTO, "train:gpu=0", "train:gres=gpu:h100:4", "train:nodes=2", "-n"],
            "groups of 8 rollouts do not divide the 2 samples",
        ),
        (["--set-resources", "train:nodes=0", "-n"], "train:nodes=0: is no number of nodes"),
        (["--set-resources", "sample:nodes=2", "-n"], "only train runs on several nodes"),
        (
            ["--set-resources", "train:nodes=2"],
            "train:nodes=2: several nodes need SLURM; use --workflow-profile slurm",
        ),
    ],
)
def test_gpus_that_cannot_be_had_are_refused_before_the_first_job(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = snakemake(tmp_path, "--cores", "1", *options, "--", TRAINED)
    text = whole(result)
    assert result.returncode != 0
    assert words in text and "Traceback" not in text
    assert not list(tmp_path.rglob("images/*.h5")), "no job was started"


def test_stages_without_gpus_run_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config asks for GPUs, but no job that is due needs one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = snakemake(
        tmp_path,
        "--cores",
        "1",
        "--config",
        "resources={device: cuda}",
        "--",
        "results/tiny/images/shard-00000-of-00001.h5",
    )
    assert result.returncode == 0, whole(result)[-4000:]


def test_compiling_is_tried_before_the_first_job(tmp_path: Path) -> None:
    options = ["--config", "training={compile: true}", "--", TRAINED]
    variables = {
        **environment(),
        "CXX": "/bin/false",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    result = subprocess.run(
        command("--cores", "1", *options),
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    text = whole(result)
    assert result.returncode != 0
    assert (
        "torch.compile does not work on this machine, there is no working C++ compiler; install one"
        in text
        and "Traceback" not in text
    )
    assert not list(tmp_path.rglob("images/*.h5"))


def resources_of(text: str, rule: str) -> dict[str, str]:
    """Resources of the first job of a rule in a plan."""
    (line,) = re.findall(
        rf"^(?:local)?rule {rule}:\n(?:    .*\n)*?    resources: (.*)$", text, re.MULTILINE
    )[:1]
    return dict(pair.split("=", 1) for pair in line.split(", "))


def requested(resources: dict[str, str]) -> str:
    """The request of the SLURM plugin to the queue for nodes, tasks and GPUs."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    class Resources(dict):
        __getattr__ = dict.__getitem__

    plain = Resources(
        {name: int(value) if value.isdecimal() else value for name, value in resources.items()}
    )
    job = SimpleNamespace(resources=plain, threads=1)
    names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    words = get_submit_command(job, dict.fromkeys(names, "")).split()
    asked = [word for word in words if word.startswith(("--nodes", "--ntasks"))]
    return " ".join([*asked, *set_gres_string(job).split()])


@pytest.mark.parametrize(
    ("options", "train", "encode"),
    [
        ("train:gpu=2", "--nodes=1 --gpus=2", "--gpus=1"),
        (
            "train:gpu=0 train:gres=gpu:h100:2 encode_latents:gpu=0 encode_latents:gres=gpu:h100:1",
            "--nodes=1 --gres=gpu:h100:2",
            "--gres=gpu:h100:1",
        ),
        (
            "train:gpu=1 train:gpu_model=h100 train:nodes=2",
            "--nodes=2 --ntasks=2 --gres=gpu:h100:1",
            "--gpus=1",
        ),
    ],
)
def test_the_queue_is_asked_as_the_cluster_knows_it(
    options: str, train: str, encode: str, tmp_path: Path
) -> None:
    """One way or the other, never both; a plan needs no GPU."""
    arguments = ["-n", "-p", "--resources", "gpu=2", "--config", "resources={device: cuda}"]
    arguments += ["--set-resources", *options.split()]
    text = whole(snakemake(tmp_path, *arguments, "--", TRAINED))
    for rule, asked in (("train", train), ("encode_latents", encode)):
        assert requested(resources_of(text, rule)) == asked
        stage = {"train": "train", "encode_latents": "encode-latents"}[rule]
        count = asked[-1] if "gpus" in asked else 0
        nodes = f"--nodes {asked[8]} " if "nodes" in asked else ""
        assert f"vrpo {nodes}--gpus {count} {stage} " in text
