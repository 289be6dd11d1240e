"""One experiment's whole configuration: reading it, checking it across sections, and naming its runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import model_validator

from vrpo.config.alignments import AlignmentOptions, AnyAlignment, HASTEOptions, VRPOOptions
from vrpo.config.base import Options, option
from vrpo.config.messages import validate
from vrpo.config.options import (
    CHECKPOINT_PROCESS,
    AnySize,
    CheckpointOptions,
    CriticOptions,
    CustomSize,
    DataOptions,
    EncoderOptions,
    ModelSize,
    ProcessOptions,
    ReportOptions,
    ResourceOptions,
    RunOptions,
    TokenizerOptions,
    TrainingOptions,
)
from vrpo.config.scoring import SAMPLER_PROCESS, EvaluationOptions, RepresentationOptions, SamplerOptions
from vrpo.errors import UserError

PAPER_SIZES = {
    "S": ModelSize(depth=12, width=384, heads=6),
    "B": ModelSize(depth=12, width=768, heads=12),
    "L": ModelSize(depth=24, width=1024, heads=16),
    "XL": ModelSize(depth=28, width=1152, heads=16),
}  # DiT, table 1 (arXiv:2212.09748); SiT's are the same
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class ModelOptions(Options):
    """A transformer, resolved: everything its construction needs."""

    name: str = option(..., "as papers print it, e.g. `SiT-XL/2`")
    depth: int = option(..., "transformer blocks", ge=1)
    width: int = option(..., "channels of a token", ge=1)
    heads: int = option(..., "attention heads", ge=1)
    patch_size: int = option(..., "side of a patch of the latent", ge=1)
    num_classes: int = option(..., "classes; the null class is this number", ge=1)


class CustomModelOptions(ModelOptions):
    """A network of one's own, resolved."""

    backbone: str = option(..., "`module:Class`")
    arguments: dict[str, Any] = option(dict, "further keyword arguments of the class")


class RunConfig(Options):
    """A run resolved for one seed: all that its training depends on, and nothing else (`runs/<run>/seed<k>/config.yaml`)."""

    run: str = option(..., "the run's name")
    seed: int = option(..., "seed of weights, data order, noise and dropout")
    model: ModelOptions | CustomModelOptions = option(..., "network")
    process: ProcessOptions = option(..., "process")
    alignment: AnyAlignment = option(..., "alignment")
    training: TrainingOptions = option(..., "optimisation")


class CollectedRun(Options):
    """What the collection of results takes of one run."""

    seeds: list[int] = option(..., "training seeds")
    milestones: list[int] = option(..., "steps", "steps")
    samplers: dict[str, list[int]] = option(..., "samplers, each with the steps that it is evaluated at")


class CollectOptions(Options):
    """What is collected for figures and tables (`config/collect.yaml`): changes with the comparison, not with a figure's look."""

    grid_images: int = option(..., "images of each run in the grid of samples", "images")
    runs: dict[str, CollectedRun] = option(..., "the comparison, a row a run")


