"""Plans and refusals of snakemake, without running a job."""

import re
import shlex
from pathlib import Path

import pytest

from vrpo.config import load_experiment, merge_configs, parse_experiment
from vrpo.config.geometry import latent_side
from vrpo.config.strict_yaml import dump_yaml
from vrpo.plan.jobs import evaluations
from vrpo.report.cost import costs, encoder_tokens

from tests.fixtures import ROOT
from tests.fixtures.workflow import TINY, plan, snakemake, stats, whole

pytestmark = [pytest.mark.workflow]
IMAGENET = ROOT / "config/imagenet256.yaml"


def test_the_paper_is_planned_without_imagenet(tmp_path: Path) -> None:
    result = plan(
        ROOT, "--workflow-profile", "slurm", "--config", f"results={tmp_path}", config=IMAGENET
    )
    text = whole(result)
    assert result.returncode == 0, text[-4000:]
    assert {
        name: stats(text)[name] for name in ("train", "sample", "evaluate", "encode_features")
    } == {
        "train": 60,
        "sample": 75,
        "evaluate": 75,
        "encode_features": 16,
    }
    said = [
        line for line in text.splitlines() if "no training images at data/imagenet/train" in line
    ]
    assert len(said) == 1
    assert "gpu=8" in text and "nodes=1" in text and "runtime=720" in text


def test_the_default_is_planned(tmp_path: Path) -> None:
    result = plan(tmp_path, config=ROOT / "config/mini.yaml")
    assert result.returncode == 0, whole(result)[-4000:]
    assert stats(whole(result))["train"] == 18


def test_shards_are_jobs_of_their_own(tmp_path: Path) -> None:
    result = plan(tmp_path, "-p", "--config", "data={shards: 4}", "--", "prepare")
    text = whole(result)
    assert result.returncode == 0, text[-4000:]
    jobs = stats(text)
    assert {
        name: jobs[name]
        for name in (
            "images",
            "manifest",
            "encode_latents",
            "encode_features",
            "fit_network",
            "fit_critic",
        )
    } == {
        "images": 4,
        "manifest": 1,
        "encode_latents": 4,
        "encode_features": 4,
        "fit_network": 3,
        "fit_critic": 1,
    }
    assert (
        "--images results/tiny/images --weights" in text
        and "--output results/tiny/latents/shard-00003-of-00004.h5" in text
    )
    assert "--latents results/tiny/latents --features results/tiny/features/vit " in text


def test_the_method_benchmark_is_planned(tmp_path: Path) -> None:
    configs = ROOT / "config/mini.yaml", ROOT / "config/benchmark.yaml"
    experiment = load_experiment(*configs)
    result = plan(tmp_path, "--quiet", "rules", "--", "benchmark", config=configs)
    assert result.returncode == 0, whole(result)[-4000:]
    planned = stats(whole(result))
    scored = list(evaluations(experiment))
    assert planned["train"] == planned["sample"] == planned["evaluate"] == len(scored)
    assert planned["collect"] == planned["benchmark"] == 1


@pytest.mark.parametrize("shards", [1, 2])
def test_commands_keep_names_with_spaces_whole(shards: int, tmp_path: Path) -> None:
    weights = tmp_path / "their weights.pt"
    weights.touch()
    options = [
        "results='my results'",
        f"data={{shards: {shards}}}",
        f"checkpoints={{theirs: {{file: '{weights}', family: sit, model: tiny/2}}}}",
    ]
    result = plan(tmp_path, "-p", "--config", *options)
    text = whole(result)
    assert result.returncode == 0, text[-4000:]
    commands = re.findall(r"^ *(?:Shell command: )?(vrpo .*)", text, re.MULTILINE)
    jobs = stats(text)
    assert len(commands) == jobs["total"] - jobs["resolved_config"] - jobs["all"]
    for command in commands:
        words = shlex.split(command)
        assert "my" not in words and "their" not in words, command
        assert not [word for word in words if re.match("results/|weights.pt", word)], command


LIMITED = "processes={dit-3: {kind: ddpm, loss_weight_limit: 3.0}}"


