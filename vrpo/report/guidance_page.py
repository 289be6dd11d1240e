"""The folder of a comparison of samplers: table, figures, and README.md that shows them."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from vrpo.config.experiment import ExperimentConfig
from vrpo.files import write_text
from vrpo.report.catalogue import guidance_entries
from vrpo.report.draw import write


def write_guidance(experiment: ExperimentConfig, collected: Path, folder: Path) -> None:
    """Write the table, the figures of each process and README.md into `folder`.

    Raises:
        UserError: collected results are missing.
    """
    entries = guidance_entries(experiment.guided_processes)
    for entry in entries:
        write(entry, folder / entry.files[0], experiment, collected)
    environment = Environment(
        loader=PackageLoader("vrpo.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = {entry.name: entry for entry in entries if entry.kind == "table"}
    text = environment.get_template("guidance.md").render(
        report=experiment.report,
        entries=entries,
        texts={name: (folder / f"{name}.md").read_text("utf-8") for name in tables},
    )
    write_text(folder / "README.md", text)
