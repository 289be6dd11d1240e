"""Jobs of one machine take different GPUs, and give them back however they end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vrpo.runtime.launch
from vrpo.errors import UserError
from vrpo.runtime.gpus import CUDA, HIP, Gpu, Gpus
from vrpo.runtime.launch import (
    locked_gpus,
    require_gpus,
    take_gpus,
)

from tests.fixtures import ROOT

FAKE = ROOT / "tests/fixtures/fake_driver"
THREE = tuple(Gpu(str(number), f"uuid-{number}") for number in range(3))
HOLDER = """
import sys, time
from pathlib import Path
from vrpo.runtime.gpus import Gpu
from vrpo.runtime.launch import locked_gpus
print(locked_gpus([Gpu("0", "a"), Gpu("1", "b")], 1, Path(sys.argv[1]))[0].name, flush=True)
time.sleep(60)
"""
ENTRY = (  # the real command, whose `python -m vrpo` is the made-up one
    "import runpy, sys; sys.argv[1:1] = ['--gpus']; "
    f"runpy.run_path({str(ROOT / 'vrpo/__main__.py')!r}, run_name='__main__')"
)
STAGE = (
    "import os, sys, time; print(os.environ.get('CUDA_VISIBLE_DEVICES'), "
    "*sys.argv[1:], flush=True); time.sleep(60 * ('wait' in sys.argv))"
)


def test_each_job_takes_its_own(tmp_path: Path) -> None:
    assert locked_gpus(THREE, 1, tmp_path) == [THREE[0]]
    assert locked_gpus(THREE, 2, tmp_path) == [THREE[1], THREE[2]]


def test_a_gpu_is_the_same_whatever_it_is_called(tmp_path: Path) -> None:
    """A workflow that sees GPU 1 alone, as its first, and one that sees all."""
    assert locked_gpus([Gpu("0", THREE[1].uuid)], 1, tmp_path)
    assert locked_gpus(THREE, 2, tmp_path) == [THREE[0], THREE[2]]


def test_a_killed_job_frees_its_gpu(tmp_path: Path) -> None:
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        assert sorted(holder.stdout.readline().strip() for holder in holders) == ["0", "1"]
        taken: list[Gpu] = []
        waiting = threading.Thread(
            target=lambda: taken.extend(locked_gpus([Gpu("0", "a"), Gpu("1", "b")], 1, tmp_path))
        )
        waiting.start()
        waiting.join(2)
        assert waiting.is_alive(), "both are held, so the third job waits"
        holders[0].send_signal(signal.SIGKILL)
        waiting.join(300)
        assert len(taken) == 1
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()


Launch = Callable[..., subprocess.Popen]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """The real command on a machine of two GPUs, with a `vrpo` that prints what it sees."""
    (tmp_path / "vrpo").mkdir()
    (tmp_path / "vrpo/__init__.py").write_text(f"__path__.append({str(ROOT / 'vrpo')!r})")
    (tmp_path / "vrpo/__main__.py").write_text(STAGE)
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLURM_") and name not in (CUDA, HIP)
    }
    plain |= {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(FAKE)]),
        "TMPDIR": str(tmp_path),
        "FAKE_GPUS": "2",
    }
    started = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen:
        command = [sys.executable, "-c", ENTRY, *arguments]
        process = subprocess.Popen(
            command,
            env={**plain, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "slurm",
    [{}, {"SLURM_JOB_ID": "3", "SLURM_JOB_GPUS": "0,1"}],
    ids=["a machine", "an allocation"],
)
def test_jobs_beside_each_other_see_one_gpu_each(launch: Launch, slurm: dict[str, str]) -> None:
    jobs = [
        launch("1", "train", "wait", "--device", "cuda", **slurm, CUDA_VISIBLE_DEVICES="0,1")
        for _ in range(2)
    ]
    assert sorted(job.stdout.readline() for job in jobs) == [
        f"{number} train wait --device cuda\n" for number in range(2)
    ]


def test_the_stage_sees_its_gpus_only(launch: Launch) -> None:
    for variables, seen in (({}, "0"), ({CUDA: "1"}, "1"), ({CUDA: "1,0"}, "1")):
        assert launch("1", "sample", "--x", **variables).communicate()[0].split() == [
            seen,
            "sample",
            "--x",
        ]
    assert launch("0", "sample", **{CUDA: "0,1"}).communicate()[0].split() == ["0,1", "sample"]
    assert launch("1", "sample", "--device", "cpu").communicate()[0].split()[0] == "None"


SLURM = {"SLURM_JOB_ID": "3", "SLURM_JOB_GPUS": "0"}


@pytest.mark.parametrize(
    ("count", "device", "variables", "words"),
    [
        (
            "3",
            "auto",
            {},
            "3 GPUs are asked for, this machine offers 2; set --set-resources RULE:gpu=2",
        ),
        ("3", "cuda", {"SLURM_JOB_ID": "3"}, "3 GPUs are asked for, this machine offers 2"),
        (
            "1",
            "cuda",
            {"FAKE_GPUS": "0"},
            (
                "a GPU is asked for, this machine offers none (CUDA sees no device); set "
                "`resources: {device: cpu}`"
            ),
        ),
        (
            "1",
            "cuda",
            {CUDA: "-1"},
            "offers none (CUDA sees no device with CUDA_VISIBLE_DEVICES='-1')",
        ),
        ("2", "auto", {"FAKE_GPUS": "0"}, "2 GPUs are asked for, this machine offers none"),
        ("1", "auto", {"FAKE_GPUS": "0", **SLURM}, "a GPU is asked for, this machine offers none"),
    ],
)
def test_gpus_that_are_missing_are_one_line(
    launch: Launch, count: str, device: str, variables: dict[str, str], words: str
) -> None:
    job = launch(count, "train", "--device", device, **variables)
    out, err = job.communicate()
    assert job.returncode == 2 and not out
    assert err.startswith("vrpo: error: gpu: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "variables", [{"FAKE_GPUS": "0"}, {CUDA: ""}, {"FAKE_GPUS": "0", "SLURM_JOB_ID": "3"}]
)
def test_auto_on_a_machine_without_gpus_computes_on_the_cpu_and_says_so(
    launch: Launch, variables: dict[str, str]
) -> None:
    job = launch("1", "train", "--device", "auto", **variables)
    out, err = job.communicate()
    assert job.returncode == 0 and out.endswith(" train --device auto\n")
    assert "computing on the CPU" in err and err.count("\n") == 1


def test_without_gpus_auto_is_the_cpu(launch: Launch) -> None:
    for device in (["--device", "auto"], ["--device=auto"]):
        out, err = launch("0", "train", *device, **{CUDA: "0,1"}).communicate()
        assert out.endswith(" train --device cpu\n") and not err


def test_gpus_that_a_queue_gave_otherwise_are_taken(launch: Launch) -> None:
    """`--gres` in place of `gpu`: the job asks Snakemake for none and has what SLURM gave it."""
    variables = {CUDA: "1", **SLURM}
    assert launch("0", "train", "--device", "auto", **variables).communicate()[0].split()[0] == "1"
    assert launch("0", "x", "--device", "cpu", **variables).communicate()[0].split()[2:] == [
        "--device",
        "cpu",
    ]


@pytest.mark.parametrize("count", ["", "-1", "two", "1.5"])
def test_no_number_of_gpus_is_one_line(launch: Launch, count: str) -> None:
    job = launch(count, "train")
    _, err = job.communicate()
    assert job.returncode == 2
    assert err == f"vrpo: error: --gpus: `{count}` is no number of GPUs; give 0 or more\n"


def test_what_a_machine_cannot_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vrpo.runtime.launch, "visible_gpus", lambda: Gpus(THREE))
    require_gpus(3, limit=3)
    require_gpus(0, limit=0)
    with pytest.raises(
        UserError, match=r"3 GPUs are asked for, but `--resources gpu=2` allows fewer"
    ):
        require_gpus(3, limit=2)
    monkeypatch.setattr(
        vrpo.runtime.launch,
        "visible_gpus",
        lambda: Gpus((Gpu("MIG-1", "MIG-1"), Gpu("MIG-2", "MIG-2"))),
    )
    require_gpus(1)
    with pytest.raises(UserError, match=r"a process sees only one MIG instance"):
        require_gpus(2)


def test_the_variables_of_the_gpus_are_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vrpo.runtime.launch.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(
        vrpo.runtime.launch,
        "visible_gpus",
        lambda: Gpus((Gpu("3", "amd-3"), Gpu("2", "amd-2")), "", (HIP, CUDA)),
    )
    monkeypatch.setenv(HIP, "3,2")
    monkeypatch.setenv(CUDA, "1")
    take_gpus(2, "cuda")
    assert os.environ[HIP] == os.environ[CUDA] == "3,2"
