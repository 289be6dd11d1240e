"""Checks before the first long stage: Snakemake, data, weights, disk, locks, GPUs, compiler."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.networks import SpaceOptions
from vrpo.errors import UserError
from vrpo.files import FileLock, existing_folder, file_system
from vrpo.plan.paths import Paths
from vrpo.workflow.class_checks import class_checks

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


class Finding(NamedTuple):
    """One row of the table."""

    what: str
    found: str
    """Its state; if something is missing, how to fix it."""
    is_missing: bool = False


Check = tuple[str, Callable[[], str]]
"""Name of a check, and a function that returns the state or raises a `UserError`."""


def forbid_downloads() -> None:
    """Let the clients of weight hubs read only their caches; call it before importing them."""
    os.environ.update(dict.fromkeys(OFFLINE, "1"))


def findings(checks: Iterator[Check]) -> list[Finding]:
    """The results of `checks`, in order."""
    found = []
    for what, check in checks:
        try:
            found.append(Finding(what, check()))
        except UserError as error:
            found.append(Finding(what, str(error), is_missing=True))
    return found


def table(rows: list[Finding]) -> str:
    """The findings as aligned lines: ok or missing, what, and what was found or how to fix it."""
    width = max(len(row.what) for row in rows)
    return "\n".join(
        f"{'missing' if row.is_missing else 'ok':7}  {row.what:{width}}  {row.found}"
        for row in rows
    )


def all_checks(config: ExperimentConfig, *, fetch: bool) -> Iterator[Check]:
    """All checks of an experiment; `fetch` allows downloads of weights named by a hub's name."""
    yield "Snakemake", _snakemake
    yield "images", partial(_images, config)
    yield from weight_checks(config, fetch=fetch)
    yield from class_checks(config)
    yield "disk", partial(_disk, config)
    yield "file locks", partial(_locks, config)
    yield "GPUs", partial(_gpus, config)
    if config.training.compile or any(sampler.compile for sampler in config.samplers.values()):
        yield "compiler", partial(_compiler, config)


def weight_checks(config: ExperimentConfig, *, fetch: bool) -> Iterator[Check]:
    """Load each network whose weights are not trained here; require each imported checkpoint."""
    yield from _tokenizer_checks(config)
    for name, encoder in config.encoders.items():
        if encoder.weights != "trained":
            yield f"encoder {name}", partial(_encoder, encoder)
    if config.evaluation.network == "inception":
        yield "Inception", partial(_inception, config, fetch)
    elif config.evaluation.trained.weights != "trained":
        yield "evaluation network", partial(_encoder, config.evaluation.trained)
    for name, network in config.evaluation.extra_networks.items():
        if network.weights != "trained":
            yield f"evaluation network {name}", partial(_space, name, network)
    for name, checkpoint in config.checkpoints.items():
        option = f"checkpoints.{name}.file"
        yield f"checkpoint {name}", partial(_file, option, Path(checkpoint.file))


def _tokenizer_checks(config: ExperimentConfig) -> Iterator[Check]:
    """The tokenizer and the decoders of samplers, each file once."""
    tokenizers = {"tokenizer": config.tokenizer}
    for name, sampler in config.samplers.items():
        if sampler.decoder:
            weights = {"weights": sampler.decoder, "subfolder": None}
            tokenizers[f"decoder of {name}"] = config.tokenizer.model_copy(update=weights)
    loaded = set()
    for what, options in tokenizers.items():
        if options.weights != "trained" and options.weights not in loaded:
            loaded.add(options.weights)
            yield f"{what} {options.weights}", partial(_tokenizer, options)
    if config.tokenizer.encoded:
        yield "encoded latents", partial(_encoded, config.tokenizer.encoded)


def _snakemake() -> str:
    try:
        return metadata.version("snakemake")
    except metadata.PackageNotFoundError:
        if place := shutil.which("snakemake"):  # in an environment of its own
            return place
        raise UserError(
            "snakemake: is not installed, and runs the workflow; "
            "install it with `pip install '.[workflow]'` in the checkout"
        ) from None


def _images(config: ExperimentConfig) -> str:
    from vrpo.data.sources import open_source

    if config.data.root and not Path(config.data.root).exists():
        raise UserError(
            f"data.root: {config.data.root} does not exist; "
            "put the images there, or set it to their place"
        )
    source = open_source(config.data)
    return f"{len(source):,} images of {len(source.classes):,} classes"


