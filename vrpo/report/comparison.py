"""The table `comparison`: scores at the last milestone, with published ones beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vrpo.config.alignments import ALIGNMENT_NAMES
from vrpo.config.published import REPORTED, read_published
from vrpo.config.report import ReportOptions
from vrpo.report.formatting import Table, cell, count_text, space_text
from vrpo.report.results import last_milestone, read_metrics

SCORES = {  # name, digits, sign of better
    "fid": ("FID", 2, -1),
    "sfid": ("sFID", 2, -1),
    "is": ("IS", 1, 1),
    "precision": ("precision", 3, 1),
    "recall": ("recall", 3, 1),
}
OURS = "this pipeline"
FIRST = ["model", "alignment", "FID", "source", "steps", "epochs", "guidance"]  # with published
LAST = ["sampler", "seeds"]
MARKS = (
    "Numbered sources are published. Published: by the method's authors; quoted: their number, as "
    "another text gives it; by others: another paper's, measured again or without its origin."
)


def comparison(options: ReportOptions, collected: Path) -> Table:
    """All scores at each run's last milestone, mean and standard deviation over seeds.

    Published numbers of the same models and methods follow ours where they are comparable.
    """
    metrics = read_metrics(collected)
    data = _ours(metrics)
    if options.published:
        published = _published(options.published, data)
        data = _ordered(pd.concat([data, published], ignore_index=True), data)
    shown = data[["model", "label", "step", "sampler"]]
    shown = shown.set_axis(["model", "alignment", "steps", "sampler"], axis=1)
    shown["steps"] = data["step"].map(count_text)
    best = _best(data)
    for name in best:
        title, digits, _ = SCORES[name]
        rows = zip(data[name], data[f"{name}_std"], best[name], strict=True)
        shown[title] = [cell(mean, std, digits, bold) for mean, std, bold in rows]
    shown["seeds"] = data["seeds"].map(count_text)
    sources: list[str] = []
    if options.published:
        shown["source"], sources = _cited(data)
        shown["epochs"] = data["epochs"].map(count_text)
        shown["guidance"] = data["guidance"].map(_guidance_text)
        more = [title for title in shown if title not in FIRST and title not in LAST]
        shown = shown[[*FIRST, *more, *LAST]]
    several = "Mean ± standard deviation over seeds. " if data["seeds"].max() > 1 else ""
    bold = "Bold: best of its model and sampler."
    marks = f" {MARKS}" if sources else ""
    return Table(data, shown, f"{space_text(options)} {several}{bold}{marks}", tuple(sources))


def _ours(metrics: pd.DataFrame) -> pd.DataFrame:
    scores = [name for name in SCORES if name in metrics and metrics[name].notna().any()]
    by = ["model", "label", "run", "kind", "step", "sampler", "guidance"]
    final = last_milestone(metrics).assign(guidance=lambda frame: frame.get("guidance", np.nan))
    grouped = final.groupby(by, sort=False, dropna=False)
    data = grouped.size().rename("seeds").reset_index()
    data["guidance"] = data["guidance"].map(_as_number)  # beside names, scales are read as text
    for name in scores:
        data[name] = grouped[name].mean().to_numpy()
        data[f"{name}_std"] = grouped[name].std(ddof=1).to_numpy()
    return data.assign(source=OURS)


def _published(path: str, ours: pd.DataFrame) -> pd.DataFrame:
    """Published rows of our models, and those of our methods on other models; none is no method."""
    rows = pd.DataFrame(read_published(path))
    rows = rows.rename(columns={"method": "label", "iterations": "step", "cfg": "guidance"})
    methods = set(_methods(ours)) - {ALIGNMENT_NAMES["none"]}
    rows = rows[rows["model"].isin(ours["model"]) | rows["label"].isin(methods)]
    stds = {f"{name}_std": np.nan for name in SCORES if name in ours}
    return rows.assign(sampler="", **stds)


def _methods(ours: pd.DataFrame) -> dict[str, int]:
    """Place of each label and of its kind's name, in the order of the runs."""
    kinds = ours["kind"].replace(ALIGNMENT_NAMES)
    names = [name for pair in zip(ours["label"], kinds, strict=True) for name in pair]
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _ordered(data: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """By model, method, guidance and steps, our models and methods first, ours before published."""
    models = {model: place for place, model in enumerate(dict.fromkeys(ours["model"]))}
    methods = _methods(ours)
    for name in data["model"]:
        models.setdefault(name, len(models))
    for name in data["label"]:
        methods.setdefault(name, len(methods))
    keys = pd.DataFrame(
        {
            "model": data["model"].map(models),
            "method": data["label"].map(methods),
            "guided": data["guidance"].map(_guidance_text).ne("none"),
            "published": data["source"].ne(OURS),
            "step": data["step"],
        }
    )
    order = keys.sort_values(list(keys), kind="stable").index
    return data.loc[order].reset_index(drop=True)


def _best(data: pd.DataFrame) -> pd.DataFrame:
    """Whether ours is the best of its model and sampler, a column for each score."""
    groups = [data["model"], data["sampler"]]
    found = {}
    for name, (_, _, better) in SCORES.items():
        if f"{name}_std" in data:
            values = better * data[name].where(data["source"].eq(OURS))
            rivals = values.groupby(groups)
            found[name] = values.eq(rivals.transform("max")) & values.ne(rivals.transform("min"))
    return pd.DataFrame(found)


def _as_number(value: float | str) -> float | str:
    """A scale, or the name of another guidance."""
    try:
        return float(value)
    except ValueError:
        return value


def _guidance_text(value: float | str) -> str:
    """`none`, a scale, or a published setting as its source gives it."""
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else "none" if value == 1 else f"{value:g}"


def _cited(data: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Each row's mark and number of its source, and the numbered sources with their notes."""
    cells, sources = [], []
    for row in data.to_dict("records"):
        if row["source"] == OURS:
            cells.append(OURS)
            continue
        source = "; ".join(filter(None, [row["source"], row["note"]]))
        if source not in sources:
            sources.append(source)
        cells.append(f"{REPORTED[row['reported']]} [{sources.index(source) + 1}]")
    return cells, sources
