"""The tables `convergence`, `gains` and `claims`, each from collected results alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vrpo.config.report import ReportOptions
from vrpo.report import claims
from vrpo.report.compare import interval_note
from vrpo.report.formatting import Table, cell, count_text, factors, intervals, space_text
from vrpo.report.results import main_sampler, read_metrics


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
    note = f"FID at training steps, mean over seeds. {space_text(options)}"
    return Table(data, shown, f"{note} Bold: best of its model.")


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
