"""Paired comparisons of alignments, and the paper's claims held against them.

All runs of one model share seeds, data order, noise and sampling seeds, so differences are taken seed by seed and the
interval is Student's t interval of the paired differences (of their logarithms, for a ratio).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vrpo.reporting.results import interval, main_sampler, seeds_text
from vrpo.reporting.speedup import speedup

PAIRS = (("repa", "none"), ("vrpo", "none"), ("vrpo", "repa"))
ONE_SEED = "one seed is no verdict"
NOT_RUN = "not run"
ONE_MILESTONE = f"{NOT_RUN}: one milestone tells no speed"
SOURCE = "arXiv:2606.00583, abstract"


@dataclass(frozen=True)
class Claim:
    """A number that the paper claims for VRPO against REPA."""

    name: str
    quantity: str  # `gain` or `speedup`
    value: float
    text: str


CLAIMS = (
    Claim("FID better than REPA's", "gain", 1.8, "up to 1.8"),
    Claim("training faster than REPA's", "speedup", 2.3, "2.3x"),
)


def gains(metrics: pd.DataFrame) -> pd.DataFrame:
    """For each model and pair of alignments: FID gain (base minus run, at the last common milestone) and speed-up, over seeds.

    Columns: model, run, base, label, base_label, kind, base_kind, step, seeds, gain, gain_low, gain_high, speedup, speedup_low,
    speedup_high, at_least (the speed-up is a lower bound in some seed). Intervals of one seed are empty, and so is the speed-up where the two have one
    milestone in common: it is read off between milestones.
    """
    scores = main_sampler(metrics).dropna(subset=["fid"])
    rows = []
    for model, of_model in scores.groupby("model", sort=False):
        for kind, base_kind in PAIRS:
            for run in of_model.loc[of_model["kind"] == kind, "run"].unique():
                for base in of_model.loc[of_model["kind"] == base_kind, "run"].unique():
                    row = _pair(of_model[of_model["run"] == run], of_model[of_model["run"] == base])
                    if row:
                        rows.append({"model": model, "run": run, "base": base, **row})
    columns = ["model", "run", "base", "label", "base_label", "kind", "base_kind", "step", "seeds", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=[*columns, "speedup", "speedup_low", "speedup_high", "at_least"])


def _pair(run: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any] | None:
    ours = run.pivot_table(index="seed", columns="step", values="fid")
    theirs = base.pivot_table(index="seed", columns="step", values="fid")
    seeds, steps = ours.index.intersection(theirs.index), ours.columns.intersection(theirs.columns)
    steps = [step for step in steps if ours.loc[seeds, step].notna().all() and theirs.loc[seeds, step].notna().all()]
    if seeds.empty or not steps:
        return None
    ours, theirs = ours.loc[seeds, steps], theirs.loc[seeds, steps]
    gain = interval((theirs.iloc[:, -1] - ours.iloc[:, -1]).to_numpy())
    ratios = [speedup(steps, ours.loc[seed].to_list(), theirs.loc[seed].to_list()) for seed in seeds] if len(steps) > 1 else []
    faster = np.exp(interval(np.log([ratio for ratio, _ in ratios]))) if ratios else np.full(3, np.nan)
    return {
        "label": run["label"].iloc[0],
        "base_label": base["label"].iloc[0],
        "kind": run["kind"].iloc[0],
        "base_kind": base["kind"].iloc[0],
        "step": steps[-1],
        "seeds": len(seeds),
        **dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True)),
        **dict(zip(("speedup", "speedup_low", "speedup_high"), map(float, faster), strict=True)),
        "at_least": any(bound for _, bound in ratios),
    }


def judge(metrics: pd.DataFrame, comparable: bool) -> pd.DataFrame:
    """A row for each claim and each model in which VRPO and REPA were both run.

    Args:
        metrics: `read_metrics`.
        comparable: whether the scores live in the space that the claims are about; elsewhere no verdict is given.

    Returns:
        Columns: claim, claimed, model, observed, low, high, at_least, seeds, verdict, finding.
    """
    pairs = gains(metrics)
    pairs = pairs[(pairs["kind"] == "vrpo") & (pairs["base_kind"] == "repa")]
    rows = []
    for claim in CLAIMS:
        for pair in pairs.to_dict("records"):
            name = (
                pair["model"] if pair["label"] == "VRPO" and pair["base_label"] == "REPA" else f"{pair['model']}: {pair['label']} against {pair['base_label']}"
            )
            low, high = pair[f"{claim.quantity}_low"], pair[f"{claim.quantity}_high"]
            rows.append(
                {
                    "claim": claim.name,
                    "claimed": claim.text,
                    "model": name,
                    "observed": pair[claim.quantity],
                    "low": low,
                    "high": high,
                    "at_least": claim.quantity == "speedup" and pair["at_least"],
                    "seeds": pair["seeds"],
                    "verdict": ONE_MILESTONE if pd.isna(pair[claim.quantity]) else _verdict(claim, low, high, pair["seeds"], comparable),
                    "finding": NOT_RUN if pd.isna(pair[claim.quantity]) else _finding(low, high, pair["seeds"], 0.0 if claim.quantity == "gain" else 1.0),
                }
            )
        if pairs.empty:
            rows.append({"claim": claim.name, "claimed": claim.text, "model": "", "at_least": False, "seeds": 0, "verdict": NOT_RUN, "finding": NOT_RUN})
    return pd.DataFrame(rows, columns=["claim", "claimed", "model", "observed", "low", "high", "at_least", "seeds", "verdict", "finding"])


def _verdict(claim: Claim, low: float, high: float, seeds: int, comparable: bool) -> str:
    """Reproduced: the interval excludes no improvement and reaches the claimed value."""
    if seeds < 2:
        return ONE_SEED
    if not comparable:
        return f"{NOT_RUN}: the claim is about ImageNet-256"
    neutral = 0.0 if claim.quantity == "gain" else 1.0
    return "reproduced" if low > neutral and high >= claim.value else "not reproduced"


def _finding(low: float, high: float, seeds: int, neutral: float) -> str:
    if seeds < 2:
        return "undecided"
    if low > neutral:
        return "VRPO better"
    return "REPA better" if high < neutral else "undecided"


def headline(metrics: pd.DataFrame, comparable: bool) -> list[str]:
    """Sentences generated from the numbers: the FIDs at the end of training, and what became of the claims."""
    scores = main_sampler(metrics).dropna(subset=["fid"])
    sentences = []
    for model, rows in scores.groupby("model", sort=False):
        last = rows[rows["step"] == rows["step"].max()]
        by_label = last.groupby("label", sort=False)["fid"]
        means = [f"{label} {_number(values.mean())}" for label, values in by_label]
        sentences.append(f"{model}, FID after {last['step'].iloc[0]:,} steps: {', '.join(means)} ({seeds_text(by_label.count())}).")
    judged = judge(metrics, comparable)
    for claim, rows in judged.groupby("claim", sort=False):
        verdicts = ", ".join(dict.fromkeys(rows["verdict"]))
        sentences.append(f"The paper's claim “{rows['claimed'].iloc[0]}: {claim}”: {verdicts}.")
    return sentences


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"
