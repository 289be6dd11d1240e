"""The commands of the README, the docs and the comments.

They name existing options, files, rules and config values.
"""

import re
import shlex
import subprocess
import sys

import pytest
import typer.main
from snakemake.cli import get_argument_parser

from benchmarks.commands import app as benchmarks_app
from benchmarks.experiment import timed_run
from benchmarks.sample import timed_sampler
from vrpo.cli import app
from vrpo.config import merge_configs, parse_experiment
from vrpo.config.reading import read_experiment
from vrpo.plan.jobs import evaluations
from vrpo.plan.paths import Paths

from tests.fixtures import ROOT
from tests.fixtures.workflow import plan, whole

pytestmark = [pytest.mark.workflow]
TEXTS = [
    ROOT / "README.md",
    ROOT / "benchmarks/README.md",
    ROOT / "Snakefile",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "config").glob("*.yaml")),
    ROOT / "profiles/slurm/config.yaml",
]
COMMAND = re.compile(
    r"(?:^ {4}|^#[ :\w]* |`)((?:snakemake|vrpo|python -m benchmarks) [^`\n]*?)(?=`| {2}|\n|$)",
    re.MULTILINE,
)
READERS_OWN = {"mine.yaml"}


def commands(program: str) -> list[str]:
    found = {
        command
        for text in TEXTS
        for command in COMMAND.findall(re.sub(r"\\\n *", "", text.read_text(encoding="utf-8")))
    }
    return sorted(
        command for command in found if command.startswith(program) and "..." not in command
    )


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return set(whole(plan(tmp_path_factory.mktemp("rules"), "--list-rules")).split())


def faults(command: str, rules: set[str]) -> list[str]:
    """The error of a snakemake command.

    Snakemake's parser ends the process for unknown options.
    """
    arguments = get_argument_parser().parse_args(shlex.split(command, comments=True)[1:])
    files = [ROOT / file for file in arguments.configfile if file.name not in READERS_OWN]
    config = parse_experiment(
        merge_configs(files or [ROOT / "config/mini.yaml"], arguments.config or []), command
    )
    milestones = {
        f"{Paths.of(config).folder}/runs/{run}/seed{seed}/step{step:07d}.safetensors"
        for run, seed, step, _ in evaluations(config)
    }
    return [
        str(name)
        for name in [*arguments.targets, *arguments.forcerun]
        if name not in rules | milestones
    ]


def test_snakemake_commands(rules: set[str]) -> None:
    found = commands("snakemake")
    assert len(found) > 15 and any(" -- results/" in command for command in found)
    assert {
        command: faults(command, rules)
        for command in found
        if " | " not in command and faults(command, rules)
    } == {}


def test_a_target_behind_config_is_a_fault(rules: set[str]) -> None:
    assert faults("snakemake --cores 1 -- fidd", rules) == ["fidd"]
    for command in (
        "snakemake --cores 1 --config seeds=[1] fid",
        "snakemake --cores 1 --configfile config/mini.yaml fid",
    ):
        with pytest.raises(Exception, match="fid"):
            faults(command, rules)


@pytest.mark.parametrize(
    ("program", "app"), [("vrpo", app), ("python -m benchmarks", benchmarks_app)]
)
def test_commands_of_packages(program: str, app: typer.Typer) -> None:
    found = commands(f"{program} ")
    assert len(found) > 8
    for command in found:
        group, words = typer.main.get_command(app), shlex.split(command.removeprefix(program))
        while hasattr(group, "commands") and words and words[0] != "--help":
            group, words = group.commands[words[0]], words[1:]
        known = {"--help", *(option for parameter in group.params for option in parameter.opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, command


def test_benchmarks_name_runs_and_options_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the benchmarks read them, up to the measurement."""
    monkeypatch.chdir(ROOT)
    for command in commands("python -m benchmarks "):
        _, _, _, name, *words = shlex.split(command)
        group = typer.main.get_command(benchmarks_app)
        given = group.commands[name].make_context(name, words).params
        if name in ("data", "metrics"):
            continue
        config = read_experiment(given["config"], given["settings"] or [])
        for run in given.get("runs", [given.get("run")]):
            timed_run(config, run)
        if name == "sample":
            timed_sampler(config, given["run"], given["sampler"])


def test_make_says_where_the_report_is() -> None:
    (program,) = re.findall(
        r"^\t@(python -c .*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    words = shlex.split(program.replace("$(CONFIG)", str(ROOT / "tests/workflow/tiny.yaml")))
    result = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split(maxsplit=2)[2].strip() == str(ROOT / "results/tiny/report.html"), (
        result.stderr
    )
