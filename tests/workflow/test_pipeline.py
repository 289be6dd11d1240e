"""The whole chain, end to end: run, run again, redraw, kill and go on."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vrpo.files import exclusive_lock
from vrpo.report.catalogue import CATALOGUE, report_entries

from tests.fixtures.workflow import DRAWN, clone, command, environment, snakemake, whole

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]

FINAL = {
    ".h5",
    ".safetensors",
    ".csv",
    ".npz",
    ".json",
    ".yaml",
    ".md",
    ".tex",
    ".pdf",
    ".png",
    ".html",
}
CHAIN = (
    "--config",
    "results='my results'",
    "--",
    "my results/tiny/metrics/sit-vrpo/seed0/step0000016/ode.json",
)
SCORED = "results/tiny/metrics/sit-vrpo/seed0/step0000008/ode.json"
RECOMPUTED = {
    "manifest",
    "evaluate",
    "resolved_config",
    "all",
    "prepare",
    "milestones",
}  # jobs of seconds


def final_bytes(results: Path) -> dict[str, str]:
    """Hash of every final file, by its path: all but logs, resume states and clock times."""
    files = (path for path in results.rglob("*") if path.is_file() and path.suffix in FINAL)
    kept = (
        path
        for path in files
        if path.name != "speed.csv" and not {"state", "logs"} & set(path.relative_to(results).parts)
    )
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in kept
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run.

    It is a clone of the repository whose name has a space and a quote.
    """
    folder = clone(tmp_path_factory.mktemp("undisturbed") / "my repo's")
    result = snakemake(folder, "--cores", "2", checkout=folder)
    assert result.returncode == 0, whole(result)[-8000:]
    return folder


def test_everything_is_there(finished: Path) -> None:
    results = finished / "results/tiny"
    assert (results / "report.html").stat().st_size > 100_000
    assert (results / "README.md").is_file()
    for kind in ("figure", "table"):
        wanted = {file for entry in report_entries(kind) for file in entry.files}
        assert {path.name for path in (results / f"{kind}s").iterdir()} == wanted
    assert sorted(
        path.name for path in (results / "runs/sit-vrpo/seed0").glob("*.safetensors")
    ) == ["step0000008.safetensors", "step0000016.safetensors"]
    states = [path.name for path in (results / "runs/sit-vrpo/seed0/state").glob("*/step*.pt")]
    assert states and "step0000008.pt" not in states, (
        "a milestone outlives the state that it was taken from"
    )
    assert not [path for path in results.rglob("*") if "partial" in path.name], (
        "something half-written was left"
    )
    plain = finished / "plain"
    plain.touch()
    modes = {path: path.stat().st_mode for path in results.rglob("*") if path.suffix in FINAL}
    assert {path for path, mode in modes.items() if mode != plain.stat().st_mode} == set(), (
        "colleagues cannot read it"
    )


