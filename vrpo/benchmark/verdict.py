"""The method benchmark's verdict: sentences generated from its numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from vrpo.benchmark.numbers import Benchmark
from vrpo.report.claims import SPEEDUP


def verdict(benchmark: Benchmark) -> list[str]:
    """For each process VRPO against REPA in both scores, then the other methods; then ablations."""
    options, compared, sentences = benchmark.options, benchmark.compared, []
    searched = "the score that the search looked at"
    seen = searched if options.candidates else "the second feature space"
    for process in options.processes:
        rows = compared[compared["process"] == process].set_index("alignment", drop=False)
        held_out = rows[rows["score"] == options.held_out]
        ours = held_out.loc[options.vrpo].to_dict()
        steps = "" if pd.isna(ours["speedup"]) else f" {faster(ours)}"
        sentences.append(f"On {ours['model']}, {against_repa(ours)}{steps}")
        second = rows[rows["score"] == options.validation].to_dict("index").get(options.vrpo)
        if second:
            sentences.append(f"On {ours['model']} in {seen}, {against_repa(second)}")
        others = held_out.drop([options.repa, options.vrpo]).to_dict("records")
        if others:
            texts = " ".join(map(against_repa, others))
            sentences.append(f"On {ours['model']}, the others: {texts}")
    return sentences + _of_ablations(benchmark)


def against_repa(row: dict[str, Any]) -> str:
    """`VRPO beats REPA by 0.30 FID [0.10, 0.50] over 5 seeds.`, or is worse, or undecided."""
    name, unit, seeds = row["label"], score_name(row["score"]), f"over {row['seeds']} seeds"
    gain, low, high = row["gain"], row["gain_low"], row["gain_high"]
    if low > 0:
        return f"{name} beats REPA by {gain:.2f} {unit} [{low:.2f}, {high:.2f}] {seeds}."
    if high < 0:
        return f"{name} is worse than REPA by {-gain:.2f} {unit} [{-high:.2f}, {-low:.2f}] {seeds}."
    interval = f"{gain:+.2f} {unit} [{low:+.2f}, {high:+.2f}]"
    return f"{name} against REPA is undecided: {interval} {seeds}."


def faster(row: dict[str, Any]) -> str:
    """Steps saved for REPA's last score, compared with the paper's claim."""
    label, low, high, claimed = row["label"], row["speedup_low"], row["speedup_high"], SPEEDUP.value
    bound = "at least " if row["at_least"] else ""
    times = f"{bound}{row['speedup']:.2f}x [{low:.2f}, {high:.2f}]"
    if low > 1:
        text = f"It reaches REPA's last score in {times} fewer steps."
    elif high < 1:
        text = f"It needs more steps than REPA for the same score: a speed-up of {times}."
    else:
        text = f"Whether {label} needs fewer steps for REPA's last score is undecided: {times}."
    if missed := row["seeds"] - row["reached"]:
        text += f" It does not reach REPA's last score in {missed:.0f} of {row['seeds']} seeds."
    if row["at_least"] and low <= claimed:
        claim = "cannot be judged by milestones this far apart"
    elif high < claimed:
        claim = "is not reached here"
    else:
        claim = "is within the interval" if low <= claimed else "is exceeded here"
    return f"{text} The abstract's {SPEEDUP.text}, which is about ImageNet-256, {claim}."


def score_name(score: str) -> str:
    """`fid` -> FID, `fd_validation` -> FD-validation."""
    return "FID" if score == "fid" else f"FD-{score.removeprefix('fd_')}"


def _of_ablations(benchmark: Benchmark) -> list[str]:
    sentences, held_out, rows = [], benchmark.options.held_out, benchmark.ablated
    chosen = benchmark.labels[benchmark.options.vrpo]
    rows = rows[rows["score"] == held_out]
    for model, group in rows.groupby("model", sort=False):
        worse, better = group["change_low"] > 0, group["change_high"] < 0
        parts = {"worse": worse, "better": better, "undecided": ~(worse | better)}
        texts = [f"{word}: {_names(group[part])}" for word, part in parts.items() if part.any()]
        count = f"each of {len(group)} ablations against {chosen} by {score_name(held_out)}"
        sentences.append(f"On {model}, {count}: {'; '.join(texts)}.")
    return sentences


def _names(rows: pd.DataFrame) -> str:
    form = "`{alignment}` {change:+.2f} [{change_low:+.2f}, {change_high:+.2f}]"
    return ", ".join(form.format(**row) for row in rows.to_dict("records"))