class ExperimentConfig(Options):
    """A config file: `config/mini.yaml`, `config/imagenet256.yaml` or one's own."""

    experiment: str = option(..., "name; results lie in `<results>/<experiment>`", pattern=f"^{NAME}$")
    results: str = option("results", "folder of all results")
    seeds: list[int] = option(lambda: [0], "training seeds of every run", min_length=1)
    milestones: list[int] = option(..., "steps at which weights are kept and evaluated; ascending", "steps", min_length=1)
    data: DataOptions = option(DataOptions, "images")
    tokenizer: TokenizerOptions = option(TokenizerOptions, "VAE")
    encoders: dict[str, EncoderOptions] = option(dict, "visual encoders by name")
    critic: CriticOptions = option(CriticOptions, "latent perceptual critic of VRPO")
    sizes: dict[str, AnySize] = option(dict, "model sizes beside S, B, L and XL")
    processes: dict[str, ProcessOptions] = option(..., "processes by name", min_length=1)
    alignments: dict[str, AnyAlignment] = option(..., "alignments by name", min_length=1)
    training: TrainingOptions = option(TrainingOptions, "optimisation, equal for all runs")
    runs: dict[str, RunOptions] = option(..., "the comparison, a row a run", min_length=1)
    checkpoints: dict[str, CheckpointOptions] = option(dict, "weights of the official code by name, a row each beside the runs")
    samplers: dict[str, SamplerOptions] = option(..., "sampling protocols; each serves the runs whose process it belongs to", min_length=1)
    evaluation: EvaluationOptions = option(..., "scores")
    representation: RepresentationOptions | None = option(None, "quality of hidden representations; null: not measured")
    resources: ResourceOptions = option(ResourceOptions, "what jobs ask for")
    report: ReportOptions = option(ReportOptions, "figures and tables")

    @model_validator(mode="after")
    def _consistent(self) -> ExperimentConfig:
        for section in ("encoders", "runs", "checkpoints", "samplers", "alignments", "processes"):
            for name in getattr(self, section):
                if not re.fullmatch(NAME, name):
                    raise ValueError(f"{section}.{name}: names consist of letters, digits, '.', '_' and '-', they become file names")
        if self.training.batch_size % (max(self.resources.gpus, 1) * self.training.accumulation):
            raise ValueError(
                f"training.batch_size: the global batch {self.training.batch_size} is not divisible by resources.gpus "
                f"({self.resources.gpus}) x training.accumulation ({self.training.accumulation}); change one of them"
            )
        for name, alignment in self.alignments.items():
            if isinstance(alignment, AlignmentOptions):
                for encoder in alignment.encoders:
                    _known(f"alignments.{name}.encoders", encoder, self.encoders, "encoders")
            if isinstance(alignment, VRPOOptions):
                self._check_groups(name, alignment)
            if isinstance(alignment, HASTEOptions):
                self._check_attention(name, alignment)
        for name, run in self.runs.items():
            self._check_run(name, run)
        for name, checkpoint in self.checkpoints.items():
            self._check_checkpoint(name, checkpoint)
        self._check_decoders()
        for encoder in (self.representation.encoders or []) if self.representation else []:
            _known("representation.encoders", encoder, self.encoders, "encoders")
        for name, seeds, milestones in [("", self.seeds, self.milestones), *((f"runs.{n}.", r.seeds, r.milestones) for n, r in self.runs.items())]:
            if milestones is not None and (not milestones or list(milestones) != sorted(set(milestones)) or milestones[0] < 1):
                raise ValueError(f"{name}milestones: {milestones} must be positive, ascending and not empty")
            if seeds is not None and (not seeds or len(set(seeds)) != len(seeds)):
                raise ValueError(f"{name}seeds: {seeds} must be different from each other and not empty")
        return self

    def _check_decoders(self) -> None:
        for name, sampler in self.samplers.items():
            if sampler.decoder and self.tokenizer.weights == "trained":
                raise ValueError(
                    f"samplers.{name}.decoder: `{sampler.decoder}` does not decode latents of a trained tokenizer; set `decoder: null` beside the preset"
                )

    def _check_groups(self, name: str, alignment: VRPOOptions) -> None:
        micro_batch = self.training.batch_size // (max(self.resources.gpus, 1) * self.training.accumulation)
        if alignment.group_size > micro_batch or micro_batch % alignment.group_size:
            raise ValueError(
                f"alignments.{name}.group_size: {alignment.group_size} does not divide the {micro_batch} samples that one GPU holds at a time "
                f"(training.batch_size {self.training.batch_size}); choose a divisor of {micro_batch}"
            )

    def _check_attention(self, name: str, alignment: HASTEOptions) -> None:
        for encoder in alignment.encoders:
            cached = self.encoders[encoder].attention
            if len(cached) != len(alignment.attention_blocks):
                raise ValueError(
                    f"alignments.{name}.attention_blocks: {alignment.attention_blocks} are {len(alignment.attention_blocks)} blocks, encoder `{encoder}` "
                    f"caches the attention of {len(cached)}; name as many of its blocks in `encoders.{encoder}.attention`"
                )

    def _check_run(self, name: str, run: RunOptions) -> None:
        _known(f"runs.{name}.process", run.process, self.processes, "processes")
        _known(f"runs.{name}.alignment", run.alignment, self.alignments, "alignments")
        size, _ = split_model(f"runs.{name}.model", run.model, {**PAPER_SIZES, **self.sizes})
        alignment = self.alignments[run.alignment]
        taken = {"depth": getattr(alignment, "depth", 0), "attention_blocks": max(getattr(alignment, "attention_blocks", [0]))}
        for option_name, block in taken.items():
            if block > size.depth:
                raise ValueError(
                    f"runs.{name}: alignment `{run.alignment}` takes block {block}, but {run.model} has {size.depth} blocks; "
                    f"lower `alignments.{run.alignment}.{option_name}`"
                )
        self._check_samplers(f"runs.{name}", name)

    def _check_checkpoint(self, name: str, checkpoint: CheckpointOptions) -> None:
        if name in self.runs:
            raise ValueError(f"checkpoints.{name}: a run has this name; choose another")
        split_model(f"checkpoints.{name}.model", checkpoint.model, {**PAPER_SIZES, **self.sizes})
        self._check_samplers(f"checkpoints.{name}", name)

    def _check_samplers(self, where: str, name: str) -> None:
        if not self.samplers_of(name):
            kind = self.process_of(name)
            raise ValueError(f"{where}: no sampler belongs to its process `{kind}`; add one of {_kinds(kind)} to `samplers`")

    # ---- names of things, in the order of the config -------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where this experiment's results lie."""
        return Path(self.results) / self.experiment

    def seeds_of(self, run: str) -> list[int]:
        """Training seeds of `run`."""
        return self.runs[run].seeds or self.seeds

    def milestones_of(self, run: str) -> list[int]:
        """Milestones of `run`, in steps, ascending."""
        return self.runs[run].milestones or self.milestones

    def process_of(self, name: str) -> str:
        """Kind of the process of a run or of an external checkpoint: `interpolant` or `ddpm`."""
        return CHECKPOINT_PROCESS[self.checkpoints[name].family] if name in self.checkpoints else self.processes[self.runs[name].process].kind

    def samplers_of(self, run: str) -> list[str]:
        """Samplers that belong to the process of `run`, which may be an external checkpoint."""
        kind = self.process_of(run)
        return [name for name, sampler in self.samplers.items() if SAMPLER_PROCESS[sampler.kind] == kind]

    def evaluations(self) -> Iterator[tuple[str, int, int, str]]:
        """All (run, seed, milestone, sampler) that are sampled and scored."""
        for run, row in self.collection().runs.items():
            for seed in row.seeds:
                for sampler, steps in row.samplers.items():
                    for step in steps:
                        yield run, seed, step, sampler

    def represented(self) -> Iterator[tuple[str, int, int]]:
        """The (run, seed, last milestone) whose hidden representations are measured."""
        for run in self.runs if self.representation else ():
            for seed in self.seeds_of(run):
                yield run, seed, self.milestones_of(run)[-1]

    def collection(self) -> CollectOptions:
        """What figures and tables are made of."""
        rows = {}
        for run in self.runs:
            steps = self.milestones_of(run)
            samplers = {name: steps if self.samplers[name].milestones == "all" else steps[-1:] for name in self.samplers_of(run)}
            rows[run] = CollectedRun(seeds=self.seeds_of(run), milestones=steps, samplers=samplers)
        for name, checkpoint in self.checkpoints.items():
            steps = [checkpoint.step]
            rows[name] = CollectedRun(seeds=[checkpoint.seed], milestones=steps, samplers=dict.fromkeys(self.samplers_of(name), steps))
        return CollectOptions(grid_images=self.report.grid_images, runs=rows)

    def shown(self) -> Iterator[tuple[str, int, int, str]]:
        """The (run, seed, milestone, sampler) in the grid of samples: of each run the first seed, the last milestone, the first sampler."""
        for run in self.runs:
            yield run, self.seeds_of(run)[0], self.milestones_of(run)[-1], self.samplers_of(run)[0]

    def model_of(self, name: str) -> ModelOptions:
        """The network of a run or of an external checkpoint."""
        section, row = ("checkpoints", self.checkpoints[name]) if name in self.checkpoints else ("runs", self.runs[name])
        size, patch = split_model(f"{section}.{name}.model", row.model, {**PAPER_SIZES, **self.sizes})
        family = {"interpolant": "SiT", "ddpm": "DiT"}[self.process_of(name)]
        options = CustomModelOptions if isinstance(size, CustomSize) else ModelOptions
        return options(name=f"{family}-{row.model}", **size.model_dump(), patch_size=patch, num_classes=self.data.num_classes)

    def run_config(self, run: str, seed: int) -> RunConfig:
        """Resolve `run` for one seed."""
        row = self.runs[run]
        process, alignment = self.processes[row.process], self.alignments[row.alignment]
        return RunConfig(run=run, seed=seed, model=self.model_of(run), process=process, alignment=alignment, training=self.training)


