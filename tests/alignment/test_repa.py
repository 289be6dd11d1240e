"""REPA against the published loop, in half precision and with several encoders."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from vrpo.alignment.registry import build_alignment
from vrpo.config.alignments import REPAOptions

from tests.fixtures.alignment import (
    B,
    context,
    make_batch,
    make_repa,
)


def test_repa_equals_the_published_loop() -> None:
    """Per-sample loop with a mean over tokens, as in REPA's loss.py."""
    repa, batch = make_repa(weight=0.5), make_batch()
    projected = repa.projectors[0](batch.hidden[0])
    expected = (
        sum(
            -(F.normalize(z, dim=-1) * F.normalize(y, dim=-1)).sum(-1).mean()
            for z, y in zip(projected, batch.tokens["a"], strict=True)
        )
        / B
    )
    torch.testing.assert_close(repa(batch).loss, 0.5 * expected, rtol=1e-6, atol=1e-6)


def test_cosines_are_finite_in_half_precision() -> None:
    """Norms of half-precision tokens overflow; ours are taken in fp32."""
    repa, batch = make_repa(), make_batch(dtype=torch.bfloat16)
    batch.hidden[0].data.mul_(1e4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = repa(batch).loss
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_several_encoders_are_averaged() -> None:
    torch.manual_seed(0)
    options = REPAOptions(kind="repa", encoders=["a", "b"], depth=1, weight=1.0, projector_width=16)
    repa = build_alignment(options, context("a", "b"))
    batch = make_batch(encoders=("a", "b"))
    parts = [
        F.cosine_similarity(p(batch.hidden[0]), batch.tokens[n], dim=-1).mean()
        for n, p in zip("ab", repa.projectors, strict=True)
    ]
    torch.testing.assert_close(repa(batch).loss, -(parts[0] + parts[1]) / 2, rtol=1e-5, atol=1e-6)
