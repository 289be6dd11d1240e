"""The benchmarks of training and sampling run, count what they say they count, and follow the config they stand for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vrpo.bench import commands, paper
from vrpo.bench.against_published import bench_against_published
from vrpo.bench.against_published import table as ratio_table
from vrpo.bench.measure import StepClock, peak_of, tensor_bytes
from vrpo.bench.paper import PaperModel, paper_model
from vrpo.bench.published_loop import PublishedLoop, write_single_files
from vrpo.bench.sample import SampleSettings, bench_sample
from vrpo.bench.sample import table as sample_table
from vrpo.bench.synthetic import write_training_data
from vrpo.bench.train import bench_train
from vrpo.bench.train import table as train_table
from vrpo.config import load_experiment
from vrpo.config.training import TrainingOptions
from vrpo.errors import UserError

CPU = torch.device("cpu")
IMAGENET = Path(__file__).parents[2] / "config" / "imagenet256.yaml"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> PaperModel:
    """A network of two narrow blocks on latents and tokens of the papers' shape."""
    model = paper_model("SiT-S/2", critic=(8, 1))
    monkeypatch.setattr(PaperModel, "aligned_after", 1)
    options = model.options.model_copy(update={"depth": 2, "width": 32, "heads": 2})
    return PaperModel("SiT-S/2", model.process, options, model.critic)


@pytest.mark.parametrize("run", ["sit-b2-vrpo", "sit-xl2-vrpo", "dit-xl2-repa", "dit-l2-none"])
def test_it_measures_what_the_imagenet_config_trains(run: str) -> None:
    """The benchmark needs no config file; both must agree."""
    config = load_experiment(IMAGENET).run_config(run, 0)
    model = paper_model(config.model.name)
    assert (model.options, model.process) == (config.model, config.process)
    assert model.alignment(run.split("-")[-1]) == config.alignment
    settings = TrainingOptions(batch_size=256, precision="bf16", compile=True)
    assert settings == config.training


@pytest.mark.parametrize("name", ["SiT-S/2", "DiT-S/8"])
def test_flops_are_those_of_the_networks(name: str) -> None:
    """Against PyTorch's counter, which sees all matrix products: forward and backward pass of one image."""
    model = paper_model(name, critic=(64, 2))
    tokens = (32 // model.options.patch_size) ** 2
    for alignment in (
        ("none", "vrpo", "vrpo-perceptual") if tokens == paper.TOKENS[0] else ("none",)
    ):
        objective = model.build_objective(alignment, TrainingOptions(), CPU)
        x0, t, labels = (
            torch.randn(8, *paper.LATENT),
            objective.process.sample_times(8, torch.Generator()),
            torch.zeros(8, dtype=torch.int64),
        )
        encoded = {paper.ENCODER: torch.randn(8, *paper.TOKENS)}
        with FlopCounterMode(display=False) as counter:
            objective(
                x0,
                torch.randn_like(x0),
                t,
                labels,
                encoded,
                None,
                {},
                torch.zeros((), dtype=torch.int64),
            )[0].backward()
        assert counter.get_total_flops() / 8 == pytest.approx(
            sum(model.flops(alignment).values()), rel=0.03
        )


def test_published_sizes_of_the_work() -> None:
    repa = {
        name: sum(paper_model(name).flops("repa").values()) / 1e9
        for name in ("SiT-XL/2", "SiT-L/2", "SiT-B/2")
    }
    assert repa == pytest.approx({"SiT-XL/2": 724, "SiT-L/2": 496, "SiT-B/2": 149}, rel=0.005)


def test_training_bench(small: PaperModel, tmp_path: Path) -> None:
    settings = TrainingOptions(batch_size=8)
    record = bench_train(
        small,
        list(paper.ALIGNMENTS),
        settings,
        CPU,
        steps=2,
        rounds=2,
        samples=16,
        output=tmp_path / "bench.json",
    )
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(record))
    repa, vrpo, perceptual = (record["alignments"][name] for name in paper.ALIGNMENTS[1:])
    assert (
        vrpo["flops"] == repa["flops"]
        and perceptual["flops"]["critic"] > 0 == repa["flops"]["critic"]
    )
    assert (vrpo["over"], perceptual["over"]) == ("repa", "vrpo")
    for form in (vrpo, perceptual):
        assert {"data", "forward", "backward", "optimiser", "average"} <= form["parts"].keys()
        assert all(seconds >= 0 for seconds in form["parts"].values()) and form["seconds"] > 0
    shown = train_table(record).splitlines()
    assert shown[1].split() == list(paper.ALIGNMENTS) and shown[2].startswith("images/s")
    assert len({len(line) for line in shown[1:]}) == 1  # columns stand below their names


