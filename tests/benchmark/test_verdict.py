"""Gains, speed and the verdict in words."""

import pytest

from vrpo.benchmark.verdict import against_repa, faster, verdict

from tests.fixtures.benchmark import (
    METRICS,
    OPTIONS,
    benchmark_of,
)


def test_the_second_score_is_called_after_the_search_only_where_there_was_one() -> None:
    unsearched = OPTIONS.model_copy(update={"candidates": None})
    for options, words in (
        (OPTIONS, "in the score that the search looked at, VRPO"),
        (unsearched, "in the second feature space, VRPO"),
    ):
        sentences = verdict(benchmark_of(options, METRICS))
        assert any(words in sentence for sentence in sentences)


ROW = {
    "label": "VRPO",
    "score": "fid",
    "seeds": 5,
    "gain": 0.3,
    "gain_low": 0.1,
    "gain_high": 0.5,
    "at_least": False,
    "reached": 5,
}


FAST = {"speedup": 1.2, "speedup_low": 1.1, "speedup_high": 1.3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "VRPO beats REPA by 0.30 FID [0.10, 0.50] over 5 seeds."),
        (
            {"gain": -0.3, "gain_low": -0.5, "gain_high": -0.1},
            "VRPO is worse than REPA by 0.30 FID [0.10, 0.50] over 5 seeds.",
        ),
        (
            {"gain_low": -0.1, "score": "fd_validation"},
            "VRPO against REPA is undecided: +0.30 FD-validation [-0.10, +0.50] over 5 seeds.",
        ),
    ],
)
def test_gain_in_words(change: dict[str, object], words: str) -> None:
    assert against_repa({**ROW, **change}) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            [
                "in 1.20x [1.10, 1.30] fewer steps",
                "2.3x, which is about ImageNet-256, is not reached here",
            ],
        ),
        ({"speedup_high": 2.5}, ["is within the interval"]),
        ({"speedup_low": 2.4, "speedup_high": 2.6}, ["is exceeded here"]),
        (
            {"speedup_low": 0.9, "reached": 3.0},
            [
                "is undecided: 1.20x [0.90, 1.30]",
                "does not reach REPA's last score in 2 of 5 seeds",
            ],
        ),
        ({"speedup": 0.8, "speedup_low": 0.7, "speedup_high": 0.9}, ["needs more steps than REPA"]),
        (
            {"at_least": True},
            [
                "in at least 1.20x",
                "2.3x, which is about ImageNet-256, cannot be judged by milestones this far apart",
            ],
        ),
        ({"at_least": True, "speedup_low": 2.4, "speedup_high": 2.6}, ["is exceeded here"]),
    ],
)
def test_speed_in_words(change: dict[str, object], words: list[str]) -> None:
    text = faster({**ROW, **FAST, **change})
    assert [word for word in words if word not in text] == [], text


def test_verdict_names_every_part() -> None:
    text = " ".join(verdict(benchmark_of(OPTIONS, METRICS)))
    for words in (
        "On SiT-mini/2, VRPO beats REPA by 2.00 FID",
        "On DiT-mini/2",
        "1.00 FD-validation",
        "none is worse than REPA by 4.00 FID",
    ):
        assert words in text
    assert "worse: `vrpo-worse` +3.00 [+3.00, +3.00]; undecided: `vrpo-alike`" in text
