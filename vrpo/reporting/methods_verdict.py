"""What the method benchmark's numbers say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from vrpo.config.methods import MethodsOptions

CLAIMED = 2.3  # times faster than REPA: arXiv:2606.00583, abstract, on ImageNet-256


def verdict(options: MethodsOptions, compared: pd.DataFrame, ablated: pd.DataFrame) -> list[str]:
    """For each process VRPO against REPA in the held-out and in the validation score, then the other methods, then the ablations."""
    sentences = []
    seen = "the score that the search looked at" if options.candidates else "the second feature space"
    for process in options.processes:
        rows = compared[compared["process"] == process]
        held_out = {row["alignment"]: row for row in rows[rows["score"] == options.held_out].to_dict("records")}
        ours = held_out[options.chosen.vrpo]
        steps = "" if pd.isna(ours["speedup"]) else f" {faster(ours)}"
        sentences.append(f"On {ours['model']}, {against_repa(ours)}{steps}")
        for row in rows[(rows["score"] == options.validation) & (rows["alignment"] == options.chosen.vrpo)].to_dict("records"):
            sentences.append(f"On {row['model']} in {seen}, {against_repa(row)}")
        others = [row for name, row in held_out.items() if name not in (options.chosen.repa, options.chosen.vrpo)]
        if others:
            sentences.append(f"On {ours['model']}, the others: {' '.join(against_repa(row) for row in others)}")
    sentences += _of_ablations(options, ablated)
    return sentences


def against_repa(row: dict[str, Any]) -> str:
    """`VRPO beats REPA by 0.30 FID [0.10, 0.50] over 5 seeds.`, or that it is worse, or that it is undecided."""
    unit, seeds = score_name(row["score"]), f"over {row['seeds']} seeds"
    gain, low, high = row["gain"], row["gain_low"], row["gain_high"]
    if low > 0:
        return f"{row['label']} beats REPA by {gain:.2f} {unit} [{low:.2f}, {high:.2f}] {seeds}."
    if high < 0:
        return f"{row['label']} is worse than REPA by {-gain:.2f} {unit} [{-high:.2f}, {-low:.2f}] {seeds}."
    return f"{row['label']} against REPA is undecided: {gain:+.2f} {unit} [{low:+.2f}, {high:+.2f}] {seeds}."


def faster(row: dict[str, Any]) -> str:
    """In how many steps REPA's last score is reached, and what that says of the abstract's 2.3x."""
    label, low, high = row["label"], row["speedup_low"], row["speedup_high"]
    bound = "at least " if row["at_least"] else ""
    times = f"{bound}{row['speedup']:.2f}x [{low:.2f}, {high:.2f}]"
    reached = "" if row["reached"] == row["seeds"] else f" It does not reach REPA's last score in {row['seeds'] - row['reached']:.0f} of {row['seeds']} seeds."
    if low > 1:
        text = f"It reaches REPA's last score in {times} fewer steps."
    elif high < 1:
        text = f"It needs more steps than REPA for the same score: a speed-up of {times}."
    else:
        text = f"Whether {label} needs fewer steps for REPA's last score is undecided: {times}."
    if row["at_least"] and low <= CLAIMED:
        claim = "cannot be judged by milestones this far apart"
    else:
        claim = "is not reached here" if high < CLAIMED else "lies within the interval" if low <= CLAIMED else "is exceeded here"
    return f"{text}{reached} The abstract's {CLAIMED}x, which is about ImageNet-256, {claim}."


def score_name(score: str) -> str:
    """`fid` -> FID, `fd_validation` -> FD-validation."""
    return "FID" if score == "fid" else f"FD-{score.removeprefix('fd_')}"


def _of_ablations(options: MethodsOptions, ablated: pd.DataFrame) -> list[str]:
    sentences = []
    rows = ablated[ablated["score"] == options.held_out] if len(ablated) else ablated
    for model, group in rows.groupby("model", sort=False) if len(rows) else ():
        worse, better = group[group["change_low"] > 0], group[group["change_high"] < 0]
        undecided = group.drop([*worse.index, *better.index])
        parts = [f"{what}: {_names(part)}" for what, part in (("worse", worse), ("better", better), ("undecided", undecided)) if len(part)]
        sentences.append(f"On {model}, each of {len(group)} ablations against VRPO by {score_name(options.held_out)}: {'; '.join(parts)}.")
    return sentences


def _names(rows: pd.DataFrame) -> str:
    texts: Sequence[str] = [
        f"`{row['alignment']}` {row['change']:+.2f} [{row['change_low']:+.2f}, {row['change_high']:+.2f}]" for row in rows.to_dict("records")
    ]
    return ", ".join(texts)
