"""The GPUs that jobs are counted and chosen by are those that CUDA sees."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vrpo.errors import UserError
from vrpo.runtime import distributed, gpus
from vrpo.runtime.distributed import choose_device
from vrpo.runtime.gpus import CUDA, HIP, Gpu, Gpus, cuda_uuids, instances_of, visible_gpus

from tests.fixtures import ROOT
from tests.fixtures.fake_driver.sitecustomize import fake_driver, name_of, uuid_of

FAKE = ROOT / "tests/fixtures/fake_driver"
PROFILE = ROOT / "profiles/default/config.yaml"
MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 3g.20gb     Device  0: (UUID: MIG-7089d0f3-293f-58c9-8f8c-5ea666eedbde)
  MIG 4g.20gb     Device  1: (UUID: MIG-56c30729-347f-5dd6-8da0-c3cc59e969e0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-11111111-d268-c3f3-1b07-005d5ae1dc3f)
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives this machine GPUs, and variables."""

    def give(count: int, **variables: str) -> None:
        for name in (CUDA, HIP):
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            **variables,
            "FAKE_GPUS": str(count),
            "PYTHONPATH": os.pathsep.join([str(FAKE), *sys.path]),
        }.items():
            monkeypatch.setenv(name, value)
        gpus._visible_gpus.cache_clear()

    yield give
    gpus._visible_gpus.cache_clear()


def device(name: str, number: int) -> Gpu:
    return Gpu(name, uuid_of(number).hex())


@pytest.mark.parametrize(
    ("count", "chosen", "found"),
    [
        (2, None, [("0", 0), ("1", 1)]),
        (1, None, [("0", 0)]),  # a container with /dev/nvidia3 alone, or WSL2 without any such file
        (4, "3", [("3", 3)]),
        (4, "2, 0", [("2", 2), ("0", 0)]),
        (4, name_of(2), [(name_of(2), 2)]),
        (4, "1,-1,2", [("1", 1)]),
        (4, "1,9,2", [("1", 1)]),
        (4, "", []),
        (4, "-1", []),
        (4, "NoDevFiles", []),
        (0, None, []),
    ],
)
def test_cuda_says_what_is_visible(
    machine: Any, count: int, chosen: str | None, found: list[tuple[str, int]]
) -> None:
    """Asked in a process of its own; the local profile counts the same."""
    machine(count, **({} if chosen is None else {CUDA: chosen}))
    answer = visible_gpus()
    assert list(answer.devices) == [device(name, number) for name, number in found]
    assert answer.variables == (CUDA,)
    assert bool(answer.reason) == (not found)


@pytest.mark.parametrize(
    ("count", "chosen", "limit"), [(2, None, 2), (4, "3", 1), (4, "-1", 0), (0, None, 0)]
)
def test_the_local_profile_counts_them(
    machine: Any, count: int, chosen: str | None, limit: int
) -> None:
    machine(count, **({} if chosen is None else {CUDA: chosen}))
    source = (
        "import json, sys; from snakemake.profiles import ProfileConfigFileParser "
        "as P; print(json.dumps(P().parse(open(sys.argv[1]))))"
    )
    parsed = json.loads(
        subprocess.run(
            [sys.executable, "-c", source, str(PROFILE)], capture_output=True, text=True, check=True
        ).stdout
    )
    assert parsed["resources"] == [f"gpu={limit}"]


@pytest.mark.parametrize(
    "named",
    [
        ["-s", f"{ROOT}/Snakefile"],
        [f"--snakefile={ROOT}/Snakefile"],
        ["--workflow-profile", str(PROFILE.parent)],
    ],
)
def test_the_local_profile_finds_the_package_where_it_is_not_installed(
    named: list[str], tmp_path: Path
) -> None:
    """A workflow of another folder, with Snakemake from another environment."""
    source = (
        "import sys; from importlib.util import find_spec; from snakemake.profiles "
        "import ProfileConfigFileParser as P; "
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in "
        "repr(finder).lower()]; assert find_spec('vrpo') is None; "
        f"sys.argv[1:] = {named}; print(P().parse(open({str(PROFILE)!r}))['resources'])"
    )
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-P", "-c", source],
        env=plain,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("['gpu=")


