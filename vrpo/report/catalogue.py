"""The catalogue of figures and tables: name, title, caption, function and data of each.

Snakemake's targets and captions, `make redraw`, the report and the benchmark are derived from it.
To add a figure, add an entry and write its function (docs/extending.md). Functions are named, not
imported, so that planning a workflow loads neither matplotlib nor pandas.

`python -m vrpo.report.catalogue` prints the names of the report's figures and tables.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.config.benchmark import BenchmarkOptions

COLLECTED = (  # the files that `collect` writes, see there
    *("metrics.csv", "training.csv", "diagnostics.csv", "speed.csv", "representation.csv"),
    *("samples.npz", "protocol.json"),
)
ENDINGS = {"figure": ("png", "pdf", "csv"), "table": ("csv", "md", "tex")}  # the first is shown


@dataclass(frozen=True)
class Entry:
    """A figure or a table.

    A figure's function returns `(Figure, data behind it)`, a table's a `Table`. Both are called
    with `(ReportOptions, folder of collected results)`, those of the benchmark with a `Benchmark`,
    those of guidance with the `ExperimentConfig` in the place of the first.
    """

    kind: Literal["figure", "table"]
    name: str  # also the name of the rule and of the files
    title: str
    function: str  # `module:function`
    caption: str = ""
    needs: tuple[str, ...] = ("metrics.csv",)  # of `COLLECTED`
    asks: str = "chosen"  # benchmark: the option without which it is not made
    each_process: bool = False  # benchmark, guidance: one for each process
    process: str | None = None  # its process, which the function is given

    @property
    def files(self) -> list[str]:
        """Names of the files that it is written to."""
        return [f"{self.name}.{ending}" for ending in ENDINGS[self.kind]]

    @property
    def by_clock(self) -> bool:
        """Whether it depends on measured times, so that no repetition gives it again."""
        return "speed.csv" in self.needs

    def on(self, process: str | None) -> Entry:
        """The entry of one process."""
        if process is None:
            return self
        name, title = f"{self.name}_{process}", f"{self.title}, {process}"
        return replace(self, name=name, title=title, process=process)

    def make(self, *source: object) -> Any:
        """Import the function and call it."""
        module, _, name = self.function.partition(":")
        more = [self.process] if self.process else []
        return getattr(importlib.import_module(module), name)(*source, *more)


figure, table = partial(Entry, "figure"), partial(Entry, "table")
CATALOGUE = [
    figure(
        "fid",
        "FID against training steps",
        "vrpo.report.figures:fid",
        "Lower is better. Each point is a milestone, sampled with its averaged weights.",
    ),
    figure(
        "losses",
        "Denoising and alignment loss against training steps",
        "vrpo.report.figures:losses",
        "Alignment: mean negative cosine before its weight. SiT and DiT have different targets.",
        needs=("training.csv",),
    ),
    figure(
        "rewards",
        "Rewards of VRPO against training steps",
        "vrpo.report.figures:rewards",
        "Raw values; the method uses them standardised at their noise level.",
        needs=("training.csv",),
    ),
    figure(
        "samples",
        "Samples of every run at its last milestone",
        "vrpo.report.figures:samples",
        "All from the same noise and labels. Last row: real images of the same classes.",
        needs=("metrics.csv", "samples.npz"),
    ),
    figure(
        "representation",
        "Linear probe and CKNNA over blocks",
        "vrpo.report.representation:representation",
        "Of hidden tokens at the last milestone; higher is better. All noise levels: see the CSV.",
        needs=("representation.csv",),
    ),
    figure(
        "diagnostics",
        "VRPO and REPA during training",
        "vrpo.report.diagnostics:diagnostics",
        "Rewards, weight and advantage by noise level; agreement of alignment and denoising.",
        needs=("metrics.csv", "diagnostics.csv"),
    ),
    table(
        "comparison",
        "Scores at the last milestone",
        "vrpo.report.comparison:comparison",
        "Hashes in collected/metrics.csv trace each number to its files.",
    ),
    table(
        "convergence",
        "FID at every milestone",
        "vrpo.report.tables:convergence",
        needs=("metrics.csv", "protocol.json"),
    ),
    table("gains", "Paired differences between alignments", "vrpo.report.tables:gains"),
    table(
        "claims",
        "The paper's claims",
        "vrpo.report.tables:claimed",
        "Claimed, observed here, and the verdict. One seed proves nothing.",
    ),
]
TIMED = ("metrics.csv", "speed.csv")
BENCHMARK = [
    table("search", "Search", "vrpo.benchmark.tables:search_table", asks="candidates"),
    table("compared", "Compared methods", "vrpo.benchmark.tables:compared_table"),
    table(
        "ablations",
        "Ablations of VRPO",
        "vrpo.benchmark.tables:ablations_table",
        asks="ablations",
    ),
    table("wall_time", "Wall time", "vrpo.benchmark.tables:wall_time_table", needs=TIMED),
    figure(
        "changes",
        "Change of the scores by ablation",
        "vrpo.benchmark.figures:changes",
        "Against the chosen VRPO; REPA is shown, too. Grey where the interval holds 0.",
        asks="ablations",
    ),
    figure(
        "scores",
        "Scores against training steps",
        "vrpo.benchmark.figures:against_steps",
        "Each point is a milestone whose averaged weights were sampled and scored.",
    ),
    figure(
        "scores_time",
        "Scores against time",
        "vrpo.benchmark.figures:against_time",
        needs=TIMED,
    ),
    figure(
        "diagnostics",
        "REPA and VRPO during training",
        "vrpo.benchmark.figures:during_training",
        "By noise level and over the steps.",
        needs=("diagnostics.csv",),
        each_process=True,
    ),
]
GUIDANCE = [
    table("guidance", "Samplers at the last milestone", "vrpo.report.guidance:guidance_table"),
    figure(
        "scales",
        "FID against the scale of guidance",
        "vrpo.report.guidance_figures:scales",
        "Without guidance the scale is 1 (classifier-free) or 0 (by representation).",
    ),
    figure(
        "samples",
        "Samples of every sampler",
        "vrpo.report.guidance_figures:samples",
        "Of one seed, all from the same noise and labels.",
        each_process=True,
    ),
]


def report_entries(kind: str) -> list[Entry]:
    """The report's figures, or its tables."""
    return [entry for entry in CATALOGUE if entry.kind == kind]


def find(kind: str, name: str) -> Entry:
    """The report's figure or table `name`.

    Raises:
        UserError: the catalogue has none.
    """
    known = {entry.name: entry for entry in report_entries(kind)}
    if name not in known:
        raise UserError(f"{kind} `{name}`: not in the catalogue; known: {', '.join(known)}")
    return known[name]


def benchmark_entries(options: BenchmarkOptions) -> list[Entry]:
    """The figures and tables of a method benchmark with these options."""
    wanted = {"candidates": options.candidates, "chosen": options.chosen}
    wanted["ablations"] = options.chosen and options.ablations
    return _for_each([entry for entry in BENCHMARK if wanted[entry.asks]], options.processes)


def guidance_entries(processes: list[str]) -> list[Entry]:
    """The figures and tables of guidance by the representation, for these processes."""
    return _for_each(GUIDANCE, processes)


def _for_each(entries: list[Entry], processes: list[str]) -> list[Entry]:
    return [
        entry.on(process)
        for entry in entries
        for process in (processes if entry.each_process else [None])
    ]


if __name__ == "__main__":
    print(*(entry.name for entry in CATALOGUE))
