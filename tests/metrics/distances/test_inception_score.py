"""Inception score against a plain loop.

Counts that are no multiple of a chunk; class-sorted samples.
"""

import math

import pytest
import torch

from vrpo.metrics.confidence import inception_score_interval
from vrpo.metrics.distances.inception_score import inception_score, permuted


@pytest.fixture(scope="module")
def logits():
    """Confident predictions of 10 classes, sorted by class."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(1000) // 100
    return torch.randn(1000, 10, generator=generator) + 6 * torch.nn.functional.one_hot(classes, 10)


def loop(logits, size):
    """ADM's definition, one image at a time."""
    scores = []
    for start in range(0, len(logits), size):
        rows = [
            [math.exp(v) for v in row] for row in logits[start : start + size].double().tolist()
        ]
        p = [[v / sum(row) for v in row] for row in rows]
        mean = [sum(column) / len(p) for column in zip(*p, strict=True)]
        divergence = [
            sum(v * (math.log(v) - math.log(m)) for v, m in zip(row, mean, strict=True))
            for row in p
        ]
        scores.append(math.exp(sum(divergence) / len(divergence)))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("size", [100, 250, 1000])
def test_equals_loop(logits, size):
    score = inception_score(logits, size, permutation_seed=None)
    assert score.value == pytest.approx(loop(logits, size), rel=1e-12)
    assert score.splits == 1000 // size
    assert not score.warnings
    shuffled = inception_score(logits, size, permutation_seed=3)
    assert shuffled.value == pytest.approx(loop(permuted(logits, 3), size), rel=1e-12)
    assert shuffled.permutation_seed == 3


def test_sorted_samples_do_no_harm(logits):
    sorted_score = inception_score(logits, 100, permutation_seed=None).value
    first, second = (inception_score(order, 100).value for order in (logits, permuted(logits, 99)))
    assert sorted_score < 1.5  # what a class-sorted file would have got
    assert first == pytest.approx(inception_score(logits, 1000).value, rel=0.1)
    assert first == pytest.approx(second, rel=0.02)


def test_not_a_multiple_is_said(logits):
    score = inception_score(logits, 300)
    assert (score.splits, score.used) == (3, 900)
    assert score.value == pytest.approx(loop(permuted(logits, 0)[:900], 300), rel=1e-12)
    assert "100 of them" in score.warnings[0]


def test_fewer_than_a_chunk_is_said(logits):
    score = inception_score(logits, 5000)
    assert (score.splits, score.split_size, score.used, score.std) == (1, 1000, 1000, None)
    assert "fewer than one chunk" in score.warnings[0]


def test_bounds():
    assert inception_score(torch.zeros(50, 10), 50).value == pytest.approx(1.0, abs=1e-12)
    certain = 1e4 * torch.nn.functional.one_hot(torch.arange(50) % 10, 10).float()
    assert inception_score(certain, 50).value == pytest.approx(10.0, rel=1e-9)


def test_interval_holds_the_spread(logits):
    """The bootstrap's standard error against the spread over fresh halves."""
    order = permuted(logits, 1)
    interval = inception_score_interval(order, 500, inception_score(logits, 500).value)
    assert interval["low"] < interval["value"] < interval["high"]
    generator = torch.Generator().manual_seed(1)
    fresh = []
    for _ in range(100):
        classes = torch.randint(10, (1000,), generator=generator)
        rows = torch.randn(1000, 10, generator=generator) + 6 * torch.nn.functional.one_hot(
            classes, 10
        )
        fresh.append(inception_score(rows, 500, None).value)
    assert interval["standard_error"] == pytest.approx(torch.tensor(fresh).std().item(), rel=0.35)
