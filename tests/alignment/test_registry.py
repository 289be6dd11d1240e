"""Alignments by their kind."""

from __future__ import annotations

from vrpo.alignment.registry import build_alignment
from vrpo.config.alignments import NoAlignment

from tests.fixtures.alignment import (
    context,
    make_batch,
)


def test_none_is_zero_and_has_nothing_to_train() -> None:
    alignment = build_alignment(NoAlignment(kind="none"), context())
    assert alignment(make_batch()).loss.item() == 0
    assert list(alignment.parameters()) == []