@pytest.mark.parametrize(
    "changes", [[], [LIMITED, "benchmark={processes: [dit-3]}"]], ids=["sit", "dit"]
)
def test_ablations_at_the_papers_scale_are_planned(changes: list[str], tmp_path: Path) -> None:
    configs = ROOT / "config/imagenet256.yaml", ROOT / "config/ablations.yaml"
    options = [
        "--quiet",
        "rules",
        "--workflow-profile",
        "slurm",
        "--config",
        f"results={tmp_path}",
        *changes,
    ]
    result = plan(ROOT, *options, "--", "benchmark", config=configs)
    assert result.returncode == 0, whole(result)[-4000:]
    planned = stats(whole(result))
    benchmark = load_experiment(*configs).benchmark
    assert planned["train"] == 5 * (3 * len(benchmark.compared) + len(benchmark.ablations))
    assert planned["encode_features"] == 16 * planned["fit_critic"] == 16 * 4


def test_imagenet_at_512_is_planned_and_costed(tmp_path: Path) -> None:
    """Four times the tokens of 256x256, and what belongs to them."""
    config = ROOT / "config/imagenet512.yaml"
    options = ["--quiet", "rules", "--workflow-profile", "slurm", "--config", f"results={tmp_path}"]
    result = plan(ROOT, *options, config=config)
    assert result.returncode == 0, whole(result)[-4000:]
    planned = stats(whole(result))
    assert (planned["train"], planned["fit_critic"]) == (6 * 3, 1)
    assert planned["encode_features"] == planned["encode_latents"] == 64
    small, large = load_experiment(IMAGENET), load_experiment(config)
    tokens = [encoder_tokens(each.encoders["dinov2-b"])[0] for each in (small, large)]
    assert tokens == [256, 1024] and [latent_side(each) for each in (small, large)] == [32, 64]
    rows = {row.what: row for row in costs(large, images=1_281_167)}
    assert rows["features of dinov2-b"].bytes == 1_281_167 * 1024 * (768 + 2)
    assert rows["latents"].bytes == 1_281_167 * 2 * 4 * 64 * 64 * 2


def test_the_method_benchmark_is_refused_where_there_is_none(tmp_path: Path) -> None:
    result = plan(tmp_path, "--", "benchmark")
    assert result.returncode == 2
    assert (
        whole(result)
        .splitlines()[-1]
        .startswith("vrpo: error: benchmark: this config has no section `benchmark`")
    )
    assert "Traceback" not in whole(result)


@pytest.mark.parametrize(
    "target", ["fid", "claims", "figures", "tables", "report", "prepare", "milestones"]
)
def test_named_targets(target: str, tmp_path: Path) -> None:
    result = plan(tmp_path, "--quiet", "rules", "--", target)
    assert result.returncode == 0, whole(result)[-4000:]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainig={batch_size: 8}", ["unknown option `trainig`", "did you mean `training`"]),
        ("training={batch_size: many}", ["training.batch_size", "'many'"]),
        ("milestones=[20, 10]", ["ascending"]),
        (
            "training={batch_size: 8, batch_size: 16}",
            ["--config training: ", "`batch_size` is given twice"],
        ),
        ("seeds=[010]", ["--config seeds: ", "octal"]),
    ],
)
def test_bad_options_are_one_line(override: str, words: list[str], tmp_path: Path) -> None:
    result = plan(tmp_path, "--config", override)
    text = whole(result)
    assert result.returncode != 0
    assert all(word in text.splitlines()[-1] for word in words), text
    assert refusals(text) == 1 and "Traceback" not in text
    assert not (tmp_path / "results").exists(), "nothing is written for a config that is refused"


def refusals(text: str) -> int:
    return text.count("vrpo: error: ")


def test_duplicate_keys_are_refused_in_files_that_snakemake_reads(tmp_path: Path) -> None:
    twice = tmp_path / "twice.yaml"
    twice.write_text("seeds: [0]\ntraining: {batch_size: 8}\nseeds: [1]\n")
    text = whole(plan(tmp_path, config=(TINY, twice)))
    assert text.splitlines()[-1].endswith(
        "twice.yaml: line 3: `seeds` is given twice, first in line 1; keep one of them"
    )
    assert refusals(text) == 1 and not (tmp_path / "results").exists()