def test_run_again_does_nothing(finished: Path) -> None:
    before = final_bytes(finished / "results/tiny")
    result = snakemake(finished, "--cores", "2", checkout=finished)
    assert "Nothing to be done" in whole(result)
    assert final_bytes(finished / "results/tiny") == before


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run, to be changed."""
    return shutil.copytree(
        finished,
        tmp_path / "copy",
        symlinks=True,
        ignore=shutil.ignore_patterns("workflow", "vrpo"),
    )


def test_a_plots_look_retrains_nothing(copied: Path) -> None:
    jobs = planned(whole(snakemake(copied, "-n", "--config", "report={title: another}")))
    assert not jobs & {"train", "sample", "evaluate"}
    assert {"fid", "report"} <= jobs


def test_another_seed_trains_only_that_seed(copied: Path) -> None:
    text = whole(snakemake(copied, "-n", "--config", "seeds=[0,1]"))
    assert not planned(text) & {
        "images",
        "fit_network",
        "encode_latents",
        "encode_features",
        "reference",
    }
    assert "total" in text and re.search(r"^train +3$", text, re.MULTILINE)


def test_removed_samples_are_not_drawn_again(copied: Path) -> None:
    shutil.rmtree(copied / "results/tiny/samples")
    assert "Nothing to be done" in whole(snakemake(copied, "-n"))


def test_redraw_without_intermediates(copied: Path) -> None:
    results = copied / "results/tiny"
    before = {
        name: content
        for name, content in final_bytes(results).items()
        if name.startswith(("figures", "tables"))
    }
    for gone in (
        "runs",
        "samples",
        "metrics",
        "representation",
        "features",
        "networks",
        "images",
        "latents",
        "reference.npz",
        "figures",
        "tables",
    ):
        path = results / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = snakemake(
        copied, "--cores", "2", "--allowed-rules", *DRAWN, "--forcerun", *DRAWN, "--", *DRAWN
    )
    assert result.returncode == 0, whole(result)[-8000:]
    assert planned(whole(result)) == set(DRAWN)
    assert {
        name: content
        for name, content in final_bytes(results).items()
        if name.startswith(("figures", "tables"))
    } == before
    assert not (results / "samples").exists()


def copy_of_results(finished: Path, folder: Path) -> Path:
    """As `rsync` without -t, into a clone that has never run."""
    shutil.copytree(finished / "results", clone(folder) / "results", copy_function=shutil.copyfile)
    return folder


def moved(finished: Path, folder: Path) -> Path:
    """As `mv` of a whole checkout."""
    copy = shutil.copytree(finished, folder.with_name("before"))
    return copy.rename(folder)


def cloned_beside(finished: Path, folder: Path) -> Path:
    """A fresh clone to which finished results are moved.

    Their times are older than the clone's, and Snakemake's records are missing.
    """
    shutil.copytree(finished / "results", folder.with_name("before"))
    folder.with_name("before").rename(clone(folder) / "results")
    return folder


def skewed(finished: Path, folder: Path) -> Path:
    """As written by machines whose clocks differ by hours."""
    shutil.copytree(finished, folder)
    for number, path in enumerate(sorted((folder / "results").rglob("*"))):
        when = time.time() + (3600 if number % 3 else -7200) - 60 * number
        os.utime(path, (when, when))
    return folder


@pytest.mark.parametrize("move", [copy_of_results, moved, cloned_beside, skewed])
def test_nothing_is_computed_again(
    move: Callable[[Path, Path], Path], finished: Path, tmp_path: Path
) -> None:
    folder = move(finished, tmp_path / "second")
    before = final_bytes(finished / "results/tiny")
    shutil.rmtree(folder / "results/tiny/logs")
    result = snakemake(folder, "--cores", "2", "--", SCORED, checkout=folder)
    assert result.returncode == 0, whole(result)[-8000:]
    assert final_bytes(folder / "results/tiny") == before
    logs = [
        path
        for path in (folder / "results/tiny/logs").rglob("*.log")
        if path.name != "manifest.log"
    ]
    assert all("restored" in path.read_text() for path in logs), [
        (path, path.read_text()) for path in logs
    ]
    assert len(logs) >= len(planned(whole(result)) - RECOMPUTED)
    assert not list(folder.rglob(".*.kept")), "second names are gone when the workflow ends"
    assert "Nothing to be done" in whole(
        snakemake(folder, "--cores", "2", "--", SCORED, checkout=folder)
    )


def test_killed_and_started_again_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    """SIGKILL to snakemake and its jobs, once in the middle of each kind of long stage.

    The name of the results has a space.
    """
    results = tmp_path / "my results/tiny"
    moments = {
        "a network is fitted": lambda: any((results / "logs").glob("fit-tokenizer.log")),
        "a run is trained": lambda: any(results.glob("runs/*/*/state/**/*.pt")),
        "images are sampled": lambda: (
            any(results.glob("samples/**/.*.partial*")) or any(results.glob("logs/sample/**/*.log"))
        ),
    }
    for reached in moments.values():
        run_and_kill(tmp_path, reached)
    result = snakemake(tmp_path, "--cores", "2", *CHAIN)
    assert result.returncode == 0, whole(result)[-8000:]
    undisturbed, disturbed = final_bytes(finished / "results/tiny"), final_bytes(results)
    del disturbed[".plan.yaml"]  # names the folder
    assert disturbed == {
        name: content for name, content in undisturbed.items() if name in disturbed
    }
    assert {
        "images/shard-00000-of-00001.h5",
        "networks/tokenizer.safetensors",
        "samples/sit-vrpo/seed0/step0000016/ode.h5",
    } <= disturbed.keys()


def test_two_workflows_do_not_write_the_same_results(finished: Path) -> None:
    with exclusive_lock(finished / "results/tiny/.lock", "another workflow"):
        result = snakemake(finished, "--cores", "2", "--forcerun", "fid")
    assert result.returncode != 0
    assert "a workflow on these results is already running" in whole(result)


def test_snakemakes_own_report(finished: Path) -> None:
    result = snakemake(finished, "--report", "report.zip")
    assert result.returncode == 0, whole(result)[-4000:]
    with zipfile.ZipFile(finished / "report.zip") as archive:
        page = archive.read("report/report.html").decode("utf-8")
    captions = {entry.title.split("'")[0] for entry in CATALOGUE}  # quotes are written otherwise
    assert {each for each in captions if f"<p>{each}" not in page} == set()


def planned(text: str) -> set[str]:
    """Names of the rules in snakemake's table of jobs."""
    table = text.split("Job stats:")[1].split("\ntotal")[0] if "Job stats:" in text else ""
    return {line.split()[0] for line in table.splitlines()[3:] if line.split()}


def run_and_kill(folder: Path, reached: object) -> None:
    """Start the workflow, and kill its whole process group when `reached()` holds."""
    process = subprocess.Popen(
        command("--cores", "2", *CHAIN),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in polls(300):
            if reached():
                break
            assert process.poll() is None, "the workflow ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def polls(seconds: float) -> Iterator[None]:
    """A turn every 0.05 s until `seconds` have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain")
