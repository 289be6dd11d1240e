"""Jobs of one machine take different GPUs, and give them back however they end."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import vrpo.launch
from vrpo.launch import take_devices, use_environment_of, visible_devices

HOLDER = """
import sys, time
from pathlib import Path
from vrpo.launch import take_devices
print(take_devices(["0", "1"], 1, Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


def test_each_job_takes_its_own(tmp_path: Path) -> None:
    first, second = take_devices(["0", "1", "2"], 1, tmp_path), take_devices(["0", "1", "2"], 2, tmp_path)
    assert first == ["0"]
    assert second == ["1", "2"]


def test_a_killed_job_frees_its_device(tmp_path: Path) -> None:
    holders = [subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert sorted(holder.stdout.readline().strip() for holder in holders) == ["['0']", "['1']"]
        taken: list[str] = []
        waiting = threading.Thread(target=lambda: taken.extend(take_devices(["0", "1"], 1, tmp_path)))
        waiting.start()
        waiting.join(2)
        assert waiting.is_alive(), "both devices are held, so the third job waits"
        holders[0].send_signal(signal.SIGKILL)
        waiting.join(20)
        assert len(taken) == 1
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()


def test_the_stage_sees_its_devices_only(tmp_path: Path) -> None:
    """The real command, with a `vrpo` in its place that tells what it sees."""
    (tmp_path / "vrpo").mkdir()
    launch = Path(vrpo.launch.__file__)
    (tmp_path / "vrpo/__init__.py").write_text(f"__path__.append({str(launch.parent)!r})")
    (tmp_path / "vrpo/__main__.py").write_text("import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[1:])")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "5,7", "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("SLURM_JOB_ID", None)

    def run(count: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(launch), count, "sample", "--x"], env={**environment, **more}, capture_output=True, text=True, cwd=tmp_path)

    assert run("1").stdout.split() == ["5", "sample", "--x"]
    assert run("0").stdout.split() == ["5,7", "sample", "--x"]
    assert run("1", SLURM_JOB_ID="3").stdout.split() == ["5,7", "sample", "--x"]
    refused = run("3")
    assert refused.returncode != 0 and "asks for 3 GPUs, this machine offers 2" in refused.stderr


def test_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 3")
    assert visible_devices() == ["1", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == []


def test_jobs_find_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    use_environment_of("/somewhere/bin/python")
    assert os.environ["PATH"] == "/somewhere/bin:/usr/bin"
