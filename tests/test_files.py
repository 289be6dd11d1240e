"""Files as other programs and people find them: modes and locks."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vrpo.data.arrays import ArrayWriter
from vrpo.errors import UserError
from vrpo.files import atomic_output, write_text
from vrpo.models.checkpoints import save_milestone, save_network


def mode_of(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


@pytest.fixture(params=[0o022, 0o002, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_results_have_the_mode_of_any_new_file(umask: int, tmp_path: Path) -> None:
    """safetensors makes its files 0600, which locks colleagues out."""
    weights = {"weight": torch.zeros(2, 2)}
    save_network(tmp_path / "network.safetensors", weights, {})
    save_milestone(tmp_path / "step0000001.safetensors", weights, {}, {})
    write_text(tmp_path / "table.csv", "a\n")
    with atomic_output(tmp_path / "private.bin") as partial:
        partial.touch(mode=0o600)
    with ArrayWriter(tmp_path / "arrays.h5", {"values": ((2,), "float32")}, {}) as writer:
        writer.write(0, {"values": np.zeros(2, dtype=np.float32)})
        writer.finish()
    names = {
        "network.safetensors",
        "step0000001.safetensors",
        "table.csv",
        "private.bin",
        "arrays.h5",
        ".arrays.h5.verified",
    }
    assert {path.name: mode_of(path) for path in tmp_path.iterdir()} == dict.fromkeys(
        names, oct(0o666 & ~umask)
    )


def test_a_leftover_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".table.csv.partial").write_text("half of it")
    (tmp_path / ".table.csv.partial").chmod(0o600)
    write_text(tmp_path / "table.csv", "whole")
    assert (tmp_path / "table.csv").read_text() == "whole"
    assert mode_of(tmp_path / "table.csv") != oct(0o600)


@pytest.mark.parametrize(
    "name", ["taken/x.csv", "x" * 300 + ".csv"], ids=["below a file", "too long"]
)
def test_a_name_that_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match=r"cannot be written, .*; give another name"):
        write_text(tmp_path / name, "text")


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(
            UserError, match=f"{name}: is there and not a regular file; give another name"
        ):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "folder").is_dir() and (tmp_path / "pipe").is_fifo()