def split_model(where: str, name: str, sizes: Mapping[str, ModelSize]) -> tuple[ModelSize, int]:
    """`XL/2` -> (size XL, patch 2).

    Raises:
        ValueError: the size is unknown or the patch is not a number.
    """
    match = re.fullmatch(r"(.+)/(\d+)", name)
    if not match:
        raise ValueError(f"{where}: `{name}` is not of the form SIZE/PATCH, e.g. `XL/2`")
    _known(where, match[1], sizes, "sizes")
    return sizes[match[1]], int(match[2])


def load_experiment(*paths: Path | str) -> ExperimentConfig:
    """Read one config file, or several of which later ones override earlier ones key by key.

    Raises:
        UserError: a file is missing or malformed, or an option is unknown, of the wrong type or inconsistent.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = deep_merge(merged, read_yaml(path))
    return parse_experiment(merged, " + ".join(str(path) for path in paths))


def parse_experiment(content: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Check an experiment's options, which came from `where` (files, or what Snakemake merged of files and `--config`).

    Raises:
        UserError: an option is unknown, missing, of the wrong type or inconsistent with another.
    """
    return validate(ExperimentConfig, content, where)


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = deep_merge(merged[key], value) if both else value
    return merged


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: it is missing or is not one.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such config file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config is a mapping of options, this is {type(content).__name__}")
    return content


def _known(where: str, name: str, known: Mapping[str, Any], section: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
        hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known) or 'none'}"
        raise ValueError(f"{where}: `{name}` is not in `{section}`; {hint}")


def _kinds(process: str) -> str:
    return ", ".join(kind for kind, owner in SAMPLER_PROCESS.items() if owner == process)
