"""Tables of the method benchmark: `search`, `compared`, `ablations`, `wall_time`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vrpo.benchmark.numbers import Benchmark, searched_columns
from vrpo.benchmark.verdict import score_name
from vrpo.report.compare import interval_note
from vrpo.report.formatting import Table, cell, count_text, factors, intervals, space_text


def search_table(benchmark: Benchmark) -> Table:
    """The candidates' validation scores by process and seed; bold: the rule takes it."""
    options, data = benchmark.options, benchmark.searched
    names = [f"`{name}`" for name in data["candidate"]]
    shown = pd.DataFrame({"method": data["candidate"].map(benchmark.names), "candidate": names})
    for column, (process, seed) in searched_columns(options).items():
        shown[f"{process}, seed {seed}"] = [cell(value, None, 3, False) for value in data[column]]
    means = zip(data["mean"], data["rule"], strict=True)
    shown["mean"] = [cell(mean, None, 3, taken) for mean, taken in means]
    shown["rule"] = data["rule"].map({True: "takes it", False: ""})
    shown["config"] = data["chosen"].map({True: "names it", False: ""})
    score, step = score_name(options.validation), count_text(data["step"].max())
    note = f"{score} after {step} steps; lower is better; means are geometric."
    bold = "Bold: the lowest mean; of those within 1% of it, the first."
    return Table(data, shown, f"{note} {bold} {space_text(benchmark.report)}")


def compared_table(benchmark: Benchmark) -> Table:
    """Both scores of each method, its gain over REPA and, with several milestones, steps saved."""
    options, data = benchmark.options, benchmark.compared
    first = data[data["score"] == options.held_out]
    shown = first[["model", "label"]].set_axis(["model", "method"], axis=1).reset_index(drop=True)
    shown["alignment"] = [f"`{name}`" for name in first["alignment"]]
    for score in benchmark.scores:
        rows, name = data[data["score"] == score], score_name(score)
        best = rows["mean"].eq(rows.groupby("process")["mean"].transform("min"))
        values = zip(rows["mean"], rows["std"], best, strict=True)
        shown[name] = [cell(mean, std, 2, bold) for mean, std, bold in values]
        shown[f"{name} gained on REPA"] = intervals(rows, "gain")
    note = (
        f"Scores after {count_text(data['step'].max())} steps, mean ± standard deviation over "
        f"seeds; differences are taken seed by seed. {interval_note(data['seeds'].max())}"
    )
    if first["speedup"].notna().any():
        shown["steps saved"] = factors(first, "speedup")
        counts = zip(first["reached"], first["seeds"], strict=True)
        texts = (f"{reached:.0f} of {seeds}" for reached, seeds in counts)
        shown["REPA's reached"] = np.where(first["reached"].isna(), "", list(texts))
        note += (
            f" Steps saved: REPA's steps over those needed for its last "
            f"{score_name(options.held_out)}, logarithms interpolated between milestones; "
            "below 1 where REPA is faster. REPA's reached: in how many seeds."
        )
    return Table(data, shown, f"{note} {space_text(benchmark.report)}")


def ablations_table(benchmark: Benchmark) -> Table:
    """Change of both scores by each ablation of the chosen VRPO; positive is worse."""
    options, data = benchmark.options, benchmark.ablated
    first = data[data["score"] == options.held_out]
    shown = first[["model"]].reset_index(drop=True)
    shown["ablation"] = [f"`{name}`" for name in first["alignment"]]
    for score in benchmark.scores:
        rows, name = data[data["score"] == score], score_name(score)
        shown[name] = [cell(value, None, 2, False) for value in rows["mean"]]
        shown[f"change of {name}"] = intervals(rows, "change")
    against = f"Change against `{options.vrpo}`, seed by seed: positive is worse."
    note = against, interval_note(data["seeds"].max()), space_text(benchmark.report)
    return Table(data, shown, " ".join(note))


def wall_time_table(benchmark: Benchmark) -> Table:
    """Cost of a step and speed-up in time."""
    data = benchmark.wall_time
    shown = data[["model", "label"]].set_axis(["model", "method"], axis=1)
    shown["images/s"] = [cell(value, None, 0, False) for value in data["images_per_second"]]
    shown["cost of a step"] = [f"{value:.2f}x" for value in data["cost"]]
    shown["time saved"] = factors(data, "speedup")
    note = (
        "By the clock of the trainings, other jobs beside them: no second run gives these numbers "
        "again. Cost: time of a step over REPA's. Time saved: steps saved over cost; its interval "
        "is that of the steps."
    )
    return Table(data, shown, note)