def test_a_process_on_its_own_asks_the_driver_once(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(2)
    asked = []
    monkeypatch.setattr(
        gpus, "_ask", lambda: asked.append(1) or {"kind": "cuda", "uuids": ["a", "b"], "reason": ""}
    )
    assert visible_gpus() == visible_gpus() == Gpus((Gpu("0", "a"), Gpu("1", "b")))
    monkeypatch.setenv(CUDA, "1")
    visible_gpus()
    assert len(asked) == 2, "once for each value of the variable"


def test_why_there_are_none(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUDA, raising=False)
    assert cuda_uuids(fake_driver(2, answer=803)) == (
        [],
        (
            "CUDA's driver answers: system has unsupported display driver / cuda driver "
            "combination (803)"
        ),
    )
    assert cuda_uuids(fake_driver(0)) == ([], "CUDA sees no device")
    machine(2, **{CUDA: "-1"})
    assert visible_gpus().reason == "CUDA sees no device with CUDA_VISIBLE_DEVICES='-1'"
    machine(2)
    monkeypatch.setattr(
        gpus.subprocess,
        "run",
        lambda *_, **__: (_ for _ in ()).throw(subprocess.TimeoutExpired("python", 1)),
    )
    assert "did not answer" in visible_gpus().reason


def test_instances_of_shared_gpus(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """CUDA shows a process one of them; jobs may use them all, each by its UUID."""
    instances = [
        "MIG-7089d0f3-293f-58c9-8f8c-5ea666eedbde",
        "MIG-56c30729-347f-5dd6-8da0-c3cc59e969e0",
    ]
    whole = "GPU-11111111-d268-c3f3-1b07-005d5ae1dc3f"
    assert instances_of(MIG) == [*instances, whole]
    assert (
        instances_of(
            "GPU 0: NVIDIA A100 (UUID: GPU-5c89852c)\nGPU 1: NVIDIA A100 (UUID: GPU-11111111)\n"
        )
        == []
    )
    assert instances_of("No devices found.\n") == []
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<END\n{MIG}END\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    machine(1)
    assert [gpu.name for gpu in visible_gpus().devices] == [*instances, whole]
    monkeypatch.setattr(
        gpus, "_ask", lambda: {"kind": "cuda", "uuids": ["of the first"], "reason": ""}
    )
    machine(1, **{CUDA: ", ".join(instances)})
    assert visible_gpus().devices == tuple(Gpu(name, name) for name in instances)
    machine(1, **{CUDA: "0"})
    assert visible_gpus().devices == (Gpu("0", "of the first"),)


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, ["0", "1"]),
        ({HIP: "3,2"}, ["3", "2"]),
        ({CUDA: "5,4"}, ["5", "4"]),
        ({HIP: "1,0", CUDA: "7,6"}, ["1", "0"]),
    ],
)
def test_amds_gpus_are_restricted_by_their_own_variable(
    machine: Any, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], names: list[str]
) -> None:
    monkeypatch.setattr(gpus, "_ask", lambda: {"kind": "hip", "uuids": ["uuid", ""], "reason": ""})
    machine(0, **variables)
    assert visible_gpus() == Gpus((Gpu(names[0], "uuid"), Gpu(names[1], names[1])), "", (HIP, CUDA))


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("without_cuda")
def test_cuda_that_is_asked_for_and_missing_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        distributed,
        "visible_gpus",
        lambda: Gpus((), "no NVIDIA driver (libcuda.so.1) is installed"),
    )
    with pytest.raises(
        UserError,
        match=(
            r"^resources\.device: `cuda` .* \(no NVIDIA driver \(libcuda\.so\.1\) is "
            r"installed\); "
        ),
    ):
        choose_device("cuda")
    monkeypatch.setattr(distributed, "visible_gpus", lambda: Gpus((Gpu("0", "a"),)))
    with pytest.raises(UserError, match=r"the driver shows 1, but torch .* is built for "):
        choose_device("cuda")


@pytest.mark.usefixtures("without_cuda")
def test_auto_says_so_where_a_gpu_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(distributed, "visible_gpus", lambda: Gpus((), "no driver"))
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    assert not caplog.records, "the demo on a machine without GPUs"
    monkeypatch.setattr(distributed, "visible_gpus", lambda: Gpus((Gpu("0", "a"),)))
    assert choose_device("auto").type == "cpu"
    assert "computing on the CPU" in caplog.text


@pytest.mark.parametrize("name", ["gpu", "cudaa", "cuda:9", "CPU", ""])
def test_devices_that_there_are_not_are_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=f"^--device: `{name}` is no device; give auto, cpu or cuda$"
    ):
        choose_device(name)
