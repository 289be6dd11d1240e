"""Empty arguments of a command line: as a path, one would be the current folder."""

import sys
from pathlib import Path

import pytest

from vrpo.cli import main


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["evaluate", "samples.npz", ""], "argument after `samples.npz`"),
        (["evaluate", "", "reference.npz"], "argument after `evaluate`"),
        (["evaluate", "samples.npz", "reference.npz", "--output", ""], "--output"),
        (["evaluate", "samples.npz", "reference.npz", "--output="], "--output"),
        (["evaluate", "samples.npz", "reference.npz", "--weights", " "], "--weights"),
        (["reference", "--config", "a.yaml", "--images", "", "--output", "b.npz"], "--images"),
        (["collect", "--config", "a.yaml", "--output-folder", ""], "--output-folder"),
        (["verify", "a.h5", ""], "argument after `a.h5`"),
        ([""], "argument after `vrpo`"),
    ],
)
def test_empty_arguments(arguments, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vrpo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"vrpo: error: {name}: is empty; give a path or value (is a shell variable unset?)\n"
    )
    assert not list(Path().iterdir())
