"""Tables of the report, each from collected results alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
from vrpo.report import claims
from vrpo.report.compare import interval_note
from vrpo.report.formatting import Table, cell, factors, intervals, space_text, steps_text
from vrpo.report.results import last_milestone, main_sampler, read_metrics

SCORES = {  # name, digits, sign of better
    "fid": ("FID", 2, -1),
    "sfid": ("sFID", 2, -1),
    "is": ("IS", 1, 1),
    "precision": ("precision", 3, 1),
    "recall": ("recall", 3, 1),
}
OURS = "this pipeline"


def comparison(options: ReportOptions, collected: Path) -> Table:
    """All scores at each run's last milestone, mean and standard deviation over seeds.

    Published numbers are added where they are comparable.
    """
    metrics = read_metrics(collected)
    scores = [name for name in SCORES if name in metrics and metrics[name].notna().any()]
    by = ["model", "label", "run", "step", "sampler", "guidance"]
    final = last_milestone(metrics).assign(guidance=lambda frame: frame.get("guidance", np.nan))
    grouped = final.groupby(by, sort=False, dropna=False)
    data = grouped.size().rename("seeds").reset_index()
    for name in scores:
        data[name] = grouped[name].mean().to_numpy()
        data[f"{name}_std"] = grouped[name].std(ddof=1).to_numpy()
    data["source"] = OURS
    if options.published:
        models = list(dict.fromkeys(data["model"]))
        data = pd.concat([data, _published(options.published, set(models))], ignore_index=True)
        order = data["model"].map(models.index).sort_values(kind="stable").index
        data = data.loc[order].reset_index(drop=True)
    shown = data[["model", "label", "step", "sampler"]]
    shown = shown.set_axis(["model", "alignment", "steps", "sampler"], axis=1)
    shown["steps"] = shown["steps"].map(steps_text)
    groups = [data["model"], data["sampler"], data["source"]]
    for name in scores:
        title, digits, better = SCORES[name]
        values = better * data[name].where(data["source"].eq(OURS))
        rivals = values.groupby(groups)
        best = values.eq(rivals.transform("max")) & values.ne(rivals.transform("min"))
        rows = zip(data[name], data[f"{name}_std"], best, strict=True)
        shown[title] = [cell(mean, std, digits, bold) for mean, std, bold in rows]
    shown["seeds"] = data["seeds"].map(lambda value: "" if pd.isna(value) else f"{int(value)}")
    if options.published:
        shown["source"] = data["source"]
    several = "Mean ± standard deviation over seeds. " if data["seeds"].max() > 1 else ""
    bold = "Bold: best of its model and sampler."
    return Table(data, shown, f"{space_text(options)} {several}{bold}")


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
        shown[steps_text(step)] = [cell(value, None, 2, value == least) for value, least in pairs]
    note = f"FID at training steps, mean over seeds. {space_text(options)}"
    return Table(data, shown, f"{note} Bold: best of its model.")


def gains(options: ReportOptions, collected: Path) -> Table:
    """Paired differences between alignments: FID gained and training steps saved."""
    data = claims.gains(read_metrics(collected))
    shown = pd.DataFrame(
        {
            "model": data["model"],
            "compared": data["label"] + " against " + data["base_label"],
            "steps": data["step"].map(steps_text),
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


def _published(path: str, models: set[str]) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: the published numbers (report.published) cannot be read ({error}); "
            "give their CSV or set it to null"
        ) from error
    rows = rows[rows["model"].isin(models)]
    rows = rows.rename(columns={"method": "label", "iterations": "step"})
    guidance = rows["cfg"].map({"none": "without guidance", "guided": "with guidance"})
    rows["sampler"] = guidance.fillna("guidance " + rows["cfg"].astype(str))
    scores = [*SCORES, *(f"{name}_std" for name in SCORES)]
    return rows.reindex(columns=["model", "label", "step", "sampler", *scores, "source"])