def test_the_memory_of_a_training_does_not_hold_the_others(small: PaperModel) -> None:
    """All are in memory at once when one is measured. A few bytes differ from time to time, as threads read ahead."""
    settings = TrainingOptions(batch_size=8)
    together = bench_train(
        small, list(paper.ALIGNMENTS), settings, CPU, steps=1, rounds=1, samples=16
    )["alignments"]
    alone = bench_train(small, ["vrpo-perceptual"], settings, CPU, steps=1, rounds=1, samples=16)[
        "alignments"
    ]["vrpo-perceptual"]
    for measured in ("state_bytes", "step_bytes"):
        assert together["vrpo-perceptual"][measured] == pytest.approx(alone[measured], rel=0.05)
        assert 2 * together["none"][measured] < together["repa"][measured], (
            "a projector is trained, too"
        )
        assert together["vrpo"][measured] == pytest.approx(together["repa"][measured], rel=0.05), (
            "the same networks"
        )
    for name, measured in together.items():
        trained = [
            parameter
            for parameter in small.build_objective(name, TrainingOptions(), CPU).parameters()
            if parameter.requires_grad
        ]
        gradients = 4 * sum(parameter.numel() for parameter in trained)
        assert measured["state_bytes"] == pytest.approx(
            4 * gradients, rel=0.2
        )  # weights, their average, two moments; small buffers
        assert measured["step_bytes"] > gradients


def test_peak_of_tensors_by_hand() -> None:
    def work() -> None:
        a = torch.zeros(1000, 250)
        b = a + 1
        del a
        del b

    kept = torch.zeros(10, 100)
    assert peak_of(work, CPU) == pytest.approx(2 * 4 * 1000 * 250, rel=0.1)
    assert (
        tensor_bytes({"whole": kept, "parts": [kept[:5], (kept[5:],)], "other": 3}) == 4 * 10 * 100
    )


def test_parts_of_steps_are_medians_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 1.0, 3.0, 4.0, 10.0, 12.0, 13.0, 14.0, 20.0, 23.0, 24.0, 25.0])
    monkeypatch.setattr("vrpo.bench.measure.time.perf_counter", lambda: next(moments))
    clock = StepClock(CPU)
    for _ in range(3):
        clock.begin()
        for part in ("data", "forward", "data"):
            clock.mark(part)
    assert clock.medians() == {"data": 3.0, "forward": 1.0}


def test_ratio_bench(small: PaperModel) -> None:
    settings = TrainingOptions(batch_size=8)
    record = bench_against_published(
        small, settings, "bf16", CPU, steps=1, rounds=2, samples=16, workers=0
    )
    assert record["ratio"] > 0 and len(record["ratio_of_rounds"]) == 2
    assert "published loop (bf16, eager)" in ratio_table(record)


