"""The method benchmark's folder: tables, figures, and README.md with the verdict."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined

from vrpo.config.methods import MethodsOptions
from vrpo.config.options import ReportOptions
from vrpo.files import write_text
from vrpo.reporting import methods_figures, methods_tables, style
from vrpo.reporting.formatting import write_table
from vrpo.reporting.methods import Benchmark, disagreements
from vrpo.reporting.methods_verdict import verdict

REPEATABLE = ("search", "methods", "ablations")  # tables that a repetition gives again


def write_methods(options: MethodsOptions, report: ReportOptions, collected: Path, folder: Path) -> None:
    """Write the tables and figures that `options` ask for into `folder`, and README.md.

    Raises:
        UserError: collected results are missing.
    """
    benchmark = Benchmark(options, report, collected)
    for name in options.tables():
        write_table(getattr(methods_tables, f"{name}_table")(benchmark), folder / f"{name}.csv")
    for name in options.figures():
        write_figure(benchmark, name, folder / f"{name}.pdf")
    write_readme(benchmark, folder)


def write_figure(benchmark: Benchmark, name: str, output: Path) -> None:
    """Draw the figure `name`."""
    simple = {
        "scores": methods_figures.against_steps,
        "scores_time": methods_figures.against_time,
        "changes": methods_figures.changes,
    }
    with matplotlib.rc_context(style.RC):
        process = name.removeprefix("diagnostics_")
        if process == name:
            style.save(*simple[name](benchmark), output)
        else:
            style.save(*methods_figures.during_training(benchmark, process), output)


def write_readme(benchmark: Benchmark, folder: Path) -> None:
    """Write README.md of the tables in `folder`, with the verdict."""
    options = benchmark.options
    loader = PackageLoader("vrpo.reporting", "templates")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    repeatable = [name for name in options.tables() if name in REPEATABLE]
    text = environment.get_template("methods.md").render(
        options=options,
        report=benchmark.report,
        disagreements=disagreements(options, benchmark.searched),
        verdict=verdict(options, benchmark.compared, benchmark.ablated) if options.chosen else [],
        tables={name: (folder / f"{name}.md").read_text(encoding="utf-8") for name in repeatable},
        figures=options.figures(),
    )
    write_text(folder / "README.md", text)
