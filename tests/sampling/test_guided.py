"""Sampling guided by the aligned representation, and best of G, from milestones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vrpo.alignment.moments import Moments, write_moments
from vrpo.config.guidance import AnyGuidance, BestOfOptions
from vrpo.config.networks import TokenizerOptions
from vrpo.config.scoring import SAMPLER_PROCESS, SamplerOptions
from vrpo.data.arrays import Arrays
from vrpo.errors import UserError
from vrpo.models.checkpoints import load_milestone, save_network
from vrpo.models.projector import ConvolutionalProjector, Projector
from vrpo.models.tokenizer import build_vae, vae_arguments
from vrpo.processes.registry import described_process
from vrpo.sampling import generate
from vrpo.sampling.best import best_of
from vrpo.sampling.draws import ImageDraws
from vrpo.sampling.generate import sample_images
from vrpo.sampling.network import SamplingNetwork
from vrpo.sampling.reward import load_projectors, load_rewards

from tests.fixtures import golden
from tests.fixtures.sampling import ENCODER, PROCESSES, TOKENS, write_milestone, write_targets

TOKENIZER = TokenizerOptions(block_channels=[8, 8])
KINDS = ["ode-euler", "ode-heun", "ode-dopri5", "sde", "ddpm", "ddim"]
STEER: dict[str, Any] = {"kind": "representation", "scale": 5.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guided")
    for process in PROCESSES:
        write_milestone(path / f"{process}.safetensors", process, alignment="repa")
        write_milestone(path / f"{process}-none.safetensors", process)
    write_milestone(path / "sit-irepa.safetensors", "sit", alignment="irepa")
    write_targets(path / "classes.safetensors")
    write_targets(path / "image.safetensors", rows=1)
    moments = Moments(mean=[0.1] * 20, inverse_std=[4.0 + level for level in range(20)])
    write_moments(path / "moments.json", {"semantic": moments}, "measured", "abc")
    arguments = vae_arguments(TOKENIZER, 16)
    vae = golden.fill(build_vae(arguments)).state_dict()
    description = {"kind": "tokenizer", "arguments": arguments, "scale": 1.3}
    save_network(path / "tokenizer.safetensors", vae, description)
    return path


@pytest.mark.parametrize(
    ("alignment", "projector"), [("vrpo", Projector), ("imported", ConvolutionalProjector)]
)
def test_a_null_in_a_description_is_an_option_or_unsaid(
    alignment: str, projector: type, tmp_path: Path
) -> None:
    """Null is a value of VRPO's `spatial`; an imported file does not say its weight."""
    path = write_milestone(tmp_path / "a.safetensors", "sit", alignment=alignment)
    (loaded,) = load_projectors(path, "cpu").projectors
    assert isinstance(loaded, projector)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is filled up to its size, which takes most of the time."""
    monkeypatch.setattr(generate, "CPU_BATCH", 4)


def options(kind: str, guidance: dict[str, Any], images: int = 3, **others: Any) -> SamplerOptions:
    wanted = {"kind": kind, "steps": 3, "images": images, "guidance": guidance, "rtol": 0.1}
    return SamplerOptions(**{**wanted, **others})


def run(folder: Path, chosen: SamplerOptions, output: Path, **files: Any) -> Arrays:
    process = "sit" if SAMPLER_PROCESS[chosen.kind] == "interpolant" else "dit"
    given = {"milestone": process, "target": "classes", "moments": "moments.json", **files}
    target = given["target"]
    sample_images(
        chosen,
        folder / f"{given['milestone']}.safetensors",
        TOKENIZER,
        folder / "tokenizer.safetensors",
        output,
        "cpu",
        targets={ENCODER: folder / f"{target}.safetensors"} if target else {},
        moments=folder / given["moments"] if given["moments"] else None,
    )
    return Arrays(output)


@pytest.mark.parametrize("kind", KINDS)
def test_scale_zero_is_no_guidance_to_the_bit_and_others_are_one(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    for free in ({}, {"scale": 1.5, "interval": (0.0, 0.7)}):
        plain = run(folder, options(kind, free), tmp_path / "plain.h5")
        none = {**STEER, "scale": 0, "classifier_free": free}
        zero = run(folder, options(kind, none), tmp_path / "zero.h5", moments=None)
        assert np.array_equal(plain["images"], zero["images"])
        steered = {**STEER, "classifier_free": free}
        guided = run(folder, options(kind, steered), tmp_path / "guided.h5")
        assert np.array_equal(plain["labels"], guided["labels"])
        assert not np.array_equal(plain["images"], guided["images"])


@pytest.mark.parametrize("kind", ["ode-heun", "ddpm"])
@pytest.mark.parametrize("guidance", [STEER, {"kind": "best-of", "candidates": 2}])
def test_images_do_not_depend_on_count_or_batch(
    folder: Path,
    tmp_path: Path,
    kind: str,
    guidance: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch is filled up to its size; 10 images are two batches, 3 of them are the same ones."""
    monkeypatch.setattr(generate, "CPU_BATCH", 8)
    whole = run(folder, options(kind, guidance, 10, batch_size=8), tmp_path / "8.h5")
    run(folder, options(kind, guidance, 10, batch_size=3), tmp_path / "3.h5")
    assert (tmp_path / "8.h5").read_bytes() == (tmp_path / "3.h5").read_bytes()
    part = run(folder, options(kind, guidance, 3), tmp_path / "part.h5")
    assert np.array_equal(part["images"], whole["images"][:3])
    monkeypatch.setattr(generate, "CPU_BATCH", 5)  # kernels of another shape round differently
    other = run(folder, options(kind, guidance, 10), tmp_path / "5.h5")
    difference = np.abs(other["images"].astype(int) - whole["images"].astype(int))
    assert difference.max() <= 1


