"""The method benchmark's folder: tables, figures, and README.md with the verdict; all from collected results."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined

from vrpo.config.methods import MethodsOptions
from vrpo.config.options import ReportOptions
from vrpo.files import write_text
from vrpo.reporting import methods, methods_figures, methods_tables, style
from vrpo.reporting.formatting import Table, markdown, write_table
from vrpo.reporting.methods_verdict import verdict
from vrpo.reporting.results import read_diagnostics, read_metrics, read_speed

REPEATABLE = ("search", "methods", "ablations")  # tables that a repetition gives again; `wall_time` is by the clock


def write_methods(options: MethodsOptions, report: ReportOptions, collected: Path, folder: Path) -> None:
    """Write the tables and figures that `options` ask for into `folder`, and README.md with the verdict.

    Raises:
        UserError: collected results are missing.
    """
    metrics = read_metrics(collected)
    searched = methods.search(options, metrics)
    tables: dict[str, Table] = {}
    sentences: list[str] = []
    if options.candidates:
        tables["search"] = methods_tables.search_table(options, report, searched)
    if options.chosen:
        compared, ablated, speed = methods.comparison(options, metrics), methods.ablations(options, metrics), read_speed(collected)
        logged = read_diagnostics(collected)
        tables["methods"] = methods_tables.methods_table(options, report, compared)
        tables["ablations"] = methods_tables.ablations_table(options, report, ablated)
        tables["wall_time"] = methods_tables.wall_time_table(methods.wall_time(options, compared, speed))
        sentences = verdict(options, compared, ablated)
        with matplotlib.rc_context(style.RC):
            drawn = {
                "scores": methods_figures.against_steps(options, metrics),
                "scores_time": methods_figures.against_time(options, metrics, speed),
                **{f"diagnostics_{process}": methods_figures.during_training(options, logged, process) for process in options.processes},
            }
            if options.ablations:
                drawn["changes"] = methods_figures.changes(options, compared, ablated)
            for name in options.figures():
                style.save(*drawn[name], folder / f"{name}.pdf")
    for name in options.tables():
        write_table(tables[name], folder / f"{name}.csv")
    environment = Environment(loader=PackageLoader("vrpo.reporting", "templates"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("methods.md").render(
        options=options,
        report=report,
        disagreements=methods.disagreements(options, searched),
        verdict=sentences,
        tables={name: markdown(tables[name]) for name in options.tables() if name in REPEATABLE},
        figures=options.figures(),
    )
    write_text(folder / "README.md", text)
