"""The table of samplers, from results that are made up."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from vrpo.config import load_experiment
from vrpo.report.formatting import markdown
from vrpo.report.guidance import guidance_table

from tests.fixtures import ROOT


def test_scores_and_evaluations_of_every_sampler(tmp_path: Path) -> None:
    config = load_experiment(ROOT / "config/mini.yaml", ROOT / "config/guidance.yaml")
    fids = {"ode": (5.0, 7.0), "ode-cfg-1.5": (4.0, 5.0), "ode-rep-1": (3.0, 3.5)}
    rows = []
    for sampler, values in fids.items():
        for seed, fid in enumerate(values):
            names = {"run": "sit-repa", "model": "SiT-mini/2", "alignment": "repa", "kind": "repa"}
            scores = {"fid": fid, "fd_validation": fid, "precision": 0.5, "recall": fid / 10}
            guidance = config.samplers[sampler].guidance.name
            row = {"seed": seed, "sampler": sampler, "guidance": guidance}
            rows += [{**names, **row, **scores, "step": step} for step in (500, 1500)]
            rows[-2]["fid"] = 0.0  # an earlier milestone
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv", index=False)
    table = guidance_table(config, tmp_path)
    assert list(table.data["fid"]) == [6.0, 4.5, 3.25]
    assert list(table.data["seeds"]) == [2, 2, 2]
    plain, free, steered = table.data["evaluations"]
    assert plain == free == 100
    assert steered == pytest.approx(100, rel=0.02)
    text = markdown(table)
    assert "classifier-free 1.5" in text and "representation 1" in text
    assert "**3.25 ± 0.35**" in text and "FD-validation" in text
    assert "**0.600 ± 0.141**" in text, "recall is better where it is higher"
