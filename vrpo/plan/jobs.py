"""The trainings, samples and scores of an experiment."""

from __future__ import annotations

from collections.abc import Iterator

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.resolved import CollectedRun, CollectOptions


def collection(config: ExperimentConfig) -> CollectOptions:
    """The results that figures and tables use."""
    rows = {}
    for run in config.runs:
        steps = config.milestones_of(run)
        chosen = {
            name: steps if config.samplers[name].milestones == "all" else steps[-1:]
            for name in config.samplers_of(run)
        }
        rows[run] = CollectedRun(seeds=config.seeds_of(run), milestones=steps, samplers=chosen)
    for name, checkpoint in config.checkpoints.items():
        steps = [checkpoint.step]
        chosen = dict.fromkeys(config.samplers_of(name), steps)
        rows[name] = CollectedRun(seeds=[checkpoint.seed], milestones=steps, samplers=chosen)
    report = config.report
    return CollectOptions(
        grid_images=report.grid_images, runs=rows, epochs=bool(report.epochs_to_fid)
    )


def trainings(config: ExperimentConfig) -> Iterator[tuple[str, int]]:
    """All (run, seed) that are trained."""
    for run in config.runs:
        for seed in config.seeds_of(run):
            yield run, seed


def milestones(config: ExperimentConfig) -> Iterator[tuple[str, int, int]]:
    """All (run, seed, step) at which weights of a training are kept."""
    for run, seed in trainings(config):
        for step in config.milestones_of(run):
            yield run, seed, step


def evaluations(config: ExperimentConfig) -> Iterator[tuple[str, int, int, str]]:
    """All (run, seed, milestone, sampler) that are sampled and scored."""
    for run, row in collection(config).runs.items():
        for seed in row.seeds:
            for sampler, steps in row.samplers.items():
                for step in steps:
                    yield run, seed, step, sampler


def represented(config: ExperimentConfig) -> Iterator[tuple[str, int, int]]:
    """The (run, seed, last milestone) whose hidden representations are measured."""
    for run, seed in trainings(config) if config.representation else ():
        yield run, seed, config.milestones_of(run)[-1]


def shown(config: ExperimentConfig) -> Iterator[tuple[str, int, int, str]]:
    """The (run, seed, milestone, sampler) in the grid of samples.

    The first seed, last milestone and first sampler of each run; of a method benchmark, only the
    runs of its comparison, once there is one.
    """
    benchmark, compared = config.benchmark, []
    for process in benchmark.processes if benchmark else ():
        compared += benchmark.compared_runs(process)
    for run in compared or config.runs:
        last = config.milestones_of(run)[-1]
        yield run, config.seeds_of(run)[0], last, config.samplers_of(run)[0]


def guided(config: ExperimentConfig, process: str) -> Iterator[tuple[str, int, int, str]]:
    """The (run, seed, milestone, sampler) in the figure of guided samples of a process.

    The first seed, last milestone and all samplers of its last run that the representation guides.
    """
    runs = [run for run, row in config.runs.items() if row.process == process]
    for run in [run for run in runs if config.is_guided(run)][-1:]:
        for sampler in config.samplers_of(run):
            yield run, config.seeds_of(run)[0], config.milestones_of(run)[-1], sampler
