"""Checks of an experiment's sections against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrpo.config.alignments import AnyAlignment, VRPOOptions
from vrpo.config.benchmark import BenchmarkOptions
from vrpo.config.geometry import check_geometry
from vrpo.config.messages import require_known
from vrpo.config.runs import CheckpointOptions, CustomSize, RunOptions
from vrpo.config.scoring import SAMPLER_PROCESS

if TYPE_CHECKING:
    from vrpo.config.experiment import ExperimentConfig


def check_consistency(config: ExperimentConfig) -> None:
    """Check the sections of `config` against each other.

    Raises:
        ValueError: they do not fit; it names the option.
    """
    try:
        config.training.micro_batch(1)
    except ValueError as error:
        raise ValueError(f"training.batch_size: {error}") from None
    for name, alignment in config.alignments.items():
        _check_alignment(config, name, alignment)
    if config.benchmark:
        _check_benchmark(config, config.benchmark)
    for name, label in config.report.labels.items():
        require_known("report.labels", name, config.alignments, "alignments")
        _check_label(config, f"report.labels.{name}", label, name)
    for name, run in config.runs.items():
        _check_run(config, name, run)
    for name, checkpoint in config.checkpoints.items():
        _check_checkpoint(config, name, checkpoint)
    config.tracking.check(config.data.num_classes, config.processes.values())
    _check_decoders(config)
    _check_measured_blocks(config)
    _check_published(config)
    for encoder in (config.representation.encoders or []) if config.representation else []:
        require_known("representation.encoders", encoder, config.encoders, "encoders")
    check_geometry(config)


def _check_benchmark(config: ExperimentConfig, benchmark: BenchmarkOptions) -> None:
    config.size_of("benchmark.model", benchmark.model)
    for process in benchmark.processes:
        require_known("benchmark.processes", process, config.processes, "processes")
    for option_name, name, kind in benchmark.named():
        require_known(f"benchmark.{option_name}", name, config.alignments, "alignments")
        if kind and config.alignments[name].kind != kind:
            raise ValueError(
                f"benchmark.{option_name}: `{name}` is an alignment of kind "
                f"`{config.alignments[name].kind}`, this must be one of kind `{kind}`"
            )
    for label, name in (benchmark.diagnosed or {}).items():
        _check_label(config, "benchmark.diagnosed", label, name)
    spaces = config.evaluation.extra_networks.items()
    scores = dict.fromkeys(["fid", *(f"fd_{name}" for name, at in spaces if "fd" in at.scores)])
    known = "fid, fd_<each of evaluation.extra_networks>"
    for option_name in ("validation", "held_out"):
        score = getattr(benchmark, option_name)
        if score is not None:
            require_known(f"benchmark.{option_name}", score, scores, known)


def _check_decoders(config: ExperimentConfig) -> None:
    for name, sampler in config.samplers.items():
        if sampler.decoder and config.tokenizer.weights == "trained":
            raise ValueError(
                f"samplers.{name}.decoder: `{sampler.decoder}` does not decode latents of a "
                "trained tokenizer; set `decoder: null` beside the preset"
            )


def _check_measured_blocks(config: ExperimentConfig) -> None:
    blocks = (config.representation.blocks if config.representation else None) or []
    for name in config.runs:
        depth = config.model_of(name).depth
        if max(blocks, default=0) > depth:
            raise ValueError(
                f"representation.blocks: {blocks}, but run {name} has {depth} blocks; "
                "leave it out to measure all"
            )


def _check_published(config: ExperimentConfig) -> None:
    data, network = config.data, config.evaluation.network
    found = data.num_classes, data.resolution, network
    if config.report.published and found != (1000, 256, "inception"):
        raise ValueError(
            f"report.published: {config.report.published} holds scores of ImageNet's 1,000 "
            f"classes at 256x256 by Inception, here are {data.num_classes:,} at "
            f"{data.resolution}x{data.resolution} by `{network}`; "
            "set `report: {published: null}`"
        )


def _check_alignment(config: ExperimentConfig, name: str, alignment: AnyAlignment) -> None:
    where, blocks = f"alignments.{name}", alignment.attention_of
    for encoder in alignment.encoders:
        require_known(f"{where}.encoders", encoder, config.encoders, "encoders")
        cached = config.encoders[encoder].attention
        if blocks and len(cached) != len(blocks):
            raise ValueError(
                f"{where}.attention_blocks: {blocks} are {len(blocks)} blocks, encoder "
                f"`{encoder}` caches the attention of {len(cached)}; "
                f"name as many of its blocks in `encoders.{encoder}.attention`"
            )
        if alignment.needs_class_token and not config.encoders[encoder].class_token:
            raise ValueError(
                f"{where}.encoders: `{alignment.kind}` denoises the class token of "
                f"`{encoder}`, which is not cached; set `encoders.{encoder}.class_token: true`"
            )
    try:
        config.training.micro_batch(1, alignment.group)
    except ValueError as error:
        raise ValueError(f"{where}.group_size: {error}") from None
    try:
        alignment.check(config.training)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _check_label(config: ExperimentConfig, where: str, label: str, name: str) -> None:
    """Refuse the name of the full form for another one."""
    alignment, full = config.alignments[name], VRPOOptions.title
    if label.strip().casefold() != full.casefold():
        return
    if alignment.kind != "vrpo" or alignment.missing:
        parts = " and no ".join(alignment.missing)
        lack = f"has no {parts}" if parts else f"is of kind `{alignment.kind}`"
        raise ValueError(
            f"{where}: `{label}` is the name of the full form, and alignment `{name}` {lack}; "
            f"give another label, e.g. `{alignment.name or name}`"
        )


def _check_run(config: ExperimentConfig, name: str, run: RunOptions) -> None:
    require_known(f"runs.{name}.process", run.process, config.processes, "processes")
    require_known(f"runs.{name}.alignment", run.alignment, config.alignments, "alignments")
    size, _ = config.size_of(f"runs.{name}.model", run.model)
    alignment = config.alignments[run.alignment]
    if alignment.needs_class_token and isinstance(size, CustomSize):
        raise ValueError(
            f"runs.{name}: alignment `{run.alignment}` adds a class token to the network, and "
            f"`{size.backbone}` takes none; choose a model without `backbone`"
        )
    taken = {"depth": alignment.depth}
    taken["attention_blocks"] = max(alignment.attention_of, default=0)
    if alignment.cleaner_target:
        taken["target_depth"] = alignment.cleaner_target.depth
    for option_name, block in taken.items():
        if block > size.depth:
            raise ValueError(
                f"runs.{name}: alignment `{run.alignment}` takes block {block}, "
                f"but {run.model} has {size.depth} blocks; "
                f"lower `alignments.{run.alignment}.{option_name}`"
            )
    _check_samplers(config, f"runs.{name}", name)


def _check_checkpoint(config: ExperimentConfig, name: str, checkpoint: CheckpointOptions) -> None:
    if name in config.runs:
        raise ValueError(f"checkpoints.{name}: a run has this name; choose another")
    config.size_of(f"checkpoints.{name}.model", checkpoint.model)
    _check_samplers(config, f"checkpoints.{name}", name)


def _check_samplers(config: ExperimentConfig, where: str, name: str) -> None:
    if not config.samplers_of(name):
        kind = config.process_of(name)
        kinds = ", ".join(name for name, owner in SAMPLER_PROCESS.items() if owner == kind)
        raise ValueError(
            f"{where}: no sampler belongs to its process `{kind}`, but those for aligned runs; "
            f"add one of {kinds} to `samplers`"
        )
