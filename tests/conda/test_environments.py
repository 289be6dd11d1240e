"""Env files in `envs/`: each is enough for every command of the rules that name it.

Snakemake runs with `--sdm conda` in the environment that `envs/snakemake.yaml` describes. In
conda's place stands `bin/conda`, which makes environments from PyPI.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vrpo.config.reading import read_experiment
from vrpo.report.catalogue import COLLECTED

from tests.fixtures import ROOT, benchmark
from tests.fixtures.environments import ENVS
from tests.fixtures.weights import official_state
from tests.fixtures.workflow import TINY, command, environment, whole

BIN = ROOT / "tests/conda/bin"
CONFIGS = TINY, ROOT / "tests/conda/every.yaml"
CLASSES, IMAGES = 4, 60  # of each class
BENCHMARK = ("resolved_config", "benchmark", "benchmark_snapshot")
IDLE = ("all", "prepare", "milestones", "figures", "tables")  # without a command
TARGETS = (*IDLE, "guidance")
Finished = subprocess.CompletedProcess[str]


class Flow(NamedTuple):
    """A folder in which the workflow runs, and the Python of Snakemake's own environment."""

    folder: Path
    python: Path

    def run(self, *arguments: str, config: tuple[Path, ...] = CONFIGS) -> Finished:
        """Run Snakemake far from the repository, where no package but the environment's is."""
        words = command("--directory", str(self.folder), *arguments, config=config)
        variables = {name: text for name, text in environment().items() if name != "PYTHONPATH"}
        variables["PATH"] = os.pathsep.join([str(BIN), os.environ["PATH"]])
        return subprocess.run(
            [self.python, *words[1:]],
            cwd=self.folder.parent,
            env=variables,
            capture_output=True,
            text=True,
        )


def make_inputs(folder: Path) -> None:
    """Images of noise, an official checkpoint, and the collected results of a made-up benchmark."""
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"images/{label}").mkdir(parents=True)
        for index in range(IMAGES):
            pixels = draw.integers(64 * label, 64 * label + 64, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"images/{label}/{index}.png")
    size = read_experiment(list(CONFIGS), []).sizes["tiny"]
    sizes = {"depth": size.depth, "width": size.width, "heads": size.heads}
    model = SimpleNamespace(name="theirs", patch_size=2, num_classes=CLASSES, **sizes)
    torch.save({"ema": official_state(8, model)}, folder / "theirs.pt")
    collected = benchmark.write_collected(folder / "results/made-up/collected", benchmark.METRICS)
    for name in COLLECTED:
        (collected / name).touch()
    options = benchmark.experiment() | {"benchmark": benchmark.OPTIONS.model_dump()}
    (folder / "made-up.yaml").write_text(yaml.safe_dump(options))


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    """Inputs and Snakemake; the environments are removed at the end, as they take gigabytes."""
    top = tmp_path_factory.mktemp("environments")
    flow = Flow(top / "far away", top / "snakemake/bin/python")
    make_inputs(flow.folder)
    words = ["--file", ENVS / "snakemake.yaml", "--prefix", top / "snakemake"]
    subprocess.run([BIN / "conda", "env", "create", *words], check=True)
    yield flow
    shutil.rmtree(top)


def rules_of(finished: Finished) -> list[str]:
    """The rule of each job of a successful run."""
    text = whole(finished)
    assert finished.returncode == 0, text[-8000:]
    return re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def ran(flow: Flow) -> list[Finished]:
    """The workflow after it has run everything, and the made-up benchmark's part of it."""
    everything = flow.run("--sdm", "conda", "--cores", "all", "--", *TARGETS)
    options = ["--sdm", "conda", "--cores", "1", "--allowed-rules", *BENCHMARK, "--"]
    config = (flow.folder / "made-up.yaml",)
    return [everything, flow.run(*options, "benchmark_snapshot", config=config)]


def test_every_rule_runs_in_its_environment(flow: Flow, ran: list[Finished]) -> None:
    jobs = [rule for finished in ran for rule in rules_of(finished)]
    listed = flow.run("--list-rules")
    assert set(jobs) == set(listed.stdout.split()), whole(listed)
    activated = sum(whole(each).count("Activating conda environment: ") for each in ran)
    assert activated == sum(rule not in IDLE for rule in jobs)


@pytest.mark.usefixtures("ran")
def test_environments_lack_what_they_can_do_without(flow: Flow) -> None:
    made = {
        path.with_suffix(""): path.read_text()
        for path in (flow.folder / ".snakemake/conda").glob("*.yaml")
    }
    files = {name: (ENVS / f"{name}.yaml").read_text() for name in ("report", "vrpo")}
    assert sorted(made.values()) == sorted(files.values())
    for prefix, text in made.items():
        lacking = "torch" if text == files["report"] else "matplotlib"
        for package in (lacking, "snakemake", "vrpo"):
            words = [prefix / "bin/python", "-c", f"import {package}"]
            assert subprocess.run(words, cwd=flow.folder, capture_output=True).returncode, package


@pytest.mark.usefixtures("ran")
def test_a_second_run_does_nothing(flow: Flow) -> None:
    again = flow.run("--sdm", "conda", "--cores", "1")
    assert again.returncode == 0 and "Nothing to be done" in whole(again), whole(again)[-4000:]
