"""The table of guidance: scores and evaluations of every sampler at each run's last milestone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.geometry import latent_side
from vrpo.report.cost import network_flops, sampling_flops
from vrpo.report.formatting import Table, cell, count_text
from vrpo.report.results import last_milestone, read_metrics

SCORES = {  # name: title, digits, sign of better
    "fid": ("FID", 2, -1),
    "precision": ("precision", 3, 1),
    "recall": ("recall", 3, 1),
}


def guidance_table(config: ExperimentConfig, collected: Path) -> Table:
    """Scores, mean and standard deviation over seeds, of each run and sampler.

    Evaluations are those of an image, in forward passes of the network: its FLOPs with those of
    the reward, over the FLOPs of one.

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
    shown["seeds"] = data["seeds"].map(count_text)
    several = "Mean ± standard deviation over seeds. " if data["seeds"].max() > 1 else ""
    note = (
        f"{several}Bold: best of its run. Evaluations: forward passes of the network that an image "
        "costs, the reward's gradient included."
    )
    return Table(pd.DataFrame(data), shown, note)


def _evaluations(config: ExperimentConfig, run: str, sampler: str) -> float:
    side, channels = latent_side(config), config.tokenizer.latent_channels
    one = network_flops(config.model_of(run), config.process_of(run), side, channels)
    return sampling_flops(config, run, config.samplers[sampler]) / one
