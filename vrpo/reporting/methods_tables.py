"""Tables of the method benchmark: `search`, `methods`, `ablations`, `wall_time`."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from vrpo.config.alignments import ALIGNMENT_NAMES
from vrpo.config.methods import MethodsOptions
from vrpo.config.options import ReportOptions
from vrpo.reporting.bootstrap import RESAMPLES
from vrpo.reporting.formatting import Table, cell, interval_text, space_text, steps_text, times_text
from vrpo.reporting.methods import searched_columns
from vrpo.reporting.methods_verdict import score_name

INTERVALS = f"In brackets 95% intervals over seeds: expanded percentile bootstrap of the paired differences, {RESAMPLES:,} resamples."


def search_table(options: MethodsOptions, report: ReportOptions, data: pd.DataFrame) -> Table:
    """The candidates with their validation score for each process and seed; bold: what the rule takes."""
    shown = pd.DataFrame({"method": data["method"].map(ALIGNMENT_NAMES), "candidate": [f"`{name}`" for name in data["candidate"]]})
    for column, (process, seed) in searched_columns(options).items():
        shown[f"{process}, seed {seed}"] = [cell(value, None, 3, False) for value in data[column]]
    shown["mean"] = [cell(value, None, 3, taken) for value, taken in zip(data["mean"], data["rule"], strict=True)]
    shown["rule"] = ["takes it" if taken else "" for taken in data["rule"]]
    shown["config"] = ["names it" if named else "" for named in data["chosen"]]
    note = f"{score_name(options.validation)} after {steps_text(data['step'].max())} steps; lower is better; means are geometric."
    return Table(data, shown, f"{note} Bold: the lowest mean; of those within 1% of it, the one that stands first. {space_text(report)}")


def methods_table(options: MethodsOptions, report: ReportOptions, data: pd.DataFrame) -> Table:
    """Each process and method: both scores, the gain over REPA, and, where milestones can tell, the steps saved."""
    first = data[data["score"] == options.held_out]
    shown = pd.DataFrame({"model": first["model"], "method": first["label"], "alignment": [f"`{name}`" for name in first["alignment"]]})
    for score in filter(None, (options.held_out, options.validation)):
        rows, name = data[data["score"] == score], score_name(score)
        best = rows["mean"].eq(rows.groupby("process")["mean"].transform("min"))
        shown[name] = [cell(*values) for values in zip(rows["mean"], rows["std"], [2] * len(rows), best, strict=True)]
        shown[f"{name} gained on REPA"] = _intervals(rows, "gain")
    note = f"Scores after {steps_text(data['step'].max())} steps, mean ± standard deviation over seeds; differences are taken seed by seed. {INTERVALS}"
    if first["speedup"].isna().all():
        return Table(data, shown, f"{note} {space_text(report)}")
    shown["steps saved"] = _times(first)
    shown["REPA's reached"] = ["" if pd.isna(row["reached"]) else f"{row['reached']:.0f} of {row['seeds']}" for row in first.to_dict("records")]
    saved = (
        f"Steps saved: REPA's steps over those needed for its last {score_name(options.held_out)}, logarithms interpolated between milestones; "
        "below 1 where REPA is faster. REPA's reached: in how many seeds."
    )
    return Table(data, shown, f"{note} {saved} {space_text(report)}")


def ablations_table(options: MethodsOptions, report: ReportOptions, data: pd.DataFrame) -> Table:
    """Each ablation against the chosen VRPO; positive is worse."""
    first = data[data["score"] == options.held_out] if len(data) else data
    shown = pd.DataFrame({"model": first.get("model", []), "ablation": [f"`{name}`" for name in first.get("alignment", [])]})
    for score in filter(None, (options.held_out, options.validation)):
        rows, name = data[data["score"] == score] if len(data) else data, score_name(score)
        shown[name] = [cell(value, None, 2, False) for value in rows.get("mean", [])]
        shown[f"change of {name}"] = _intervals(rows, "change") if len(rows) else []
    note = f"Change against `{options.chosen.vrpo}`, seed by seed: positive is worse. {INTERVALS}"
    return Table(data, shown, f"{note} {space_text(report)}")


def wall_time_table(data: pd.DataFrame) -> Table:
    """Cost of a step and speed-up in time."""
    shown = pd.DataFrame({"model": data["model"], "method": data["label"], "images/s": [cell(value, None, 0, False) for value in data["images_per_second"]]})
    shown["cost of a step"] = [f"{value:.2f}x" for value in data["cost"]]
    shown["time saved"] = [times_text(row["speedup"], row["speedup_low"], row["speedup_high"], False) for row in _rows(data)]
    note = "By the clock of the trainings, other jobs beside them: no second run gives these numbers again. Cost: time of a step over REPA's."
    return Table(data, shown, f"{note} Time saved: steps saved over cost; its interval is that of the steps.")


def _intervals(rows: pd.DataFrame, name: str) -> list[str]:
    return ["" if pd.isna(row[name]) else interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"], "+.2f") for row in _rows(rows)]


def _times(rows: pd.DataFrame) -> list[str]:
    return [times_text(row["speedup"], row["speedup_low"], row["speedup_high"], row["at_least"]) for row in _rows(rows)]


def _rows(frame: pd.DataFrame) -> Iterable[dict]:
    return frame.to_dict("records")
