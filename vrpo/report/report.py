"""The page `report.html`, one self-contained file, and README.md, the map of the results."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from vrpo import __version__
from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
from vrpo.files import write_text
from vrpo.plan.paths import Paths
from vrpo.report import claims
from vrpo.report.catalogue import report_entries
from vrpo.report.formatting import Table
from vrpo.report.results import HASHES, read_metrics, read_protocol


def write_report(options: ReportOptions, folder: Path, output: Path) -> None:
    """Write the report of the results in `folder` to `output`, and README.md beside it.

    Raises:
        UserError: a figure or collected results are missing.
    """
    collected = Paths(folder).collected
    figures, tables = report_entries("figure"), report_entries("table")
    metrics, comparable = read_metrics(collected), options.published is not None
    environment = Environment(
        loader=PackageLoader("vrpo.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages = {name: environment.get_template(name) for name in ("report.html", "README.md")}
    text = pages["report.html"].render(
        options=options,
        comparable=comparable,
        headline=claims.headline(metrics, comparable),
        figures=figures,
        images={entry.name: _embedded(folder / "figures" / entry.files[0]) for entry in figures},
        tables=[{"entry": table, **_cells(table.make(options, collected))} for table in tables],
        protocol=read_protocol(collected),
        provenance=_provenance(metrics),
        version=__version__,
    )
    write_text(output, text)
    drawn = {"figures": figures, "tables": tables}
    readme = pages["README.md"].render(options=options, folder=folder.name, **drawn)
    write_text(output.with_name("README.md"), readme)


def _embedded(path: Path) -> str:
    if not path.is_file():
        remedy = "draw it first (`snakemake --cores 1 figures`)"
        raise UserError(f"{path}: the figure is missing; {remedy}")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _cells(table: Table) -> dict[str, Any]:
    rows = [
        [{"text": str(cell).strip("*"), "bold": str(cell).startswith("**")} for cell in row]
        for row in table.shown.itertuples(index=False)
    ]
    return {"columns": list(table.shown.columns), "rows": rows, "note": table.note}


def _provenance(metrics: pd.DataFrame) -> list[dict[str, str]]:
    """For each evaluation, the first digits of the hashes that trace its scores."""
    hashes = {"scores": "metrics_sha256", **HASHES}
    traces = []
    for row in metrics.to_dict("records"):
        result = f"{row['run']}, seed {row['seed']}, step {row['step']:,}, {row['sampler']}"
        found = {name: row.get(column) for name, column in hashes.items()}
        digits = {name: "" if pd.isna(value) else value[:12] for name, value in found.items()}
        traces.append({"result": result, **digits})
    return traces
