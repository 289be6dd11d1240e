"""The method benchmark's folder: tables, figures, and README.md with the verdict."""

from __future__ import annotations

from pathlib import Path

from vrpo.benchmark.numbers import Benchmark
from vrpo.benchmark.verdict import verdict
from vrpo.config.benchmark import BenchmarkOptions
from vrpo.config.report import ReportOptions
from vrpo.files import write_text
from vrpo.report.catalogue import Entry, benchmark_entries
from vrpo.report.draw import write
from vrpo.report.pages import page, texts_of


def write_benchmark(
    options: BenchmarkOptions,
    report: ReportOptions,
    collected: Path,
    folder: Path,
) -> None:
    """Write the tables and figures that `options` ask for into `folder`, and README.md.

    Raises:
        UserError: collected results are missing.
    """
    write_entries(Benchmark(options, report, collected), benchmark_entries(options), folder)


def write_entries(benchmark: Benchmark, wanted: list[Entry], folder: Path) -> None:
    """Write the tables and figures `wanted`, all tables among them, and README.md."""
    for entry in wanted:
        write(entry, folder / entry.files[0], benchmark)
    options = benchmark.options
    entries = benchmark_entries(options)
    text = page(
        "vrpo.benchmark",
        "README.md",
        options=options,
        report=benchmark.report,
        disagreements=benchmark.disagreements,
        verdict=verdict(benchmark) if options.chosen else [],
        entries=entries,
        texts=texts_of(entries, folder),
    )
    write_text(folder / "README.md", text)
