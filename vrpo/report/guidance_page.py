"""The folder of a comparison of samplers: table, figures, and README.md that shows them."""

from __future__ import annotations

from pathlib import Path

from vrpo.config.experiment import ExperimentConfig
from vrpo.files import write_text
from vrpo.report.catalogue import guidance_entries
from vrpo.report.draw import write
from vrpo.report.pages import page, texts_of


def write_guidance(experiment: ExperimentConfig, collected: Path, folder: Path) -> None:
    """Write the table, the figures of each process and README.md into `folder`.

    Raises:
        UserError: collected results are missing.
    """
    entries = guidance_entries(experiment.guided_processes)
    for entry in entries:
        write(entry, folder / entry.files[0], experiment, collected)
    texts = texts_of(entries, folder)
    values = {"report": experiment.report, "entries": entries, "texts": texts}
    text = page("vrpo.report", "guidance.md", **values)
    write_text(folder / "README.md", text)
