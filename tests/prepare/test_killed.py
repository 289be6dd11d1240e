"""Stages that are killed while they write: a later run ends in the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vrpo
from vrpo.data.checksums import stamp_path
from vrpo.seeds import numpy_generator

from tests.fixtures.stages import Stages

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stages():
    with Stages() as running:
        yield running


def test_killed_stores_end_in_the_same_bytes(folder, tmp_path, stages):
    """SIGKILL at several writes (half of the bytes written) and just before the rename.

    Then each stage runs to the end.
    """
    for name in ("images", "latents", "features"):
        output = tmp_path / f"{name}.h5"
        writes = (1, 2, 2, 2) if name == "images" else (1, 3, 8, 5)
        for moment, count in [*(("within-a-write", write) for write in writes), ("unnamed", 1)]:
            killed = stages.run("pngs", name, folder, output, moment, count)
            assert killed == signal.SIGKILL, (name, moment, count)
            assert not output.exists()
        assert stages.run("pngs", name, folder, output) == 0
        assert output.read_bytes() == (folder / output.name).read_bytes()
        assert stamp_path(output).is_file()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "features.h5",
        "images.h5",
        "latents.h5",
    ]


def test_killed_at_random_moments(whole, tmp_path, stages):
    """SIGKILL at seeded random moments of writing images, latents and features.

    Afterwards the bytes are those of the undisturbed files.
    """
    for name in ("images", "latents", "features"):
        output, wanted = tmp_path / f"{name}.h5", (whole / f"{name}.h5").read_bytes()
        random = numpy_generator("kill-moments", name)
        moments = [
            (moment, random.integers(1, 6))
            for moment in ("between-arrays", "between-rows", "between-arrays", "between-rows")
        ]
        for moment, count in [*moments, ("unsealed", 1), ("unnamed", 1), ("named", 1)]:
            killed = stages.run("digits", name, whole, output, moment, count)
            assert killed == signal.SIGKILL, (name, moment)
            assert output.exists() == (moment == "named")
        assert output.read_bytes() == wanted
        assert stages.run("digits", name, whole, output) == 0
        assert output.read_bytes() == wanted


def test_workers_end_with_a_killed_stage(broken, tmp_path):
    slow = f"""
import os, time
from pathlib import Path
from vrpo.config.data import DataOptions
from vrpo.data.sources import FolderSource
from vrpo.prepare.images import write_images

class SlowSource(FolderSource):
    def read(self, index):
        Path({str(tmp_path)!r}, f"reads-{{os.getpid()}}").touch()
        time.sleep(600)

if __name__ == "__main__":
    import vrpo.prepare.images as stage
    stage.open_source = lambda options: SlowSource(options.root, options.resolution)
    options = DataOptions(
        source="folder", root={broken.root!r}, resolution=16, num_classes=2, workers=2
    )
    write_images(options, {str(tmp_path / "images.h5")!r})
"""
    (tmp_path / "slow.py").write_text(slow)
    environment = {**os.environ, "PYTHONPATH": str(Path(vrpo.__file__).parents[1])}
    stage_process = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py")], env=environment, stderr=subprocess.DEVNULL
    )
    reading = _wait_for(lambda: list(tmp_path.glob("reads-*")))
    worker = int(reading[0].name.removeprefix("reads-"))
    assert _is_worker(worker)
    stage_process.kill()
    stage_process.wait()
    _wait_for(lambda: not _is_worker(worker))


def _is_worker(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")
