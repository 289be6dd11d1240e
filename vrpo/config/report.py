"""Options of the report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vrpo.config.base import Label, Options, Rows, WorkflowPlace, option


class ReportOptions(Options):
    """Contents of figures and tables."""

    title: str | None = option(
        None, "headline of the report; null: what is compared, on which images"
    )
    metric_space: str | None = option(
        None, "feature space, shown beside every score; null: as data and evaluation say"
    )
    labels: Rows[Label] = option(
        dict,
        "{alignment: what tables and figures call it}; without one: its kind's name in papers, and "
        "for a reduced VRPO a generated one, e.g. `VRPO (fidelity only)`",
    )
    grid_images: int = option(10, "images of each run in the grid of samples", "images", ge=1)
    published: WorkflowPlace | None = option(
        None, "CSV of published numbers of ImageNet at 256x256, shown beside ours; null: none"
    )
    epochs_to_fid: list[Annotated[float, Field(gt=0)]] = option(
        list,
        "FIDs k whose EP_FID@k the table `convergence` shows: epochs until the FID without "
        "guidance is at most k",
    )
