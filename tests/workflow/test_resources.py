"""Requests of jobs to a cluster, by stage; all of them can be changed.

Later tries ask for no more than the longest limit.
"""

import re
from pathlib import Path

import pytest
import yaml

from tests.fixtures import ROOT
from tests.fixtures.workflow import plan, snakemake, whole

pytestmark = [pytest.mark.workflow]
IMAGENET = ROOT / "config/imagenet256.yaml"
PROFILE = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
TRIES = PROFILE["retries"] + 1
PLAIN = {"listing", "collect", "fid", "samples", "comparison", "claims", "report"}


def of_try(request: object, attempt: int = 1) -> int:
    """A request of the profile, as Snakemake computes it for a try."""
    return eval(str(request), {"attempt": attempt, "min": min})


def asked(text: str) -> dict[str, list[dict[str, str]]]:
    """{rule: resources of each of its jobs, in the order in which they are printed}."""
    found: dict[str, list[dict[str, str]]] = {}
    for rule, block in re.findall(
        r"^ *(?:local)?rule (\w+):\n(.*?)(?:\n\n|\n *\[|\Z)", text, re.MULTILINE | re.DOTALL
    ):
        line = re.search(r"^ +resources: (.*)$", block, re.MULTILINE)
        found.setdefault(rule, []).append(
            dict(pair.split("=", 1) for pair in line[1].split(", ")) if line else {}
        )
    return found


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    results = f"results={tmp_path_factory.mktemp('paper')}"
    changed = ["--set-resources", "collect:mem_mb=77", "sample:runtime=90"]
    changed += ["--default-resources", "slurm_account=me"]
    arguments = ["--workflow-profile", "slurm", "--config", results, *changed]
    return asked(whole(plan(ROOT, *arguments, config=IMAGENET)))


def test_jobs_ask_for_what_the_profile_says(paper: dict[str, list[dict[str, str]]]) -> None:
    """The defaults, and for rules that it names more."""
    for rule in PLAIN - {"collect", "listing"}:
        assert {(job["mem_mb"], job["runtime"]) for job in paper[rule]} == {("2000", "5")}, rule
        assert all("gpu" not in job for job in paper[rule]), rule
    train = PROFILE["set-resources"]["train"]
    for name in ("gpu", "mem_mb", "runtime"):
        assert {job[name] for job in paper["train"]} == {str(of_try(train[name]))}
    assert {job["gpu"] for job in paper["encode_latents"]} == {"1"}


def test_the_profile_names_rules_that_exist(paper: dict[str, list[dict[str, str]]]) -> None:
    optional = {"fit_network", "fit_critic", "representation_of_run", "describe_features"}
    optional |= {"sample_guided", "class_tokens", "image_tokens", "reward_moments"}
    optional |= {"import_checkpoint", "benchmark"}  # the paper has none of them
    assert set(PROFILE["set-resources"]) - optional <= set(paper)
    rules = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    assert all(re.search(rf"rule (\w+ as )?{name}\b", rules) for name in optional)


def test_the_command_line_changes_what_jobs_ask_for(paper: dict[str, list[dict[str, str]]]) -> None:
    """Only what it names; Snakemake by itself would drop the profile's other requests."""
    assert paper["collect"][0]["mem_mb"] == "77"
    assert {job["runtime"] for job in paper["sample"]} == {"90"}
    assert {job["mem_mb"] for job in paper["sample"]} == {"32000"}
    assert all(job["slurm_account"] == "me" for jobs in paper.values() for job in jobs if job)


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
    assert needed[0] < 5_000 and needed[1] > 40_000


@pytest.mark.parametrize(
    "options",
    [
        ["--set-resources=sample:runtime=90"],
        ["--default-res", "slurm_account=me"],
        ["--default-resources=slurm_account=me"],
    ],
)
def test_every_spelling_keeps_the_requests_of_the_profile(
    options: list[str], tmp_path: Path
) -> None:
    arguments = ["--workflow-profile", "slurm", "--config", f"results={tmp_path}", *options]
    target = tmp_path / "imagenet256/samples/sit-b2-none/seed0/step0050000/sde.h5"
    jobs = asked(whole(plan(ROOT, *arguments, "--", str(target), config=IMAGENET)))
    assert {job["mem_mb"] for job in jobs["sample"]} == {"32000"}
    assert {job["gpu"] for job in jobs["train"]} == {"8"}
    wanted = "90" if "runtime" in options[0] else "720"
    assert {job["runtime"] for job in jobs["sample"]} == {wanted}


def test_later_tries_ask_for_more_up_to_the_limit(tmp_path: Path) -> None:
    profile = PROFILE["default-resources"]["runtime"]
    arguments = ["--cores", "1", "--retries", "2", "--default-resources", f"runtime={profile}"]
    missing = ["--config", "data={source: folder, root: missing}"]
    target = "results/tiny/images/shard-00000-of-00001.h5"
    result = snakemake(tmp_path, *arguments, *missing, "--", target)
    assert result.returncode != 0
    assert [job["runtime"] for job in asked(whole(result))["images"]] == ["5", "10", "15"]


def test_no_try_asks_for_more_than_a_node_or_a_partition_has() -> None:
    """A training's time is the same in each: it resumes."""
    requests = PROFILE["set-resources"]
    for rule, request in {"default": PROFILE["default-resources"], **requests}.items():
        assert of_try(request.get("runtime", 0), TRIES) <= 720, rule
        memory = request.get("mem_mb", PROFILE["default-resources"]["mem_mb"])
        assert of_try(memory, TRIES) <= 256_000, rule
        assert of_try(memory, 2) > of_try(memory), rule
    assert of_try(requests["train"]["runtime"], TRIES) == of_try(requests["train"]["runtime"])
