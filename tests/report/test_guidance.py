"""Table and figures of guidance, from results that are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vrpo.config import load_experiment
from vrpo.config.experiment import ExperimentConfig
from vrpo.data.arrays import ArrayWriter
from vrpo.plan.jobs import guided
from vrpo.plan.paths import Paths
from vrpo.report.catalogue import guidance_entries
from vrpo.report.draw import write
from vrpo.report.formatting import markdown
from vrpo.report.guidance import guidance_table
from vrpo.report.guidance_figures import FREE, STEERED, scales
from vrpo.report.guidance_page import write_guidance

from tests.fixtures import ROOT

FIDS = {
    "ode": (5.0, 7.0),
    "ode-cfg-1.5": (4.0, 5.0),
    "ode-rep-2": (3.0, 3.5),
    "ode-raw": (3.0, 4.0),
    "ode-both": (2.0, 3.0),
    "ode-best": (4.0, 6.0),
}
BETTER = {"sit-repa": 0.0, "sit-vrpo": 0.5}  # by so much is a run's FID lower


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    files = ROOT / "config/mini.yaml", ROOT / "config/guidance.yaml"
    config = load_experiment(*files)
    return config.model_copy(update={"results": str(tmp_path / "results")})


@pytest.fixture
def collected(config: ExperimentConfig, tmp_path: Path) -> Path:
    rows = []
    for run, better in BETTER.items():
        kind = config.runs[run].alignment
        names = {"run": run, "model": "SiT-mini/2", "alignment": kind, "kind": kind}
        for sampler, values in FIDS.items():
            for seed, fid in enumerate(values):
                value = fid - better
                scores = {"fid": value, "fd_validation": fid, "precision": 0.5, "recall": fid / 10}
                guidance = config.samplers[sampler].guidance.name
                row = {"process": "interpolant", "seed": seed, "sampler": sampler}
                row["guidance"] = guidance
                rows += [{**names, **row, **scores, "step": step} for step in (500, 1500)]
                rows[-2]["fid"] = 0.0  # an earlier milestone
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv", index=False)
    return tmp_path


def test_scores_and_evaluations_of_every_sampler(config: ExperimentConfig, collected: Path) -> None:
    table = guidance_table(config, collected)
    data = table.data.set_index(["run", "sampler"]).loc["sit-repa"]
    assert list(data["fid"]) == [6.0, 4.5, 3.25, 3.5, 2.5, 5.0]
    assert set(table.data["seeds"]) == {2}
    assert data["evaluations"]["ode"] == 50
    assert list(data["evaluations"]) == pytest.approx([50] * len(FIDS), rel=0.1)
    text = markdown(table)
    assert "classifier-free 1.5" in text and "representation 2" in text
    assert "**2.50 ± 0.71**" in text and "FD-validation" in text
    assert "**0.600 ± 0.141**" in text, "recall is better where it is higher"


def test_gains_are_paired_by_seed(config: ExperimentConfig, collected: Path) -> None:
    table = guidance_table(config, collected)
    data = table.data.set_index(["run", "sampler"])
    steered = data.loc["sit-repa", "ode-rep-2"]  # gains 2 and 3.5
    assert steered["gain"] == 2.75
    assert steered["gain_high"] - 2.75 == pytest.approx(12.706 * 0.75, rel=1e-3)
    assert np.isnan(data.loc["sit-repa", "ode"]["gain"])
    assert data.loc["sit-repa"]["gain_on_first"].isna().all()
    assert list(data.loc["sit-vrpo"]["gain_on_first"]) == [0.5] * len(FIDS)
    text = markdown(table)
    assert "+0.50 [+0.50, +0.50]" in text
    assert "| gain by guidance | gain on first alignment |" in text


def test_runs_without_a_common_milestone_have_no_gain(
    config: ExperimentConfig, collected: Path
) -> None:
    rows = pd.read_csv(collected / "metrics.csv")
    rows.loc[(rows["run"] == "sit-repa") & (rows["step"] == 1500), "step"] = 7000
    rows.to_csv(collected / "metrics.csv", index=False)
    data = guidance_table(config, collected).data
    assert data["gain_on_first"].isna().all() and data["gain"].notna().sum() == 2 * len(FIDS) - 2


def test_only_the_scale_differs_in_the_figure_of_scales(
    config: ExperimentConfig, collected: Path, tmp_path: Path
) -> None:
    entry = next(entry for entry in guidance_entries(["sit"]) if entry.name == "scales")
    for place in ("a", "b"):
        write(entry, tmp_path / place / "scales.png", config, collected)
    data = pd.read_csv(tmp_path / "a/scales.csv")
    points = data[data["run"] == "sit-repa"].set_index(["guidance", "scale"])["mean"]
    assert points.to_dict() == {
        **{(STEERED, 0.0): 6.0, (STEERED, 2.0): 3.25},
        **{(FREE, 1.0): 6.0, (FREE, 1.5): 4.5},
    }
    first, second = ((tmp_path / place / "scales.png").read_bytes() for place in ("a", "b"))
    assert first == second
    assert np.asarray(Image.open(tmp_path / "a/scales.png").convert("L")).std() > 5


def test_without_scales_the_figure_says_so(
    config: ExperimentConfig, collected: Path, tmp_path: Path
) -> None:
    rows = pd.read_csv(collected / "metrics.csv")
    rows[rows["sampler"] == "ode-best"].to_csv(collected / "metrics.csv", index=False)
    figure, data = scales(config, collected)
    assert data.empty and "no samplers differ" in figure.axes[0].texts[0].get_text()
    table = guidance_table(config, collected)
    assert table.data["gain"].isna().all() and list(table.data["gain_on_first"])[1] == 0.5


def test_the_folder_shows_all_and_samples_of_the_last_aligned_run(
    config: ExperimentConfig, collected: Path, tmp_path: Path
) -> None:
    runs = {name: run for name, run in config.runs.items() if run.process == "sit"}
    config = config.model_copy(update={"runs": runs})
    keys = list(guided(config, "sit"))
    assert {key[:3] for key in keys} == {("sit-vrpo", 0, 1500)}
    assert [key[3] for key in keys] == [name for name in config.samplers if name[:3] == "ode"]
    labels = np.arange(10) % 10
    for number, key in enumerate(keys):
        path = Paths.of(config).samples(*key)
        images = np.full((10, 32, 32, 3), 20 * number, np.uint8)
        write_samples(path, images, labels)
    write_guidance(config, collected, tmp_path / "page")
    text = (tmp_path / "page/README.md").read_text()
    assert "# Samplers and guidance\n\nGenerated from" in text
    assert (tmp_path / "page/guidance.md").read_text() in text
    for entry in guidance_entries(["sit"])[1:]:
        assert f"## {entry.title}\n\n{entry.caption}\n\n![{entry.title}]({entry.files[0]})" in text
        assert all((tmp_path / "page" / file).is_file() for file in entry.files)
    data = pd.read_csv(tmp_path / "page/samples_sit.csv")
    assert list(data["sampler"]) == [key[3] for key in keys]
    assert set(data["labels"]) == {" ".join(map(str, labels))}
    assert np.asarray(Image.open(tmp_path / "page/samples_sit.png").convert("L")).std() > 5


def write_samples(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    arrays = {"images": images, "labels": labels}
    shapes = {name: (each.shape, each.dtype) for name, each in arrays.items()}
    with ArrayWriter(path, shapes, {}) as writer:
        writer.write(0, arrays)
        writer.finish()
