"""Mean and deviation of the semantic reward by noise level, for guidance that standardises it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from vrpo.alignment.moments import Moments, moments_beside, read_moments, write_moments
from vrpo.alignment.rewards import NoiseLevelStatistics
from vrpo.config.alignments.base import NOISE_BINS
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.models.checkpoints import load_milestone
from vrpo.models.normalisation import check_normalisation, recorded_normalisation
from vrpo.models.online import open_features
from vrpo.processes.registry import described_process
from vrpo.sampling.network import SamplingNetwork
from vrpo.sampling.noised import noised_images
from vrpo.sampling.reward import SemanticReward, load_projectors
from vrpo.seeds import numpy_generator, torch_generator

log = logging.getLogger(__name__)
REWARD = "semantic"
IMAGES = 2_000  # at most; each is seen at every noise level
BATCH = 64


@torch.no_grad()
def reward_moments(
    milestone: Path,
    latents: Path,
    features: Mapping[str, Path],
    output: Path,
    device: torch.device | str,
) -> None:
    """Write the moments of a milestone's semantic reward.

    VRPO's training leaves its running moments beside the milestone, and these are taken. For other
    alignments they are measured: 2,000 training images at most, drawn with seed 0, at the centre
    of each noise level's bin, with their class and the averaged network.

    Args:
        milestone: averaged weights of a run.
        latents: of the training images.
        features: of each encoder of the alignment.
        output: file to write.
        device: where to compute.

    Raises:
        UserError: the milestone has no projector, files are missing or damaged, or latents or
            features do not fit the milestone.
    """
    network, description = load_milestone(milestone, device)
    owner = description.get("config_sha256")
    alignment = load_projectors(milestone, device)
    left = moments_beside(milestone)
    if left.is_file():
        found = read_moments(left, REWARD, owner)
        write_moments(output, {REWARD: found}, "training", owner)
        return
    process = described_process(description).to(device)
    missing = [name for name in alignment.options.encoders if name not in features]
    if missing:
        raise UserError(
            f"--features: {milestone} is aligned with encoder `{missing[0]}`; "
            f"give {missing[0]}=FILE"
        )
    opened = {name: open_features(features[name], device) for name in alignment.options.encoders}
    data = TrainingData(latents, opened)
    if data.latent_shape != tuple(description["latent_shape"]):
        raise UserError(
            f"{latents}: latents of shape {list(data.latent_shape)}, the milestone was trained on "
            f"{description['latent_shape']}; give those"
        )
    for name, wanted in alignment.context.tokens.items():
        if data.feature_shapes[name] != wanted:
            raise UserError(
                f"--features {name}: tokens [N,D] of {list(data.feature_shapes[name])}, "
                f"{milestone} needs {list(wanted)}; give those that it was trained with"
            )
    normalisation = recorded_normalisation(data.latents.attributes)
    if normalisation is not None:
        check_normalisation(description, normalisation, milestone, str(latents))
    called = SamplingNetwork(network)
    statistics = NoiseLevelStatistics(1, decay=0.0).to(device)
    chosen = np.sort(numpy_generator("reward-moments").permutation(data.count)[:IMAGES])
    for start in range(0, len(chosen), BATCH):
        indices = chosen[start : start + BATCH]
        batch = data.gather(indices)
        tokens = {name: values.to(device) for name, values in batch.tokens.items()}
        reward = SemanticReward(alignment, tokens, None)
        labels = batch.labels.to(device)
        class_token = None
        if called.joint is not None:
            class_token = data.class_tokens(alignment.options.encoders[0], indices)
        for number in range(NOISE_BINS):
            t = process.at_level((number + 0.5) / NOISE_BINS, len(indices)).to(device)
            draw = functools.partial(_draws, indices, number)
            x_t = noised_images(batch, class_token, process, called.joint, t, draw)
            times = process.network_time(t)
            hidden = called.hidden(x_t, times, labels, reward.depth)
            statistics.observe(reward(hidden)[None], process.noise_level(t))
    statistics.finish_step(lambda summed: summed, torch.ones((), dtype=torch.bool, device=device))
    mean, inverse_std = (values[0].tolist() for values in statistics.by_level())
    write_moments(output, {REWARD: Moments(mean, inverse_std)}, "measured", owner)
    log.info("reward: measured on %d images at %d noise levels", len(chosen), NOISE_BINS)


def _draws(indices: np.ndarray, level: int, shape: tuple[int, ...], *purpose: str) -> torch.Tensor:
    """Draws [B,2,*shape] of images at a noise level."""
    key = "reward-moments", *purpose
    generators = [torch_generator(*key, int(index), level) for index in indices]
    return torch.stack([torch.randn(2, *shape, generator=each) for each in generators])