def _tokenizer(options: object) -> str:
    from vrpo.models.tokenizer import load_tokenizer

    return f"SHA-256 {load_tokenizer(options, None, 'cpu').sha256[:12]}"


def _encoded(folder: str) -> str:
    from vrpo.prepare.ready_latents import ReadyLatents

    return f"{len(ReadyLatents(folder).labels):,} latents"


def _space(name: str, options: SpaceOptions) -> str:
    from vrpo.metrics.networks.pretrained import PretrainedNetwork

    network = PretrainedNetwork(name, options, "cpu")
    return f"{options.architecture}, SHA-256 {network.sha256[:12]}"


def _encoder(options: object) -> str:
    from vrpo.models.encoder import load_encoder

    return f"{options.architecture}, SHA-256 {load_encoder(options, None, 'cpu').sha256[:12]}"


def _inception(config: ExperimentConfig, fetch: bool) -> str:
    from vrpo.metrics.networks.inception import InceptionNetwork, find_weights

    given = config.evaluation.inception_weights
    weights = find_weights(Path(given) if given else None, fetch)
    return f"SHA-256 {InceptionNetwork(weights, 'cpu').sha256[:12]}"


def _file(option: str, path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{option}: {path} does not exist; put the file there, or name its place")
    return f"{path.stat().st_size / 1e9:.2f} GB"


def _disk(config: ExperimentConfig) -> str:
    from vrpo.report.cost import costs

    try:
        needed = costs(config)[-1].bytes
    except UserError as error:
        return f"what it takes is not known ({error})"
    results = Paths.of(config).folder
    folder = existing_folder(results)
    there = sum(path.stat().st_size for path in results.rglob("*") if path.is_file())
    free, left = shutil.disk_usage(folder).free, max(0.0, needed - there)
    if free < left:
        raise UserError(
            f"results: {left / 1e9:,.1f} GB are still to be written, "
            f"{folder} has {free / 1e9:,.1f} GB free; free space or set it to another disk"
        )
    return f"{free / 1e9:,.1f} GB free, {left / 1e9:,.1f} GB still to be written"


def _locks(config: ExperimentConfig) -> str:
    folder = existing_folder(Paths.of(config).folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".vrpo-check-", dir=folder) as place:
            lock = FileLock(Path(place) / "lock")
            by_name = lock.path.with_name(f"{lock.path.name}.held").exists()
            lock.release()
    except OSError as error:
        raise UserError(
            f"results: {folder} cannot be written ({error.strerror}); "
            "make it writable, or set it to another folder"
        ) from error
    kind = file_system(folder)[1]
    if by_name:
        return f"{kind} has none; files beside the results say who writes them"
    return f"work on {kind}"


def _gpus(config: ExperimentConfig) -> str:
    from vrpo.runtime.gpus import visible_gpus
    from vrpo.runtime.launch import require_gpus

    device, offered = config.resources.device, visible_gpus()
    here = f"{len(offered.devices)} here" if offered.devices else f"none here ({offered.reason})"
    if device == "cpu":
        return f"{here}; the config asks for the CPU"
    if shutil.which("sbatch"):
        return f"{here}; jobs ask SLURM for theirs"
    if device == "cuda":
        require_gpus(1)
    if offered.devices:
        _require_precisions(config)
    return here if offered.devices else f"{here}; everything is computed on the CPU"


def _require_precisions(config: ExperimentConfig) -> None:
    from vrpo.runtime.distributed import choose_device
    from vrpo.runtime.precision import require_precision

    device = choose_device(config.resources.device)
    require_precision(config.training.precision, device, "training.precision")
    for name, sampler in config.samplers.items():
        require_precision(sampler.precision, device, f"samplers.{name}.precision")


def _compiler(config: ExperimentConfig) -> str:
    from vrpo.runtime.compiler import require_compiler
    from vrpo.runtime.distributed import choose_device
    from vrpo.runtime.gpus import visible_gpus

    if not visible_gpus().devices and shutil.which("sbatch"):
        return (
            "not checked, as the jobs' GPUs are on other machines; "
            "the first job that compiles checks it"
        )
    device = choose_device(config.resources.device)
    require_compiler(device, "training.compile, samplers.<name>.compile")
    return "torch.compile works"
