"""Gains between the alignments of an experiment, and the paper's claims compared with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from vrpo.report.compare import by_seed, common, paired_gain, paired_speedup
from vrpo.report.results import main_sampler, seeds_text

PAIRS = (("repa", "none"), ("vrpo", "none"), ("vrpo", "repa"))
ONE_SEED = "one seed proves nothing"
NOT_RUN = "not run"
ONE_MILESTONE = f"{NOT_RUN}: one milestone tells no speed"
PAIR_COLUMNS = [
    *("model", "run", "base", "label", "base_label", "kind", "base_kind", "step", "seeds"),
    *("gain", "gain_low", "gain_high", "speedup", "speedup_low", "speedup_high", "at_least"),
]
JUDGED = [
    *("claim", "claimed", "model", "observed", "low", "high", "at_least"),
    *("seeds", "verdict", "finding"),
]


@dataclass(frozen=True)
class Claim:
    """A number that a paper claims for VRPO against REPA on ImageNet at 256x256."""

    quantity: str  # `gain` or `speedup`
    name: str
    value: float
    text: str
    neutral: float  # the value of no difference


SOURCE = "arXiv:2606.00583, abstract"
GAIN = Claim("gain", "FID better than REPA's", 1.8, "up to 1.8", neutral=0.0)
SPEEDUP = Claim("speedup", "training faster than REPA's", 2.3, "2.3x", neutral=1.0)
CLAIMS = (GAIN, SPEEDUP)


def gains(metrics: pd.DataFrame) -> pd.DataFrame:
    """Paired FID gain and speed-up for each model and each pair of alignments (`PAIR_COLUMNS`).

    The gain is the base's FID minus the run's at the last common milestone.
    """
    scores = main_sampler(metrics).dropna(subset=["fid"])
    rows = []
    for _, of_model in scores.groupby("model", sort=False):
        runs = [run for _, run in of_model.groupby("run", sort=False)]
        for kinds in PAIRS:
            ours, bases = ([run for run in runs if run["kind"].iloc[0] == kind] for kind in kinds)
            rows += [_pair(run, base) for run in ours for base in bases]
    return pd.DataFrame(filter(None, rows), columns=PAIR_COLUMNS)


def _pair(run: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any] | None:
    ours, theirs = common(by_seed(run, "fid"), by_seed(base, "fid"))
    if ours.empty:
        return None
    gain, faster = paired_gain(ours, theirs), paired_speedup(ours, theirs)
    row = run.iloc[0].to_dict() | {"step": ours.columns[-1], "seeds": gain.seeds}
    names = {"base": "run", "base_label": "label", "base_kind": "kind"}
    row |= {name: base[column].iloc[0] for name, column in names.items()}
    row |= gain.columns("gain") | faster.columns("speedup") | {"at_least": faster.at_least}
    return {name: row[name] for name in PAIR_COLUMNS}


def judge(metrics: pd.DataFrame, comparable: bool) -> pd.DataFrame:
    """A row for each claim and each model that has both VRPO and REPA (`JUDGED`).

    Args:
        metrics: `read_metrics`.
        comparable: whether the scores are in the space of the claims; if not, there is no verdict.
    """
    pairs = gains(metrics)
    pairs = pairs[(pairs["kind"] == "vrpo") & (pairs["base_kind"] == "repa")].to_dict("records")
    rows = [_judged(claim, pair, comparable) for claim in CLAIMS for pair in pairs]
    if not pairs:
        none = {"model": "", "at_least": False, "seeds": 0, "verdict": NOT_RUN, "finding": NOT_RUN}
        rows = [{"claim": claim.name, "claimed": claim.text, **none} for claim in CLAIMS]
    return pd.DataFrame(rows, columns=JUDGED)


def _judged(claim: Claim, pair: dict[str, Any], comparable: bool) -> dict[str, Any]:
    observed, low, high = (pair[f"{claim.quantity}{end}"] for end in ("", "_low", "_high"))
    labels = pair["label"], pair["base_label"]
    against = "" if labels == ("VRPO", "REPA") else ": {} against {}".format(*labels)
    if pd.isna(observed):
        verdict, finding = ONE_MILESTONE, NOT_RUN
    else:
        verdict = _verdict(claim, low, high, pair["seeds"], comparable)
        better, worse = low > claim.neutral, high < claim.neutral
        ahead = labels[0] if better else labels[1] if worse else ""  # neither for one seed
        finding = f"{ahead} better" if ahead else "undecided"
    return {
        "claim": claim.name,
        "claimed": claim.text,
        "model": pair["model"] + against,
        "observed": observed,
        "low": low,
        "high": high,
        "at_least": claim is SPEEDUP and pair["at_least"],
        "seeds": pair["seeds"],
        "verdict": verdict,
        "finding": finding,
    }


def _verdict(claim: Claim, low: float, high: float, seeds: int, comparable: bool) -> str:
    """Reproduced: the interval shows an improvement and reaches the claimed value."""
    if seeds < 2:
        return ONE_SEED
    if not comparable:
        return f"{NOT_RUN}: the claim is about ImageNet-256"
    return "reproduced" if low > claim.neutral and high >= claim.value else "not reproduced"


def headline(metrics: pd.DataFrame, comparable: bool) -> list[str]:
    """Sentences about the FIDs at the end of training and the verdict on each claim."""
    sentences = []
    for model, rows in main_sampler(metrics).dropna(subset=["fid"]).groupby("model", sort=False):
        last = rows[rows["step"] == rows["step"].max()]
        by_label = last.groupby("label", sort=False)["fid"]
        means = ", ".join(f"{label} {_number(values.mean())}" for label, values in by_label)
        seeds, steps = seeds_text(by_label.count()), last["step"].iloc[0]
        sentences.append(f"{model}, FID after {steps:,} steps: {means} ({seeds}).")
    judged = judge(metrics, comparable)
    for claim in CLAIMS:
        verdicts = ", ".join(dict.fromkeys(judged.loc[judged["claim"] == claim.name, "verdict"]))
        sentences.append(f"The paper's claim “{claim.text}: {claim.name}”: {verdicts}.")
    return sentences


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"
