"""CMMD against a plain loop."""

import math

import pytest
import torch

from vrpo.metrics.distances import cmmd as module
from vrpo.metrics.distances.cmmd import cmmd


def test_plain_loop(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)  # several blocks, the last one shorter
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(9, 6, generator=generator)
    y = 5 * torch.randn(7, 6, generator=generator) + 1

    def mean_kernel(a, b):
        total = 0.0
        for first in a.double().tolist():
            for second in b.double().tolist():
                square = sum((p - q) ** 2 for p, q in zip(first, second, strict=True))
                total += math.exp(-square / (2 * 10.0**2))
        return total / (len(a) * len(b))

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-10)


def test_two_points():
    """One embedding each: 2 (1 - exp(-d^2 / 200)) thousandths."""
    assert cmmd(torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 1]])) == pytest.approx(
        2000 * (1 - math.exp(-2 / 200)), rel=1e-12
    )
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    assert cmmd(rows, rows) == pytest.approx(0, abs=1e-9)
