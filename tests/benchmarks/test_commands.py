"""The command line: settings over a config, and one line for what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.commands import main

ROOT = Path(__file__).parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit status of a command in the root of the repository."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_trains(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    configs: list[Path],
    tmp_path: Path,
) -> None:
    output = tmp_path / "bench.json"
    files = [argument for file in configs for argument in ("--config", file)]
    options = ["--steps", 1, "--rounds", 1, "--samples", 8, "--device", "cpu", "--output", output]
    settings = ["--set", "training.accumulation=1", "--set", "training.tf32=false"]
    assert run(monkeypatch, "train", "none", "vrpo", *files, *options, *settings) == 0
    assert "imagenet256, SiT-small/2, batch 8, fp32, eager" in capsys.readouterr().out
    assert json.loads(output.read_text())["settings"]["tf32"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "sit-b3-none"], "RUN: `sit-b3-none` is not in `runs`; did you mean `sit-"),
        (
            ["train", "sit-b2-none", "--set", "training.batchsize=8"],
            "config/imagenet256.yaml + --set: unknown option `batchsize` in `training`; did you "
            "mean `batch_size`?",
        ),
        (
            ["train", "sit-b2-none", "--set", "training.batch_size=4"],
            "config/imagenet256.yaml + --set: alignments.vrpo.group_size: groups of 8 rollouts do",
        ),
        (["train", "sit-b2-none", "--set", "compile"], "--set compile: not of the form KEY=VALUE"),
        (["train", "sit-b2-none", "--config", "none.yaml"], "none.yaml: no such config file"),
        (["train", "sit-b2-none", "sit-l2-none"], "RUN: `sit-l2-none` has the network SiT-L/2, "),
        (["sample", "sit-b2-none", "ddpm"], "SAMPLER: `ddpm` is no sampler of run sit-b2-none, "),
        (["sample", "sit-b2-none", "sde", "--output", ""], "--output: is empty; give a path"),
        (["against-published", "sit-b2-vrpo"], "RUN: `sit-b2-vrpo` is not what the published loop"),
        (
            ["against-published", "sit-b2-repa", "--published-precision", "fp16"],
            "--published-precision: `fp16` is none of fp32, bf16",
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vrpo: error: {message}")
