"""Options of the report."""

from __future__ import annotations

from vrpo.config.base import Options, WorkflowPlace, option


class ReportOptions(Options):
    """Contents of figures and tables."""

    title: str | None = option(
        None, "headline of the report; null: what is compared, on which images"
    )
    metric_space: str | None = option(
        None, "feature space, shown beside every score; null: as data and evaluation say"
    )
    grid_images: int = option(10, "images of each run in the grid of samples", "images", ge=1)
    published: WorkflowPlace | None = option(
        None, "CSV of published numbers of ImageNet at 256x256, shown beside ours; null: none"
    )
