"""The trainer: exact resume, steps that are not finite, inputs, and the files of a run."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vrpo.data.batches import sample_indices
from vrpo.errors import UserError
from vrpo.files import exclusive_lock
from vrpo.models.checkpoints import read_network, save_network
from vrpo.runtime.machine import processor
from vrpo.training import plan as plan_module
from vrpo.training.run import train

from tests.fixtures.training import COUNT, Toy, assert_same_results, losses, milestone_file

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("process", ["sit", "dit"])
@pytest.mark.parametrize("alignment", ["none", "repa", "vrpo"])
def test_stopping_at_a_milestone_changes_nothing(
    toy: Toy, tmp_path: Path, alignment: str, process: str
) -> None:
    """Two jobs, 7 and then 20 steps, end in the bytes of one job; the file says what it is."""
    config = toy.config(alignment, process)
    toy.train_to(config, tmp_path / "whole", 20)
    toy.train_to(config, tmp_path / "parts", 7)
    toy.train_to(config, tmp_path / "parts", 20)
    assert_same_results(tmp_path / "whole", tmp_path / "parts", 20)
    _, description = read_network(milestone_file(tmp_path / "whole", 20))
    assert (description["run"], description["step"], description["seed"]) == (config.run, 20, 3)


def test_loss_falls(toy: Toy, tmp_path: Path) -> None:
    toy.train_to(toy.config("vrpo", learning_rate=3e-3), tmp_path, 300)
    curve = losses(tmp_path)[:, 2]  # the denoising error
    assert curve[-10:].mean() < 0.7 * curve[:10].mean()


def test_sigterm_saves_and_asks_to_be_started_again(toy: Toy, tmp_path: Path) -> None:
    config = toy.config("repa")
    process = subprocess.Popen(
        toy.command(config, tmp_path / "run", 100_000), stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / "train.csv").exists() or losses(tmp_path / "run").size == 0:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "SIGTERM" in stderr
    assert "Traceback" not in stderr
    assert len(list((tmp_path / "run" / "state").glob("*/*.pt"))) == 1


def test_wall_time_budget(toy: Toy, tmp_path: Path) -> None:
    result = toy.run(toy.config("none"), tmp_path / "run", 100_000, "--max-minutes", "0.01")
    assert result.returncode == 75
    assert "wall-time budget" in result.stderr


def test_the_samples_of_a_step_that_is_not_finite_are_in_the_log(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One step's noise is NaN: it changes no weight, and the training goes on.

    The log names the samples of the step.
    """
    config, drawn, bad = toy.config("vrpo"), plan_module.step_noise, 6

    def poisoned(purpose: str, seed: int, step: int, *rest: Any) -> torch.Tensor:
        return drawn(purpose, seed, step, *rest) * (
            float("nan") if step == bad and purpose == "noise" else 1.0
        )

    monkeypatch.setattr(plan_module, "step_noise", poisoned)
    toy.train_to(config, tmp_path, 10)
    samples = ", ".join(
        map(
            str,
            sorted(sample_indices(COUNT, config.training.batch_size, config.seed, bad).tolist()),
        )
    )
    assert (
        f"1 of the last 5 steps were not finite and changed no weight; samples of the "
        f"last of them, step {bad + 1}: {samples}" in caplog.text
    )
    weights, _ = read_network(milestone_file(tmp_path, 10))
    assert all(torch.isfinite(values).all() for values in weights.values())


def test_precisions_agree_up_to_rounding(toy: Toy, tmp_path: Path) -> None:
    toy.train_to(toy.config("vrpo"), tmp_path / "fp32", 20)
    toy.train_to(toy.config("vrpo", precision="bf16"), tmp_path / "bf16", 20)
    np.testing.assert_allclose(
        losses(tmp_path / "bf16")[:, 1:3], losses(tmp_path / "fp32")[:, 1:3], rtol=0.03, atol=0.03
    )


def test_old_policy_of_the_averaged_network(toy: Toy, tmp_path: Path) -> None:
    """The ratio is 1 where the average is the network itself, on the same noise.

    It leaves 1 as the network leaves its average.
    """
    clipped = {}
    for decay in (0.0, 0.9):
        config = toy.config("vrpo", learning_rate=1e-2, ema_decay=decay)
        alignment = config.alignment.model_copy(
            update={"old_policy": "ema", "kappa": 20.0, "clip": 1e-3, "eta": 0.5}
        )
        toy.train_to(config.model_copy(update={"alignment": alignment}), tmp_path / str(decay), 40)
        with open(tmp_path / str(decay) / "train.csv") as file:
            clipped[decay] = [float(row["clip_fraction"]) for row in csv.DictReader(file)]
    assert set(clipped[0.0]) == {0.0}
    assert min(clipped[0.9][1:]) > 0.1  # at first rewards have seen too few rollouts


