"""Writing a figure as .pdf, .png and .csv, or a table as .csv, .md and .tex."""

from __future__ import annotations

from pathlib import Path

from vrpo.config.report import ReportOptions
from vrpo.report.catalogue import Entry, find
from vrpo.report.formatting import write_table


def draw(kind: str, name: str, options: ReportOptions, collected: Path, output: Path) -> None:
    """Write the report's figure or table `name` as `output`, with the endings of its kind.

    Raises:
        UserError: the catalogue has none of that name, or collected results are missing.
    """
    write(find(kind, name), output, options, collected)


def write(entry: Entry, output: Path, *source: object) -> None:
    """Write `entry` as `output`; its function is called with `source`."""
    if entry.kind == "table":
        write_table(entry.make(*source), output)
        return
    from vrpo.report import style  # matplotlib, which tables do without

    with style.applied():
        style.save(*entry.make(*source), output)
