"""Results are restored when they were made from the same inputs, and only then."""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vrpo.data.arrays import ArrayWriter
from vrpo.workflow import KEEP
from vrpo.workflow.restore import (
    inputs_of,
    keep_results,
    kept_path,
    note_result,
    read_note,
    release_results,
    restore,
)

CONFIG = "training: {learning_rate: 0.1, latents: auto}\nweights: WEIGHTS\n"


def write_arrays(path: Path, value: int) -> None:
    with ArrayWriter(path, {"mean": ((4, 2), np.float32)}, {"made": "here"}) as writer:
        writer.write(0, {"mean": np.full((4, 2), value, np.float32)})
        writer.finish()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The command line of a stage, below `folder`; its files are made on the first call."""
    monkeypatch.delenv(KEEP, raising=False)

    def arguments(folder: Path = tmp_path / "first", *more: str) -> list[str]:
        if not folder.exists():
            (folder / "latents").mkdir(parents=True)
            (folder / "vae.safetensors").write_bytes(b"weights")
            (folder / "config.yaml").write_text(
                CONFIG.replace("WEIGHTS", str(folder / "vae.safetensors"))
            )
            for shard in (0, 1):
                write_arrays(folder / f"latents/shard-{shard:05d}-of-00002.h5", shard)
            (folder / "vit.h5").write_bytes(b"features")
        places = [
            "--config",
            f"{folder}/config.yaml",
            "--latents",
            f"{folder}/latents",
            "--features",
            f"vit={folder}/vit.h5",
        ]
        return [
            "train",
            *places,
            "--milestone",
            "8",
            "--output",
            f"{folder}/step8.safetensors",
            "--threads",
            "1",
            *more,
        ]

    return arguments


def made(arguments: list[str], folder: Path) -> Path:
    """The stage's result, noted and kept, and deleted as Snakemake does it."""
    output = folder / "step8.safetensors"
    output.write_bytes(b"trained")
    note_result(arguments, inputs_of(arguments))
    keep_results(folder, set())
    output.unlink()
    return output


