"""Command lines that Snakemake would misread silently, or answer with a traceback."""

import sys
from pathlib import Path

import pytest

from vrpo.config.command_line import check_command_line

RULES = ["all", "train", "fid", "report"]


def checked(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, program: str = "/somewhere/bin/snakemake"
) -> None:
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    check_command_line(RULES, lambda file: file == "results/report.html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fidd"], ["fidd: neither a rule nor", "did you mean `fid`?"]),
        (["xyz"], ["xyz: neither a rule nor", "known: all, train, fid, report"]),
        (["./results/report.html"], ["name it `results/report.html`"]),
        (
            ["--forcerun", "trian", "--", "fid"],
            ["trian: neither a rule nor", "did you mean `train`?"],
        ),
        (["--until", "trian"], ["trian: neither a rule nor"]),
        (["--omit-from", "trian"], ["trian: neither a rule nor"]),
        (["--prioritize", "trian"], ["trian: neither a rule nor"]),
        (["--allowed-rules", "trian"], ["--allowed-rules trian: there is no such rule"]),
        (
            ["--set-resources", "trian:runtime=5"],
            ["--set-resources trian: there is no such rule", "did you mean `train`?"],
        ),
        (["--set-threads", "trian=5"], ["--set-threads trian: there is no such rule"]),
        (["--config", "seeds=[1]", "fid"], ["--config fid: not of the form NAME=VALUE", "`--`"]),
        (
            ["--config", "training.batch_size=8"],
            ["--config training.batch_size=8: not of the form NAME=VALUE"],
        ),
        (["--config", "s=8"], ["--config s=8: not of the form NAME=VALUE"]),
        (["--config", "seeds=[1"], ["--config seeds: line 1: not valid YAML"]),
        (["--config", "seeds=[1]", "--config=results=other"], ["--config: given twice"]),
        (["-C", "seeds=[1]", "--config", "results=other"], ["--config: given twice"]),
        (["--configfile", "a.yaml", "--configfiles", "b.yaml"], ["--configfile: given twice"]),
        (["--configfile", "good.yaml", "fid"], ["--configfile fid: no such file", "`--`"]),
        (["--configfile", "."], [".: not a regular file"]),
        (["--configfile", "latin.yaml"], ["latin.yaml: line 1: not UTF-8"]),
        (["--configfile", "date.yaml"], ["date.yaml: Snakemake cannot read it", "quotes"]),
    ],
)
def test_refusals(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text("seeds: [1]")
    Path("latin.yaml").write_bytes("experiment: café".encode("latin-1"))
    Path("date.yaml").write_text("2024-13-45: 1")
    with pytest.raises(SystemExit) as caught:
        checked(monkeypatch, *arguments)
    text = capsys.readouterr().err
    assert caught.value.code == 2 and text.startswith("vrpo: error: ") and text.count("\n") == 1
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--cores", "all", "fid", "results/report.html"],
        [
            "--configfile",
            "good.yaml",
            "good.yaml",
            "--config",
            "seeds=[1]",
            "results='a b'",
            "--",
            "fid",
        ],
        ["--set-resources", "train:runtime=5", "--forcerun", "train", "--allowed-rules", "train"],
    ],
)
def test_what_is_right_passes(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text("seeds: [1]")
    checked(monkeypatch, *arguments)


def test_other_programs_have_other_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    checked(monkeypatch, "fidd", program="/somewhere/bin/pytest")
