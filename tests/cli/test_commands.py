"""The commands' groups, and the line about what a command wrote."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from vrpo import __version__
from vrpo.cli import app
from vrpo.cli.arguments import announce

from tests.fixtures import ROOT


def test_every_command_is_in_a_group() -> None:
    commands = typer.main.get_command(app).commands
    groups = {command.rich_help_panel for command in commands.values()}
    assert groups == {"Experiment", "Prepare", "Train", "Sample", "Score", "Report", "Checkpoints"}
    shown = CliRunner().invoke(app, ["--help"], catch_exceptions=False).stdout
    assert all(name in shown for name in [*commands, *groups])


def test_the_version() -> None:
    result = CliRunner().invoke(app, ["--version"], catch_exceptions=False)
    assert result.stdout == f"vrpo {__version__}\n"


def test_a_command_says_what_it_wrote(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["docs", "--folder", str(tmp_path)], catch_exceptions=False)
    (line,) = result.stdout.splitlines()
    names = ("options.md", "options.schema.json", "encoders.md")
    assert line.startswith("wrote ") and all(f"{tmp_path / name} (" in line for name in names)
    again = CliRunner().invoke(app, ["docs", "--folder", str(tmp_path)], catch_exceptions=False)
    assert again.stdout == "", "nothing changed, so nothing was written"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2 * 10**9, "2.0 GB")]
)
def test_sizes(size: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with open(tmp_path / "a.h5", "wb") as file:
        file.truncate(size)
    (tmp_path / ".hidden").touch()
    announce(tmp_path / "a.h5")
    announce(tmp_path)
    announce(None)
    assert capsys.readouterr().out == (
        f"wrote {tmp_path / 'a.h5'} ({text})\nwrote {tmp_path} (1 file)\n"
    )


def test_only_the_first_rank_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    announce(tmp_path)
    assert capsys.readouterr().out == ""


def test_custom_classes_beside_the_snakefile_are_found(tmp_path: Path) -> None:
    """By the installed command, which starts without the current folder on its path."""
    (tmp_path / "my_losses.py").write_text(
        "from vrpo.config import Options\nclass Mine(Options):\n    '''Options.'''\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "alignments:\n  mine: {kind: custom, loss: 'my_losses:Loss', options: 'my_losses:Mine',\n"
        "    encoders: [vit], depth: 2, weight: 1.0}\n"
        "runs:\n  sit-mine: {model: mini/2, process: sit, alignment: mine}\n"
    )
    script = tmp_path / "bin/vrpo"
    script.parent.mkdir()
    script.write_text("from vrpo.__main__ import main\nmain()\n")
    words = ["cost", "--config", str(ROOT / "config/mini.yaml"), "--config", "mine.yaml"]
    result = subprocess.run(
        [sys.executable, str(script), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
