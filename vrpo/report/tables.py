"""The tables `convergence`, `gains` and `claims`, each from collected results alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
from vrpo.report import claims
from vrpo.report.compare import by_seed, interval_note, steps_to_reach
from vrpo.report.formatting import Table, cell, count_text, factors, intervals, space_text
from vrpo.report.results import main_sampler, read_metrics, read_protocol

EPOCHS_NOTE = (
    "EP_FID@k: epochs until the FID without guidance is at most k (arXiv:2605.18324), logarithms "
    "interpolated between milestones, mean over seeds; > where a seed has not reached it."
)


def convergence(options: ReportOptions, collected: Path) -> Table:
    """FID at every milestone, mean over seeds."""
    by = ["model", "label", "run", "sampler", "step"]
    scores = main_sampler(read_metrics(collected)).groupby(by, sort=False)["fid"]
    data = scores.agg(mean="mean", std="std", seeds="count").reset_index()
    wide = data.pivot_table(index=["model", "label"], columns="step", values="mean", sort=False)
    wide = wide[sorted(wide.columns)]
    of_model = wide.groupby(level="model", sort=False)
    best = of_model.transform("min")
    best = best.where(best.ne(of_model.transform("max")))  # none of one run, or of equal ones
    shown = wide.index.to_frame(index=False).set_axis(["model", "alignment"], axis=1)
    for step in wide.columns:
        pairs = zip(wide[step], best[step], strict=True)
        shown[count_text(step)] = [cell(value, None, 2, value == least) for value, least in pairs]
    note = f"FID at training steps, mean over seeds. {space_text(options)} Bold: best of its model."
    if options.epochs_to_fid:
        epochs = epochs_to_reach(options.epochs_to_fid, collected)
        numbers = [f"EP_FID@{target:g}" for target in options.epochs_to_fid]
        data = data.join(epochs.set_index("run")[numbers], on="run")
        texts = epochs.groupby(["model", "label"], sort=False).first().reindex(wide.index)
        for name in numbers:
            shown[name] = texts[f"{name} text"].fillna("").to_list()
        note += f" {EPOCHS_NOTE}"
    return Table(data, shown, note)


def epochs_to_reach(targets: list[float], collected: Path) -> pd.DataFrame:
    """EP_FID@k of each run, mean over seeds, and its text; a row for each run without guidance.

    Columns `model`, `label`, `run`, and for each target `EP_FID@k` (epochs; NaN: not reached in
    some seed) and `EP_FID@k text`.

    Raises:
        UserError: the results were collected without the number of training images.
    """
    training = read_protocol(collected).get("training")
    if training is None:
        raise UserError(
            f"{collected / 'protocol.json'}: does not tell the number of training images, which "
            "`report.epochs_to_fid` needs; collect the results again"
        )
    scores = main_sampler(read_metrics(collected))
    scales = pd.to_numeric(scores["guidance"], errors="coerce")  # beside names, they are text
    scores = scores[scales.eq(1)].dropna(subset=["fid"])
    rows = []
    for (model, label, run), of_run in scores.groupby(["model", "label", "run"], sort=False):
        row = {"model": model, "label": label, "run": run}
        seeds = by_seed(of_run, "fid").dropna(axis=1)
        epochs = [step * training["batch_size"] / training["images"] for step in seeds.columns]
        for target in targets:
            found = [steps_to_reach(epochs, values, target) for values in seeds.to_numpy().tolist()]
            name, reached = f"EP_FID@{target:g}", [each.step for each in found]
            mean = np.nan if None in reached else float(np.mean(reached))
            sign = "≤ " if any(each.at_most for each in found) else ""
            late = f"> {epochs[-1]:.4g}"
            row |= {name: mean, f"{name} text": late if None in reached else f"{sign}{mean:.4g}"}
        rows.append(row)
    names = [f"EP_FID@{target:g}{end}" for target in targets for end in ("", " text")]
    return pd.DataFrame(rows, columns=["model", "label", "run", *names])


def gains(options: ReportOptions, collected: Path) -> Table:
    """Paired differences between alignments: FID gained and training steps saved."""
    data = claims.gains(read_metrics(collected))
    shown = pd.DataFrame(
        {
            "model": data["model"],
            "compared": data["label"] + " against " + data["base_label"],
            "steps": data["step"].map(count_text),
            "FID gained": intervals(data, "gain"),
        }
    )
    if data.empty:
        none = "No two alignments of a model have a milestone in common."
        return Table(data, shown, f"{none} {space_text(options)}")
    note = f"Differences are taken seed by seed. {interval_note(data['seeds'].max())}"
    if data["speedup"].notna().any():
        shown["faster by"] = factors(data, "speedup")
        note += " Faster: the second's steps over those that the first needs for its FID."
    shown["seeds"] = data["seeds"]
    return Table(data, shown, f"{note} {space_text(options)}")


def claimed(options: ReportOptions, collected: Path) -> Table:
    """The paper's claims: claimed, observed here, verdict."""
    data = claims.judge(read_metrics(collected), comparable=options.published is not None)
    named = data.rename(columns={"low": "observed_low", "high": "observed_high"})
    is_gain = data["claim"] == claims.GAIN.name
    observed = np.where(is_gain, intervals(named, "observed"), factors(named, "observed"))
    shown = data[["claim", "claimed", "model"]].copy()
    shown["observed here"] = np.where(data["observed"].isna(), claims.NOT_RUN, observed)
    shown[["seeds", "verdict", "finding here"]] = data[["seeds", "verdict", "finding"]]
    source = f"Claims: {claims.SOURCE}, on ImageNet-256."
    rule = "Reproduced: the interval shows an improvement and reaches the claim."
    note = source, interval_note(data["seeds"].max()), rule, space_text(options)
    return Table(data, shown, " ".join(filter(None, note)))
