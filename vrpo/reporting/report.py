"""`report.html`: figures, tables, protocol and provenance in one self-contained file; and README.md, which says what lies where."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from vrpo import __version__
from vrpo.config.options import ReportOptions
from vrpo.errors import UserError
from vrpo.files import write_text
from vrpo.reporting import claims
from vrpo.reporting.figures import FIGURES
from vrpo.reporting.formatting import Table
from vrpo.reporting.results import read_metrics, read_protocol
from vrpo.reporting.tables import TABLES

CAPTIONS = {
    "fid": "FID against training steps; lower is better. Each point is a milestone whose averaged weights were sampled and scored.",
    "losses": "The denoising loss, and the mean negative cosine to the encoder before its weight. SiT and DiT have different denoising targets.",
    "rewards": "VRPO's raw rewards over training; the method uses them standardised at their noise level.",
    "samples": "Every run at its last milestone, all from the same noise and the same labels (above); the last row holds real images of the same classes.",
    "representation": "Hidden tokens at the last milestone, over the blocks: accuracy of a linear probe, and CKNNA with encoder tokens. Higher is better.",
    "diagnostics": "VRPO and REPA during training: rewards, weight and advantage by noise level, agreement of the alignment's and the denoising's gradient.",
    "comparison": "All scores at the last milestone.",
    "convergence": "FID on the way.",
    "gains": "Differences between alignments, paired by seed.",
    "claims": "The paper's claims, and what was observed here.",
}


def write_report(options: ReportOptions, folder: Path, output: Path) -> None:
    """Write the report of the results in `folder` to `output`, and README.md beside it.

    Raises:
        UserError: a figure or collected results are missing.
    """
    metrics, protocol = read_metrics(folder / "collected"), read_protocol(folder / "collected")
    comparable = options.published is not None
    environment = Environment(
        loader=PackageLoader("vrpo.reporting", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    tables = {name: make(options, metrics) for name, make in TABLES.items()}
    text = environment.get_template("report.html").render(
        options=options,
        comparable=comparable,
        headline=claims.headline(metrics, comparable),
        figures=[{"name": name, "caption": CAPTIONS[name], "image": _embedded(folder / f"figures/{name}.png")} for name in FIGURES],
        tables=[{"name": name, "caption": CAPTIONS[name], "note": table.note, **_cells(table)} for name, table in tables.items()],
        protocol=protocol,
        provenance=_provenance(metrics),
        version=__version__,
    )
    write_text(output, text)
    write_text(output.with_name("README.md"), environment.get_template("README.md").render(options=options, folder=folder.name, figures=FIGURES, tables=TABLES))


def _embedded(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: the figure is missing; draw it first (`snakemake --cores 1 figures`)")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _cells(table: Table) -> dict[str, Any]:
    rows = [[{"text": str(cell).strip("*"), "bold": str(cell).startswith("**")} for cell in row] for row in table.shown.itertuples(index=False)]
    return {"columns": list(table.shown.columns), "rows": rows}


def _provenance(metrics: pd.DataFrame) -> list[dict[str, str]]:
    """For each evaluation, the first digits of the hashes that trace its scores."""
    hashes = {
        "scores": "metrics_sha256",
        "weights": "milestone_sha256",
        "samples": "samples_sha256",
        "reference": "reference_sha256",
        "network": "network_sha256",
    }
    return [
        {
            "result": f"{row['run']}, seed {row['seed']}, step {row['step']:,}, {row['sampler']}",
            **{name: "" if pd.isna(row.get(column)) else row[column][:12] for name, column in hashes.items()},
        }
        for row in metrics.to_dict("records")
    ]