def test_two_trainings_of_one_run_are_refused(toy: Toy, tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path / "state" / "lock", "a training"),
        pytest.raises(UserError, match=r"already running \(host .*, pid \d+"),
    ):
        toy.train_to(toy.config("none"), tmp_path, 5)


def test_non_finite_steps_change_nothing_and_end_with_a_message(toy: Toy, tmp_path: Path) -> None:
    """One sample of NaN is stepped over; nothing but NaN stops the training, state saved."""
    config = toy.config(
        "none", learning_rate=1e30
    )  # weights overflow, and with them every loss after
    with pytest.raises(UserError, match=r"not finite \(samples of the last: \d+"):
        toy.train_to(config, tmp_path / "run", 1000, max_skipped=5)
    assert list((tmp_path / "run" / "state").glob("*/*.pt"))
    assert not milestone_file(tmp_path / "run", 1000).exists()


def test_bad_inputs_are_named(toy: Toy, tmp_path: Path) -> None:
    config = toy.config("vrpo")
    inputs = {
        **toy.inputs(config),
        "milestone": 5,
        "output": milestone_file(tmp_path, 5),
        "device": "cpu",
    }
    with pytest.raises(UserError, match="--features: the features of encoder `toy` are missing"):
        train(config, **{**inputs, "features": {}})
    with pytest.raises(UserError, match="--critic: run sit-vrpo needs a latent critic"):
        train(config, **{**inputs, "critics": {}})
    for made_from in ("latents", "features"):
        other = tmp_path / f"other-{made_from}.safetensors"
        state, description = read_network(toy.critic)
        save_network(other, state, {**description, made_from: "of another data set"})
        with pytest.raises(
            UserError,
            match=(
                f"other-{made_from}.safetensors: distilled from other {made_from} than "
                f".* delete it and distil again"
            ),
        ):
            train(config, **{**inputs, "critics": {"toy": other}})
    with pytest.raises(
        UserError, match=r"training.batch_size: groups of 4 rollouts do not divide the 6 samples"
    ):
        train(toy.config("vrpo", batch_size=6), **inputs)
    coarse = config.model_copy(update={"model": config.model.model_copy(update={"patch_size": 4})})
    with pytest.raises(
        UserError,
        match=r"encoders\.toy: gives 4 tokens an image, but toy on latents of 4x4 has 1x1",
    ):
        train(coarse, **inputs)


def test_a_constant_reward_is_told_once_and_changes_nothing(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A critic that gives the same tokens for every latent.

    The reward's advantage is zero, and nothing is NaN.
    """
    state, description = read_network(toy.critic)
    constant = tmp_path / "constant.safetensors"
    save_network(
        constant, {name: torch.zeros_like(weights) for name, weights in state.items()}, description
    )
    toy.train_to(toy.config("vrpo"), tmp_path / "run", 15, critics={"toy": constant})
    assert [
        record.getMessage().split()[2]
        for record in caplog.records
        if "constant at every noise level" in record.getMessage()
    ] == ["rewards.perceptual"]
    assert np.isfinite(losses(tmp_path / "run")).all()


def test_runs_that_differ_in_alignment_start_equal(toy: Toy, tmp_path: Path) -> None:
    """Paired: one seed gives one initial network, order of samples, noise and dropout."""
    for alignment in ("none", "repa"):
        toy.train_to(
            toy.config(alignment, learning_rate=1e-12, ema_decay=0.0), tmp_path / alignment, 1
        )
    none, repa = (read_network(milestone_file(tmp_path / name, 1))[0] for name in ("none", "repa"))
    for name, weights in none.items():
        torch.testing.assert_close(repa[name], weights, rtol=0, atol=1e-9)


def test_speed_is_kept_apart_from_what_is_reproducible(toy: Toy, tmp_path: Path) -> None:
    toy.train_to(toy.config("vrpo"), tmp_path, 10)
    with open(tmp_path / "speed.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["5", "10"]
    header = (tmp_path / "train.csv").read_text().splitlines()[0].split(",")
    assert {
        "step",
        "loss",
        "denoising",
        "grad_norm",
        "alignment",
        "reward_fidelity",
        "skipped",
    } <= set(header)
    assert "seconds" not in json.dumps(header)


def test_what_it_was_computed_on_is_told(toy: Toy, tmp_path: Path) -> None:
    toy.train_to(toy.config("repa"), tmp_path, 5)
    backend = json.loads((tmp_path / "backend.json").read_text())
    assert backend == {
        **backend,
        "device": processor(),
        "ranks": 1,
        "threads": 1,
        "torch": torch.__version__,
        "precision": "fp32",
        "tf32": None,
    }