def test_what_was_deleted_is_restored(
    stage: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = made(stage(), tmp_path / "first")
    with caplog.at_level(logging.INFO):
        assert restore(stage())
    assert output.read_bytes() == b"trained"
    assert "step8.safetensors: restored" in caplog.text
    assert not restore(stage()), "what is there is not touched"


def test_moved_results_are_restored(stage: Callable[..., list[str]], tmp_path: Path) -> None:
    """Another path, other times, no hard links: only the content counts."""
    made(stage(), tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second", copy_function=shutil.copyfile)
    assert restore(stage(tmp_path / "second"))
    assert (tmp_path / "second/step8.safetensors").read_bytes() == b"trained"


CHANGES = {
    "--config": lambda folder: (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace("0.1", "0.2")
    ),
    "--latents": lambda folder: write_arrays(folder / "latents/shard-00001-of-00002.h5", 7),
    "--features vit": lambda folder: (folder / "vit.h5").write_bytes(b"other"),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_what_was_made_from_something_else_is_made_again(
    changed: str, stage: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = made(stage(), tmp_path / "first")
    CHANGES[changed](tmp_path / "first")
    with caplog.at_level(logging.INFO):
        assert not restore(stage())
    assert not output.exists()
    assert f"made from something else: {changed}" in caplog.text


def test_other_arguments_make_another_result(
    stage: Callable[..., list[str]], tmp_path: Path
) -> None:
    made(stage(), tmp_path / "first")
    other = [value if value != "8" else "16" for value in stage()]
    assert not restore(other)
    assert not restore(stage(tmp_path / "first", "--critic", f"vit={tmp_path}/first/vit.h5"))


def test_weights_that_a_config_names_count(stage: Callable[..., list[str]], tmp_path: Path) -> None:
    made(stage(), tmp_path / "first")
    (tmp_path / "first/vae.safetensors").write_bytes(b"others")
    assert not restore(stage())


def test_what_changes_no_result_does_not_count(
    stage: Callable[..., list[str]], tmp_path: Path
) -> None:
    made(stage(), tmp_path / "first")
    config = tmp_path / "first/config.yaml"
    config.write_text(config.read_text().replace("latents: auto", "latents: mapped"))
    assert restore(stage(tmp_path / "first", "--device", "cuda", "--save-minutes", "3"))


def test_a_damaged_copy_is_not_restored(
    stage: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = made(stage(), tmp_path / "first")
    kept_path(output).write_bytes(b"trainee")
    assert not restore(stage())
    assert "damaged" in caplog.text


def test_without_a_note_nothing_is_restored(
    stage: Callable[..., list[str]], tmp_path: Path
) -> None:
    output = made(stage(), tmp_path / "first")
    for text in ("", "[]", "{"):
        (output.parent / ".step8.safetensors.made-from").write_text(text)
        assert read_note(output) == {}
        assert not restore(stage())


def test_stages_of_no_lasting_result_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "fid.pdf").touch()
    arguments = ["figure", "fid", "--output", str(tmp_path / "fid.pdf")]
    note_result(arguments, inputs_of(arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["fid.pdf"]
    assert not restore(arguments)
    assert not restore([])
    assert inputs_of(["evaluate", "a.npz", "b.npz"]) == {}, (
        "without --output there is nothing to restore"
    )


def test_files_from_the_future_become_of_now(
    stage: Callable[..., list[str]], tmp_path: Path
) -> None:
    output = made(stage(), tmp_path / "first")
    assert restore(stage())
    os.utime(output, (2**32, 2**32))
    os.utime(tmp_path / "first/config.yaml", (5, 5))
    keep_results(tmp_path, set())
    assert output.stat().st_mtime < 2**32
    assert (tmp_path / "first/config.yaml").stat().st_mtime == 5


@pytest.mark.parametrize("forced", ["train", "step8.safetensors"], ids=["rule", "file"])
def test_forced_results_are_made_anew(
    forced: str, stage: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "first"
    output = made(stage(), folder)
    assert restore(stage())
    (folder / "state/abc").mkdir(parents=True)
    keep_results(folder, {str(folder / forced) if "." in forced else forced})
    output.unlink()
    assert not restore(stage())
    assert not (folder / "state").exists(), "a training that is forced begins anew"
    assert (folder / "state-before-1/abc").is_dir(), "and its states are not lost"


def test_second_names_end_with_the_workflow(
    stage: Callable[..., list[str]], tmp_path: Path
) -> None:
    output = made(stage(), tmp_path / "first")
    release_results(tmp_path)
    assert kept_path(output).is_file(), "the only name is not taken away"
    assert restore(stage())
    assert output.samefile(kept_path(output)), "a hard link takes no disk"
    release_results(tmp_path)
    assert output.read_bytes() == b"trained"
    assert not kept_path(output).exists()


def test_in_a_workflow_a_new_result_replaces_what_was_kept(
    stage: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = made(stage(), tmp_path / "first")
    monkeypatch.setenv(KEEP, "1")
    output.write_bytes(b"better")
    note_result(stage(), inputs_of(stage()))
    output.unlink()  # the workflow was killed before it knew that the job had ended
    assert restore(stage())
    assert output.read_bytes() == b"better"


def test_a_disk_without_hard_links_keeps_nothing(
    stage: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    made(stage(), tmp_path / "first")
    assert "no hard link" in caplog.text
    assert not restore(stage())


def test_collected_results_come_back_when_collecting_failed(tmp_path: Path) -> None:
    collected = tmp_path / "collected"
    collected.mkdir()
    for name in ("metrics.csv", "training.csv"):
        (collected / name).write_text("before")
    keep_results(tmp_path, {"collect"})
    for name in ("metrics.csv", "training.csv"):
        (collected / name).unlink()  # as Snakemake does before the job
    (collected / "metrics.csv").write_text("after")
    release_results(tmp_path)
    assert {path.name: path.read_text() for path in collected.iterdir()} == {
        "metrics.csv": "after",
        "training.csv": "before",
    }
