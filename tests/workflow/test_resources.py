"""Requests of jobs to a cluster, by stage; all of them can be changed.

Later tries ask for no more than the longest limit.
"""

import re
from pathlib import Path

import pytest

from vrpo.config import load_experiment

from tests.fixtures import ROOT
from tests.fixtures.workflow import TINY, plan, snakemake, whole

pytestmark = [pytest.mark.workflow]
IMAGENET = ROOT / "config/imagenet256.yaml"
READING = {
    "listing",
    "images",
    "manifest",
    "collect",
    "fid",
    "samples",
    "comparison",
    "claims",
    "report",
}  # without networks


def asked(text: str) -> dict[str, list[dict[str, str]]]:
    """{rule: resources of each of its jobs, in the order in which they are printed}."""
    found: dict[str, list[dict[str, str]]] = {}
    for rule, block in re.findall(
        r"^(?:local)?rule (\w+):\n(.*?)(?:\n\n|\n\[|\Z)", text, re.MULTILINE | re.DOTALL
    ):
        line = re.search(r"^ +resources: (.*)$", block, re.MULTILINE)
        found.setdefault(rule, []).append(
            dict(pair.split("=", 1) for pair in line[1].split(", ")) if line else {}
        )
    return found


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    arguments = (
        "--workflow-profile",
        "slurm",
        "--config",
        f"results={tmp_path_factory.mktemp('paper')}",
    )
    return asked(
        whole(
            plan(
                ROOT,
                *arguments,
                "--set-resources",
                "collect:mem_mb=77",
                "train:runtime=90",
                config=IMAGENET,
            )
        )
    )


def test_jobs_without_networks_ask_for_less(paper: dict[str, list[dict[str, str]]]) -> None:
    resources = load_experiment(IMAGENET).resources
    for rule in READING - {"collect"}:
        assert {int(job["mem_mb"]) for job in paper[rule]} == {resources.cpu_memory_mb}, rule
        assert {job["gpu"] for job in paper[rule]} == {"0"}, rule
    assert resources.cpu_memory_mb < resources.memory_mb
    assert {
        int(job["mem_mb"]) for rule in ("train", "sample", "encode_latents") for job in paper[rule]
    } == {resources.memory_mb}
    assert all(
        int(paper[rule][0]["runtime"]) < resources.runtime_minutes
        for rule in ("fid", "claims", "report")
    )


def test_the_command_line_changes_what_jobs_ask_for(paper: dict[str, list[dict[str, str]]]) -> None:
    assert paper["collect"][0]["mem_mb"] == "77"
    assert {job["runtime"] for job in paper["train"]} == {"90"}


def test_the_config_changes_what_jobs_ask_for(tmp_path: Path) -> None:
    jobs = asked(
        whole(plan(tmp_path, "--config", "resources={cpu_memory_mb: 700, memory_mb: 900}"))
    )
    assert {job["mem_mb"] for rule in READING - {"listing"} for job in jobs[rule]} == {"700"}
    assert {job["mem_mb"] for job in jobs["train"]} == {"900"}
    small = asked(whole(plan(tmp_path, "--config", "resources={memory_mb: 600}", "--", "collect")))
    assert {job["mem_mb"] for rule in ("images", "collect", "train") for job in small[rule]} == {
        "600"
    }


def test_a_training_ends_before_its_job_whatever_it_asks_for(tmp_path: Path) -> None:
    for arguments, minutes in ([], "20"), (["--set-resources", "train:runtime=90"], "90"):
        text = whole(plan(tmp_path, "-p", *arguments, "--", "milestones"))
        assert set(re.findall(r"SLURM_JOB_ID:\+--max-minutes (\S+)}", text)) == {minutes}


def test_the_memory_of_an_import_follows_its_file(tmp_path: Path) -> None:
    row = "checkpoints={theirs: {file: theirs.pt, family: sit, model: tiny/2, step: 7}}"
    needed = []
    for size in (10, 20 * 10**9):
        with open(tmp_path / "theirs.pt", "wb") as file:
            file.truncate(size)  # a hole
        text = whole(
            plan(
                tmp_path,
                "--config",
                row,
                "--",
                "results/tiny/runs/theirs/seed0/step0000007.safetensors",
            )
        )
        needed.append(int(asked(text)["import_checkpoint"][0]["mem_mb"]))
    assert needed[0] <= load_experiment(TINY).resources.memory_mb and needed[1] > 40_000


@pytest.mark.parametrize(
    ("longest", "minutes"), [("35", ["20", "35", "35"]), ("null", ["20", "20", "20"])]
)
def test_later_tries_do_not_pass_the_longest_limit(
    longest: str, minutes: list[str], tmp_path: Path
) -> None:
    options = [
        "data={source: folder, root: missing}",
        f"resources={{max_runtime_minutes: {longest}}}",
    ]
    result = snakemake(
        tmp_path,
        "--cores",
        "1",
        "--retries",
        "2",
        "--config",
        *options,
        "--",
        "results/tiny/images/shard-00000-of-00001.h5",
    )
    assert result.returncode != 0
    assert [job["runtime"] for job in asked(whole(result))["images"]] == minutes


def test_a_training_asks_for_the_same_in_each_try(tmp_path: Path) -> None:
    (tmp_path / "results/tiny/latents").mkdir(parents=True)
    (tmp_path / "results/tiny/latents/shard-00000-of-00001.h5").write_bytes(b"not HDF5")
    arguments = [
        "--cores",
        "1",
        "--retries",
        "1",
        "--allowed-rules",
        "train",
        "resolved_config",
        "--config",
        "resources={max_runtime_minutes: 100}",
    ]
    result = snakemake(
        tmp_path, *arguments, "--", "results/tiny/runs/dit-none/seed0/step0000016.safetensors"
    )
    assert result.returncode != 0
    assert [job["runtime"] for job in asked(whole(result))["train"]] == ["20", "20"]
