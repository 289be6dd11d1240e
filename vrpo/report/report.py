"""The page `report.html`, one self-contained file, and README.md, the map of the results."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
from vrpo.files import write_text
from vrpo.plan.paths import Paths
from vrpo.report import claims
from vrpo.report.answer import answer
from vrpo.report.catalogue import report_entries
from vrpo.report.comparison import OURS
from vrpo.report.formatting import Table, is_numeric
from vrpo.report.making import making
from vrpo.report.pages import page
from vrpo.report.results import read_metrics, read_protocol

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # its first bytes; width and height follow


def write_report(options: ReportOptions, folder: Path, output: Path) -> None:
    """Write the report of the results in `folder` to `output`, and README.md beside it.

    Raises:
        UserError: a figure or collected results are missing.
    """
    collected = Paths(folder).collected
    figures, tables = report_entries("figure"), report_entries("table")
    metrics, comparable = read_metrics(collected), options.published is not None
    protocol = read_protocol(collected)
    text = page(
        "vrpo.report",
        "report.html",
        options=options,
        comparable=comparable,
        answer=answer(metrics),
        headline=claims.headline(metrics, comparable),
        figures=figures,
        images={entry.name: _embedded(folder / "figures" / entry.files[0]) for entry in figures},
        tables=[{"entry": table, **_cells(table.make(options, collected))} for table in tables],
        protocol=protocol,
        made=making(folder, metrics, protocol),
    )
    write_text(output, text)
    drawn = {"figures": figures, "tables": tables}
    readme = page("vrpo.report", "README.md", options=options, folder=folder.name, **drawn)
    write_text(output.with_name("README.md"), readme)


def _embedded(path: Path) -> dict[str, Any]:
    """A figure as a URL that holds it, and its width in pixels."""
    content = path.read_bytes() if path.is_file() else b""
    if not content.startswith(PNG):
        remedy = "draw it first (`snakemake --cores 1 figures`)"
        raise UserError(f"{path}: the figure is missing or no PNG; {remedy}")
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return {"source": source, "width": int.from_bytes(content[len(PNG) :][:4], "big")}


def _cells(table: Table) -> dict[str, Any]:
    """Columns, rows, note and sources of a table, as its template shows them."""
    shown = table.shown
    numeric = [is_numeric(shown[column]) for column in shown]
    rows = [
        [
            {"text": str(cell).strip("*"), "bold": str(cell).startswith("**"), "numeric": right}
            for cell, right in zip(row, numeric, strict=True)
        ]
        for row in shown.itertuples(index=False)
    ]
    ours = shown["source"].eq(OURS) if "source" in shown else [True] * len(shown)
    return {
        "columns": list(zip(shown.columns, numeric, strict=True)),
        "rows": list(zip(rows, ours, strict=True)),
        "note": table.note,
        "sources": table.sources,
    }