def test_extreme_but_accepted_options_are_planned(tmp_path: Path) -> None:
    longest, seed, step = "0123456789" * 10, 2**63 - 1, 10**12
    content = {
        "experiment": longest,
        "results": str(tmp_path / "é results"),
        "seeds": [seed],
        "milestones": [1, 9_999_999, 10_000_000, step],
        "runs": {longest: {"model": "tiny/2", "process": "no", "alignment": "vrpo"}},
        "processes": {"no": {"kind": "interpolant"}},
        "samplers": {longest: {"kind": "ode-euler", "images": 2**63 - 1}},
        "resources": {
            "threads": 2**40,
            "save_minutes": 1e300,
        },
    }
    config = tmp_path / "extreme.yaml"
    config.write_text(dump_yaml(content), encoding="utf-8")
    last = f"{tmp_path}/é results/{longest}/samples/{longest}/seed{seed}/step{step}/{longest}.h5"
    result = plan(tmp_path, "--", last, "all", config=(TINY, config))
    assert result.returncode == 0, whole(result)[-4000:]
    assert stats(whole(result))["train"] == 4 + 4 + 1


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    row = "checkpoints={theirs: {file: theirs.pt, family: sit, model: tiny/2}}"
    for assignment, line in (
        (row, "checkpoints.theirs.file: there is no file theirs.pt; correct the path"),
    ):
        result = plan(tmp_path, "--config", assignment)
        assert (
            result.returncode == 2 and whole(result).splitlines()[-1] == f"vrpo: error: {line}"
        ), whole(result)[-4000:]


def test_values_of_the_command_line_have_types(tmp_path: Path) -> None:
    assignments = [
        "experiment='008'",
        "encoders={vit: {arguments: {drop_rate: 1e-1, no: yes}}}",
        "evaluation={reference: null}",
    ]
    result = plan(
        tmp_path, "--config", *assignments, "--", "results/008/images/shard-00000-of-00001.h5"
    )
    assert result.returncode == 0, whole(result)[-4000:]
    experiment = parse_experiment(merge_configs([TINY], assignments), "test")
    assert experiment.experiment == "008" and experiment.evaluation.reference is None
    assert (
        experiment.encoders["vit"].arguments["drop_rate"] == 0.1
        and experiment.encoders["vit"].arguments["no"] is True
    )


def test_an_online_encoder_is_described_and_not_encoded(tmp_path: Path) -> None:
    result = plan(
        tmp_path, "-p", "--config", "encoders={vit: {features: online}}", "--", "milestones"
    )
    text = whole(result)
    assert result.returncode == 0, text[-4000:]
    assert stats(text)["describe_features"] == 1 and "encode_features" not in stats(text)
    assert "--features vit=results/tiny/features/vit.json" in text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            "alignments={mine: {kind: custom, loss: 'own:Nope', encoders: [vit], depth: 1}}",
            "alignments.mine.loss: `own:Nope` cannot be imported",
        ),
        ("sizes={own: {depth: 2, width: 8, heads: 1, backbone: 'own:Nope'}}", "`own:Nope`"),
        (
            "sizes={own: {depth: 2, width: 8, heads: 1, backbone: 'own:Net', "
            "arguments: {kernal: 5}}}",
            "cannot be built with {'kernal': 5}",
        ),
    ],
)
def test_custom_classes_are_tried_before_the_first_job(
    rows: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self, kernel=3):\n        super().__init__()\n"
    )
    used = "runs={own: {model: tiny/2, process: sit, alignment: mine}}"
    if rows.startswith("sizes"):
        used = "runs={own: {model: own/2, process: sit, alignment: none}}"
    target = "results/tiny/runs/own/seed0/step0000008.safetensors"
    result = snakemake(tmp_path, "--cores", "1", "--config", rows, used, "--", target)
    text = whole(result)
    assert result.returncode == 2 and words in text and "Traceback" not in text, text[-3000:]
    assert not list(tmp_path.rglob("images/*.h5")), "no job was started"