def test_guidance_raises_the_reward(folder: Path, tmp_path: Path) -> None:
    """At the least noise level, mean over images; iREPA's projector and targets too."""
    for milestone in ("sit", "sit-irepa"):
        means = []
        for scale in (0.0, 20.0):
            chosen = options("ode-euler", {**STEER, "scale": scale}, steps=8)
            _, rewards = latents_and_rewards(folder, chosen, milestone, 16)
            means.append(float(rewards.mean()))
        assert means[1] > means[0] + 0.02


def latents_and_rewards(
    folder: Path, chosen: SamplerOptions, milestone: str, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    path = folder / f"{milestone}.safetensors"
    network, description = load_milestone(path)
    process, called = described_process(description), SamplingNetwork(network)
    files = {ENCODER: folder / "classes.safetensors"}, folder / "moments.json"
    rewards = load_rewards(chosen.guidance, path, *files, torch.device("cpu"))
    draws = ImageDraws(0, range(count), (4, 8, 8), torch.device("cpu"))
    labels = draws.labels("random", 10)
    with torch.no_grad():
        reward = rewards.of(labels)
        latents = generate.sample_latents(chosen, called, process, labels, draws, reward)
        times = process.network_time(process.at_level(0.0, count))
        return latents, reward(called.hidden(latents, times, labels, reward.depth))


def test_the_best_of_several_is_kept() -> None:
    """Against a plain loop, with rewards that are given; equal ones keep the first."""
    rewards = torch.tensor([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 2.0, -1.0], [2.0, 6.0, 2.0, 1.0]])
    made: list[torch.Tensor] = []

    class Network:
        def hidden(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
            return rewards[int(x[0, 0, 0, 0])]

    class Reward:
        depth = 1

        def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden

    def candidate(draws: ImageDraws) -> torch.Tensor:
        made.append(draws.normal())
        return torch.full((4, 1, 1, 1), float(len(made) - 1))

    process = described_process({"process": PROCESSES["dit"]})
    draws = ImageDraws(0, range(4), (1, 2, 2), torch.device("cpu"))
    guidance = BestOfOptions(kind="best-of", candidates=3)
    labels = torch.zeros(4, dtype=torch.int64)
    best = best_of(guidance, Network(), process, labels, Reward(), draws, candidate)
    assert best.flatten().tolist() == [1, 2, 0, 2]
    assert len({tuple(each.flatten().tolist()) for each in made}) == 3, "noise of its own"


def test_more_candidates_have_no_lower_reward_and_one_is_no_choice(
    folder: Path, tmp_path: Path
) -> None:
    found = [
        latents_and_rewards(
            folder, options("ddim", {"kind": "best-of", "candidates": count}), "dit", 8
        )
        for count in (1, 2, 5)
    ]
    assert (found[1][1] >= found[0][1]).all() and (found[2][1] >= found[1][1]).all()
    assert (found[2][1] > found[0][1]).any()
    plain = run(folder, options("ddim", {}), tmp_path / "plain.h5")
    one = run(folder, options("ddim", {"kind": "best-of", "candidates": 1}), tmp_path / "one.h5")
    assert np.array_equal(plain["images"], one["images"])


def test_an_image_is_a_target_for_all(folder: Path, tmp_path: Path) -> None:
    by_image = {**STEER, "target": "any.png"}
    images = [
        run(folder, options("ddim", each), tmp_path / f"{name}.h5", target=name)["images"]
        for name, each in (("classes", STEER), ("image", by_image))
    ]
    assert not np.array_equal(*images)


def test_files_are_in_the_protocol(folder: Path, tmp_path: Path) -> None:
    attributes = run(folder, options("sde", STEER), tmp_path / "a.h5").attributes
    assert attributes["sampler"]["guidance"]["kind"] == "representation"
    assert attributes["guided_by"].keys() == {"targets", "moments"}
    plain = run(folder, options("sde", {}), tmp_path / "b.h5").attributes
    assert "guided_by" not in plain and "kind" not in plain["sampler"]["guidance"]


HUGE = {**STEER, "scale": 1e30, "standardise": False}


@pytest.mark.parametrize(
    ("guidance", "files", "message"),
    [
        (STEER, {"milestone": "sit-none"}, r"sit-none.* has no projector .*alignment `none`"),
        ({"kind": "best-of"}, {"milestone": "sit-none"}, "has no projector"),
        (STEER, {"target": None}, "--target: .* encoder `vit`, and targets are given for none"),
        (STEER, {"target": "other"}, "other.safetensors holds tokens of encoder `clip`; give"),
        (STEER, {"target": "wide"}, r"of \[10, 16, 7\], .* needs \[10, 16, 6\]"),
        (STEER, {"target": "image"}, r"of \[1, 16, 6\], .* needs \[10, 16, 6\]"),
        (STEER, {"target": "tokenizer"}, "holds no targets"),
        (STEER, {"moments": None}, "--moments: missing, and guidance standardises"),
        (STEER, {"moments": "theirs.json"}, "theirs.json: belongs to another training"),
        (STEER, {"moments": "broken.json"}, "broken.json: is missing or damaged"),
        ({**STEER, "channels": 5}, {}, "more than the latent's 4"),
        (HUGE, {}, r"guidance.scale: with 1e\+30, step \d of the sampling \(noise level"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    folder: Path, tmp_path: Path, guidance: dict[str, Any], files: dict[str, Any], message: str
) -> None:
    write_targets(folder / "other.safetensors", encoder="clip")
    write_targets(folder / "wide.safetensors", tokens=(TOKENS[0], 7))
    moments = Moments([0.0] * 20, [1.0] * 20)
    write_moments(folder / "theirs.json", {"semantic": moments}, "measured", "def")
    (folder / "broken.json").write_text('{"kind": "moments of rewards", "rewards": {}}')
    with pytest.raises(UserError, match=message) as raised:
        run(folder, options("ode-heun", guidance), tmp_path / "a.h5", **files)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "a.h5").exists()


def test_kinds_of_guidance_are_told_apart() -> None:
    kinds: list[type[AnyGuidance]] = [
        type(options("sde", each).guidance) for each in ({}, STEER, {"kind": "best-of"})
    ]
    assert len({*kinds}) == 3
