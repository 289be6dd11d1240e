"""Commands of the results: figures, tables, reports, generated documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.arguments import Collected, Config, Configs, Output

app = typer.Typer()


@app.command("collect", rich_help_panel="Report")
def collect(
    config: Configs,
    output_folder: Annotated[Path, typer.Option(help="folder of the collected results")],
) -> Path:
    """Gather scores, training histories and sample grids: all that figures and tables read."""
    from vrpo.config import load_experiment
    from vrpo.report.collect import collect as collect_results

    collect_results(load_experiment(*config), output_folder)
    return output_folder


@app.command("figure", rich_help_panel="Report")
def figure(
    name: Annotated[str, typer.Argument(help="which figure")],
    config: Config,
    collected: Collected,
    output: Output,
) -> list[Path]:
    """Draw a figure from collected results (.pdf, .png and the .csv behind it)."""
    from vrpo.config import load_resolved
    from vrpo.config.report import ReportOptions
    from vrpo.report.draw import draw

    draw("figure", name, load_resolved(ReportOptions, config), collected, output)
    return [output.with_suffix(end) for end in (".pdf", ".png", ".csv")]


@app.command("table", rich_help_panel="Report")
def table(
    name: Annotated[str, typer.Argument(help="which table")],
    config: Config,
    collected: Collected,
    output: Output,
) -> list[Path]:
    """Write a table from collected results (.csv, .md and .tex)."""
    from vrpo.config import load_resolved
    from vrpo.config.report import ReportOptions
    from vrpo.report.draw import draw

    draw("table", name, load_resolved(ReportOptions, config), collected, output)
    return [output.with_suffix(end) for end in (".csv", ".md", ".tex")]


@app.command("report", rich_help_panel="Report")
def report(
    config: Config,
    folder: Annotated[Path, typer.Option(help="results of the experiment")],
    output: Output,
) -> Path:
    """Write report.html: figures, tables and provenance in one file."""
    from vrpo.config import load_resolved
    from vrpo.config.report import ReportOptions
    from vrpo.report.report import write_report

    write_report(load_resolved(ReportOptions, config), folder, output)
    return output


@app.command("benchmark", rich_help_panel="Report")
def benchmark(
    config: Config,
    report_config: Annotated[Path, typer.Option(help="resolved config of the report")],
    collected: Collected,
    output_folder: Annotated[
        Path, typer.Option(help="folder of the benchmark's tables, figures and verdict")
    ],
) -> Path:
    """Write the method benchmark's tables, figures and verdict from collected results."""
    from vrpo.benchmark.page import write_benchmark
    from vrpo.config import load_resolved
    from vrpo.config.benchmark import BenchmarkOptions
    from vrpo.config.report import ReportOptions

    options = load_resolved(BenchmarkOptions, config)
    report = load_resolved(ReportOptions, report_config)
    write_benchmark(options, report, collected, output_folder)
    return output_folder


@app.command("benchmark-snapshot", rich_help_panel="Report")
def benchmark_snapshot(
    config: Configs,
    output_folder: Annotated[
        Path, typer.Option(help="folder that the small results are copied to, e.g. docs/benchmark")
    ],
) -> Path:
    """Copy the method benchmark's small results, with provenance and machine, to commit them."""
    from vrpo.benchmark.snapshot import write_snapshot
    from vrpo.config import load_experiment

    write_snapshot(load_experiment(*config), output_folder)
    return output_folder


@app.command("benchmark-redraw", rich_help_panel="Report")
def benchmark_redraw(
    folder: Annotated[Path, typer.Argument(help="a snapshot, e.g. docs/benchmark")],
) -> Path:
    """Compute a snapshot's tables, verdict and figures of scores again, from its own CSVs."""
    from vrpo.benchmark.snapshot import redraw_snapshot

    redraw_snapshot(folder)
    return folder


@app.command("docs", rich_help_panel="Report")
def docs(
    folder: Annotated[Path, typer.Option(help="folder of the generated files")] = Path("docs"),
) -> list[Path]:
    """Generate the option reference, the JSON schema and the table of encoders."""
    from vrpo.config.docs import write_docs
    from vrpo.models.encoder_table import write_encoder_docs

    return [*write_docs(folder), *write_encoder_docs(folder)]
