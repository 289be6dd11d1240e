"""Best of G: the candidate with the highest semantic reward, for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.processes.process import Process, per_sample
from vrpo.sampling.draws import ImageDraws, JointDraws
from vrpo.sampling.network import SamplingNetwork
from vrpo.sampling.reward import SemanticReward

if TYPE_CHECKING:
    from vrpo.config.guidance import BestOfOptions


def best_of(
    guidance: BestOfOptions,
    network: SamplingNetwork,
    process: Process,
    labels: Tensor,
    reward: SemanticReward,
    draws: ImageDraws | JointDraws,
    candidate: Callable[[ImageDraws | JointDraws], Tensor],
) -> Tensor:
    """Latents [B,C,h,w] float32 of the images of `draws`, or their joint states with class tokens.

    A finished latent is given to the network as it is, at the least noise level. The first
    candidate is the image that there is without a choice; of equal ones the first is kept.

    Args:
        guidance: with the number of candidates.
        network: the transformer.
        process: of the network.
        labels: classes [B].
        reward: of the images.
        draws: of the first candidate, whose labels are drawn.
        candidate: samples latents from draws.

    Raises:
        UserError: a reward is not finite.
    """
    best, highest = candidate(draws), None
    for number in range(guidance.candidates):
        latents = candidate(draws.again(number)) if number else best
        if guidance.candidates == 1:
            break
        t = process.at_level(0.0, len(latents)).to(latents.device)
        times = process.network_time(t)
        hidden = network.hidden(latents, times, labels, reward.depth)
        found = reward(hidden)
        if not torch.isfinite(found).all():
            raise UserError(
                f"sampler guidance.candidates: a reward of candidate {number + 1} is not finite; "
                "the training diverged, lower its learning rate"
            )
        if highest is None:
            highest = found
            continue
        better = found > highest
        best = torch.where(per_sample(better), latents, best)
        highest = torch.maximum(found, highest)
    return best
