"""The table of guidance: scores and evaluations of every sampler at each run's last milestone."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.geometry import latent_side
from vrpo.report.compare import Paired, by_seed, common, interval_note, paired_gain
from vrpo.report.cost import network_flops, sampling_flops
from vrpo.report.formatting import Table, cell, count_text, intervals
from vrpo.report.results import last_milestone, read_metrics

SCORES = {  # name: title, digits, sign of better
    "fid": ("FID", 2, -1),
    "precision": ("precision", 3, 1),
    "recall": ("recall", 3, 1),
}


def guidance_table(config: ExperimentConfig, collected: Path) -> Table:
    """Scores, mean and standard deviation over seeds, of each run and sampler, and gains of FID.

    `gain` is the FID without guidance minus this one, `gain_on_first` that of the model's first run
    with the same sampler minus this one. Evaluations are those of an image, in forward passes of
    the network: its FLOPs with those of the reward, over the FLOPs of one.

    Args:
        config: the experiment.
        collected: folder of its collected results.

    Raises:
        UserError: collected results are missing.
    """
    metrics = last_milestone(read_metrics(collected))
    extra = [name for name in metrics if name.startswith("fd_") and metrics[name].notna().any()]
    scores = {"fid": SCORES["fid"], **{name: (f"FD-{name[3:]}", 2, -1) for name in extra}} | SCORES
    grouped = metrics.groupby(["model", "label", "run", "sampler"], sort=False)
    data = grouped.size().rename("seeds").reset_index()
    samplers = [config.samplers[name] for name in data["sampler"]]
    data["guidance"] = [sampler.guidance.name for sampler in samplers]
    data["steps"] = [sampler.steps for sampler in samplers]
    pairs = zip(data["run"], data["sampler"], strict=True)
    data["evaluations"] = [_evaluations(config, run, name) for run, name in pairs]
    shown = data[["model", "label", "sampler", "guidance"]]
    shown = shown.set_axis(["model", "alignment", "sampler", "guidance"], axis=1)
    shown["steps"] = data["steps"].map(count_text)
    shown["evaluations"] = data["evaluations"].map("{:.0f}".format)
    for name, (title, digits, better) in scores.items():
        data[name] = grouped[name].mean().to_numpy()
        data[f"{name}_std"] = grouped[name].std(ddof=1).to_numpy()
        best = (better * data[name]).groupby(data["run"]).transform("max").eq(better * data[name])
        rows = zip(data[name], data[f"{name}_std"], best, strict=True)
        shown[title] = [cell(mean, std, digits, bold) for mean, std, bold in rows]
    without = _without_guidance(data, [sampler.kind for sampler in samplers])
    first = data.groupby("model")["run"].transform("first")
    shown["gain by guidance"] = _gains(data, grouped, "gain", data["run"], without)
    if not first.eq(data["run"]).all():
        on_first = _gains(data, grouped, "gain_on_first", first, data["sampler"])
        shown["gain on first alignment"] = on_first
    shown["seeds"] = data["seeds"].map(count_text)
    several = "Mean ± standard deviation over seeds. " if data["seeds"].max() > 1 else ""
    note = (
        f"{several}Bold: best of its run. Evaluations: forward passes of the network that an image "
        "costs, the reward's gradient included. Gains: by how much FID is lower than without "
        "guidance, and than that of the model's first alignment with the same sampler. "
        f"{interval_note(data['seeds'].max())}"
    )
    return Table(data, shown, note)


def _without_guidance(data: pd.DataFrame, kinds: list[str]) -> pd.Series:
    """For each row its run's first sampler of the same kind without guidance; NaN: none."""
    of_kind = data["run"] + " " + pd.Series(kinds, data.index)
    return of_kind.map(data[data["guidance"] == "none"].groupby(of_kind)["sampler"].first())


def _gains(
    data: pd.DataFrame, grouped: DataFrameGroupBy, name: str, run: pd.Series, sampler: pd.Series
) -> list[str]:
    """Add columns: the FID of (`run`, `sampler`) minus each row's, paired by seed; their text."""
    rows = {(key[2], key[3]): by_seed(group, "fid") for key, group in grouped}
    gains = []
    for own, base in zip(
        zip(data["run"], data["sampler"], strict=True), zip(run, sampler, strict=True), strict=True
    ):
        known = base != own and base in rows and not common(rows[own], rows[base])[0].empty
        gain = paired_gain(rows[own], rows[base]) if known else Paired(nan, nan, nan, 0)
        gains.append(gain.columns(name))
    columns = pd.DataFrame(gains)
    data[columns.columns] = columns
    return intervals(data, name)


def _evaluations(config: ExperimentConfig, run: str, sampler: str) -> float:
    side, channels = latent_side(config), config.tokenizer.latent_channels
    one = network_flops(config.model_of(run), config.process_of(run), side, channels)
    return sampling_flops(config, run, config.samplers[sampler]) / one
