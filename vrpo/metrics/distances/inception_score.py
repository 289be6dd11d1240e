"""Inception score (arXiv:1606.03498) as in ADM's evaluator.

It is the mean over consecutive chunks of exp(E KL(p(y|x) || p(y))).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vrpo.seeds import torch_generator


@dataclass(frozen=True)
class InceptionScore:
    """The score with what was done to get it."""

    value: float
    std: float | None  # between chunks; None with one chunk
    splits: int
    split_size: int
    used: int  # images in the chunks
    permutation_seed: int | None
    warnings: tuple[str, ...]


def inception_score(
    logits: Tensor, split_size: int = 5_000, permutation_seed: int | None = 0
) -> InceptionScore:
    """Score of `logits` [N, K] (without bias, as ADM's), in float64.

    The images are permuted first: class-sorted samples would leave few classes in a chunk, and a
    score many times too low. `permutation_seed=None` keeps their order. Images beyond the last full
    chunk are left out; fewer images than one chunk form one short chunk. Both give a warning.
    """
    count = len(logits)
    warnings = []
    if permutation_seed is not None:
        logits = permuted(logits, permutation_seed)
    size = min(split_size, count)
    splits = count // size
    if count < split_size:
        warnings.append(
            f"is: {count:,} images are fewer than one chunk of {split_size:,}; "
            "the score is biased low"
        )
    elif count % size:
        warnings.append(
            f"is: {count:,} images are no multiple of {split_size:,}; "
            f"{count % size:,} of them (drawn at random) are left out"
        )
    scores = torch.stack([_chunk_score(logits[i * size : (i + 1) * size]) for i in range(splits)])
    std = float(scores.std(correction=0)) if splits > 1 else None
    return InceptionScore(
        float(scores.mean()), std, splits, size, splits * size, permutation_seed, tuple(warnings)
    )


def permuted(logits: Tensor, seed: int) -> Tensor:
    """The rows of `logits` [N, K] in the random order of `seed`."""
    order = torch.randperm(len(logits), generator=torch_generator("inception-score", seed))
    return logits[order.to(logits.device)]


def _chunk_score(logits: Tensor) -> Tensor:
    """exp of the mean KL divergence between each row's distribution over classes and their mean."""
    log_p = torch.log_softmax(logits.double(), dim=1)  # [n, K]
    p = log_p.exp()
    log_mean = p.mean(0).clamp(min=torch.finfo(torch.float64).tiny).log()  # [K]
    return (p * (log_p - log_mean)).sum(1).mean().exp()