def test_the_published_loop_trains_as_ours_does(small: PaperModel, tmp_path: Path) -> None:
    """Its loss, sample by sample, is REPA's: the two are timed at the same work."""
    write_single_files(tmp_path, 8)
    loop = PublishedLoop(small, tmp_path, batch_size=8, precision="fp32", workers=0, device=CPU)
    before = [parameter.detach().clone() for parameter in loop.model.parameters()]
    loop.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))
    assert loop.logged.keys() == {"loss", "projection", "grad_norm"}
    objective = small.build_objective("repa", TrainingOptions(), CPU)
    loop.network.load_state_dict(objective.network.state_dict())
    loop.projector.load_state_dict(objective.alignment.projectors[0].state_dict())
    x, labels, tokens = (
        torch.randn(8, *paper.LATENT),
        torch.arange(8),
        torch.randn(8, *paper.TOKENS),
    )
    torch.manual_seed(0)
    denoising, projection = loop._losses(x, labels, [tokens])
    torch.manual_seed(0)
    t, noise = torch.rand(8, 1, 1, 1).flatten(), torch.randn_like(x)
    loss, metrics = objective(x, noise, t, labels, {paper.ENCODER: tokens})
    torch.testing.assert_close(denoising.mean(), metrics["denoising"])
    torch.testing.assert_close(projection, metrics["alignment"])
    torch.testing.assert_close(denoising.mean() + 0.5 * projection, loss)


@pytest.mark.parametrize(("sampler", "guidance"), [("sde", 1.0), ("ode-heun", 1.5)])
def test_sampling_bench(small: PaperModel, sampler: str, guidance: float, tmp_path: Path) -> None:
    settings = SampleSettings(sampler, 250, 3, 2, guidance, "fp32", compile=False, decode=False)
    record = bench_sample(small, settings, CPU, tmp_path / "bench.json")
    assert record["hours_for_50000"] == pytest.approx(50_000 / 3600 / record["images_per_second"])
    assert "50,000 images" in sample_table(record)
    with pytest.raises(UserError, match="use one of ode-euler"):
        bench_sample(small, SampleSettings("ddpm"), CPU)


def test_synthetic_data_has_the_papers_shapes(tmp_path: Path) -> None:
    data = write_training_data(tmp_path, 8)
    assert (data.count, data.latent_shape, data.feature_shapes) == (
        8,
        paper.LATENT,
        {paper.ENCODER: paper.TOKENS},
    )


@pytest.mark.parametrize("name", ["XL/2", "SiT-XXL/2", "SiT-XL/3", "SiT-XL"])
def test_unknown_models_are_named(name: str) -> None:
    with pytest.raises(UserError, match="write it as SiT-XL/2"):
        paper_model(name)


def test_the_clock_adds_up_parts_of_the_same_name() -> None:
    clock = StepClock(CPU)
    clock.begin()
    for part in ("forward", "backward", "forward"):
        clock.mark(part)
    assert clock.medians().keys() == {"forward", "backward"}


@pytest.mark.parametrize("program", [["vrpo.bench"], ["vrpo", "bench"]])
def test_both_command_lines_are_one(program: list[str]) -> None:
    """With and without typer: the same options, and one line for what is wrong."""
    command = [sys.executable, "-m", *program]
    shown = subprocess.run(
        [*command, "train", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--against-published" in shown and f"usage: python -m {' '.join(program)} train" in shown
    wrong = subprocess.run(
        [*command, "sample", "--model", "SiT-Q/2", "--device", "cpu"],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and wrong.stderr.splitlines()[-1].startswith(
        "vrpo: error: --model: `SiT-Q/2` is none of"
    )


def test_the_command_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: PaperModel
) -> None:
    monkeypatch.setattr(commands, "paper_model", lambda name, critic: small)
    options = [
        "--alignment",
        "none,vrpo",
        "--batch",
        "8",
        "--steps",
        "1",
        "--rounds",
        "1",
        "--samples",
        "8",
        "--precision",
        "fp32",
        "--no-compile",
        "--device",
        "cpu",
    ]
    assert "vrpo" in commands.train_command(
        [*options, "--output", str(tmp_path / "bench.json")], "bench train"
    )
    assert json.loads((tmp_path / "bench.json").read_text())["settings"]["compile"] is False
    with pytest.raises(
        UserError, match="--batch, vrpo: groups of 8 rollouts do not divide the 4 samples"
    ):
        commands.train_command([*options, "--accumulation", "2"], "bench train")
