"""Answer to the question of the report, "does VRPO beat REPA?": one sentence and its figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from vrpo.config.alignments import ALIGNMENT_NAMES
from vrpo.report.claims import ONE_SEED, gains
from vrpo.report.compare import interval_note
from vrpo.report.formatting import intervals
from vrpo.report.results import seeds_text

VRPO, REPA = ALIGNMENT_NAMES["vrpo"], ALIGNMENT_NAMES["repa"]
QUESTION = f"Does {VRPO} beat {REPA}?"
YES, NO, UNDECIDED, NOT_KNOWN = "yes", "no", "undecided", "not known"
SAID, DRAWN = 6, 12  # most comparisons that the sentence names, and that the figure has


@dataclass(frozen=True)
class Bar:
    """A row of the figure; `mean`, `low` and `high` are in percent of its width."""

    name: str
    text: str  # gain with its interval
    verdict: str  # YES, NO, UNDECIDED, or of one seed NOT_KNOWN
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Answer:
    """The sentence, and the rows of the figure; `zero` is the place of no difference, in percent.

    Without rows there is no comparison, or more than a figure can show.
    """

    sentence: str
    bars: tuple[Bar, ...] = ()
    zero: float = 50.0
    note: str = ""

    @property
    def question(self) -> str | None:
        """The question, where the experiment asks it."""
        return QUESTION if self.note else None


def answer(metrics: pd.DataFrame) -> Answer:
    """Paired gains in FID of VRPO on REPA, by model; of its reduced forms if there is no other.

    Args:
        metrics: `read_metrics`.
    """
    pairs = gains(metrics)
    pairs = pairs[(pairs["kind"] == "vrpo") & (pairs["base_kind"] == "repa")]
    if pairs.empty:
        return Answer(f"This experiment has no scores of {VRPO} and {REPA} on one model.")
    named = pairs["label"].eq(VRPO) & pairs["base_label"].eq(REPA)
    pairs = pairs[named] if named.any() else pairs
    places = pairs["model"] + ("" if named.any() else _compared(pairs))
    ends = zip(pairs["gain_low"], pairs["gain_high"], strict=True)
    verdicts = [_verdict(low, high) for low, high in ends]
    pairs = pairs.assign(place=places, text=intervals(pairs, "gain"), verdict=verdicts)
    sentence = _named(pairs) if len(pairs) <= SAID else _counted(pairs)
    bars, zero = _bars(pairs) if len(pairs) <= DRAWN else ((), 50.0)
    note = interval_note(pairs["seeds"].max())
    if pairs["seeds"].max() > 1:
        note = f"{_capital(seeds_text(pairs['seeds']))}. {note}"
    return Answer(sentence, bars, zero, note)


def _compared(pairs: pd.DataFrame) -> pd.Series:
    base = (" against " + pairs["base_label"]).where(pairs["base_label"] != REPA, "")
    return " with " + pairs["label"] + base


def _verdict(low: float, high: float) -> str:
    if pd.isna(low):
        return NOT_KNOWN
    return YES if low > 0 else NO if high < 0 else UNDECIDED


def _named(pairs: pd.DataFrame) -> str:
    """E.g. `Yes on DiT-B/2 by 1.74 FID [1.25, 2.23].`, for each verdict its models."""
    forms = {YES: _by, NO: _worse, UNDECIDED: _undecided, NOT_KNOWN: _better_or_worse}
    starts = {
        YES: "yes on ",
        NO: "no on ",
        UNDECIDED: "undecided on ",
        NOT_KNOWN: f"not known, as {ONE_SEED}: the FID is ",
    }
    parts = []
    for verdict, form in forms.items():
        rows = pairs[pairs["verdict"] == verdict].to_dict("records")
        if rows:
            parts.append(starts[verdict] + _joined([form(row) for row in rows]))
    return f"{_capital('; '.join(parts))}."


def _counted(pairs: pd.DataFrame) -> str:
    counts = pairs["verdict"].value_counts()
    parts = [f"{name} in {counts[name]}" for name in (YES, NO, UNDECIDED) if name in counts]
    if NOT_KNOWN in counts:
        parts.append(f"not known in {counts[NOT_KNOWN]}, as {ONE_SEED}")
    return f"Of {len(pairs)} comparisons: {_joined(parts)}."


def _by(row: dict[str, Any]) -> str:
    return "{place} by {gain:.2f} FID [{gain_low:.2f}, {gain_high:.2f}]".format(**row)


def _worse(row: dict[str, Any]) -> str:
    place, low, high = row["place"], -row["gain_high"], -row["gain_low"]
    return f"{place}, where it is worse by {-row['gain']:.2f} FID [{low:.2f}, {high:.2f}]"


def _undecided(row: dict[str, Any]) -> str:
    return "{place} ({gain:+.2f} FID [{gain_low:+.2f}, {gain_high:+.2f}])".format(**row)


def _better_or_worse(row: dict[str, Any]) -> str:
    word = "better" if row["gain"] >= 0 else "worse"
    return f"{abs(row['gain']):.2f} {word} on {row['place']}"


def _joined(texts: list[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _bars(pairs: pd.DataFrame) -> tuple[tuple[Bar, ...], float]:
    """The rows, and the place of no difference."""
    gain = pairs["gain"]
    lows, highs = pairs["gain_low"].fillna(gain), pairs["gain_high"].fillna(gain)
    first, last = min(0.0, lows.min()), max(0.0, highs.max())
    margin = 0.06 * (last - first) or 1.0
    first, width = first - margin, last - first + 2 * margin

    def percent(value: float) -> float:
        return round(float(100 * (value - first) / width), 2)

    columns = pairs["place"], pairs["text"], pairs["verdict"], gain, lows, highs
    rows = zip(*columns, strict=True)
    return tuple(Bar(*row[:3], *map(percent, row[3:])) for row in rows), percent(0)
