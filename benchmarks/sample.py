"""Sampling by the clock: images/s of a network with random weights, and of the VAE's decoder."""

from __future__ import annotations

import importlib.util
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.experiment import latent_shape, random_network, timed_run
from benchmarks.measure import (
    machine,
    machine_text,
    matrix_peak,
    peak_memory,
    seconds_of,
    write_record,
)
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.messages import nearest
from vrpo.config.networks import TokenizerOptions
from vrpo.config.resolved import RunConfig
from vrpo.config.scoring import SamplerOptions
from vrpo.errors import UserError
from vrpo.processes.guidance import Guided
from vrpo.processes.registry import build_process
from vrpo.processes.samplers import check_sampler, sample
from vrpo.report.cost import class_token_of, run_flops
from vrpo.runtime.precision import use_tf32
from vrpo.sampling.decoding import DECODE_BATCH, to_uint8
from vrpo.sampling.draws import ImageDraws
from vrpo.sampling.network import SamplingNetwork

IMAGES = 50_000
REPEATS = 3
STABLE_DIFFUSION = {  # stabilityai/sd-vae-ft-ema, and what else is not trained here
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}


def bench_sample(
    config: ExperimentConfig,
    name: str,
    sampler: str,
    device: torch.device,
    *,
    timed_steps: int,
    decode: bool,
    output: Path | None = None,
) -> dict[str, Any]:
    """Time some steps of a sampler, as they are of all of its steps, and decoding their latents.

    Args:
        config: the experiment.
        name: of one of its runs.
        sampler: name of one of its samplers; `batch_size` holds on a CPU, too.
        device: where.
        timed_steps: of the sampler's.
        decode: whether the VAE's decoder is timed, where diffusers is installed.
        output: JSON file to write, or None.

    Returns:
        The record that `table` shows.

    Raises:
        UserError: there is no such run, or no such sampler for it.
    """
    run, options = timed_run(config, name), timed_sampler(config, name, sampler)
    process, shape = build_process(run.process), latent_shape(config)
    timed = options.model_copy(update={"steps": min(timed_steps, options.steps)})
    check_sampler(process, timed)
    use_tf32(options.precision == "tf32", device)
    network = random_network(config, run).to(device).eval().requires_grad_(False)
    calls = _Counted(SamplingNetwork(network, options.precision, options.compile))
    draws = ImageDraws(options.seed, range(options.batch_size), shape, device)
    labels, guidance = draws.labels(options.labels, config.data.num_classes), options.guidance
    denoiser = Guided(calls, process, labels, guidance.scale, guidance.interval, guidance.channels)

    def steps() -> torch.Tensor:
        return sample(process, timed, denoiser, draws.normal(), draws.normal)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        latents = steps()  # compiles
        calls.calls = calls.rows = 0
        seconds = statistics.median(seconds_of(steps, device, REPEATS))
        decoding = _decoding(config, options, latents, device) if decode else None
    record = {
        "experiment": config.experiment,
        "run": run.run,
        "model": run.model.model_dump(mode="json"),
        "sampler": sampler,
        "settings": options.model_dump(mode="json"),
        "timed_steps": timed.steps,
        "machine": machine(device),
        "seconds_a_call": seconds * REPEATS / calls.calls,
        **_rates(seconds * options.steps / timed.steps / options.batch_size, decoding),
        **_utilisation(config, run, calls.rows / REPEATS / seconds, options.precision, device),
        "peak_memory": peak_memory(device),
        "load_after": os.getloadavg()[0],
    }
    write_record(output, record)
    return record


def timed_sampler(config: ExperimentConfig, run: str, name: str) -> SamplerOptions:
    """One of the samplers of a run.

    Raises:
        UserError: there is none of this name for the run's process, or its steps are not known.
    """
    known = config.samplers_of(run)
    if name not in known:
        raise UserError(
            f"SAMPLER: `{name}` is no sampler of run {run}, whose process is "
            f"`{config.process_of(run)}`; {nearest(name, known)}"
        )
    options = config.samplers[name]
    if options.guidance.rewarded:
        raise UserError(
            f"samplers.{name}.guidance: `{options.guidance.kind}` needs trained projectors, and "
            "weights are random here; time a sampler without it"
        )
    if options.kind == "ode-dopri5":
        raise UserError(
            f"samplers.{name}.kind: `ode-dopri5` chooses its steps, which random weights cannot "
            "tell; time a sampler with fixed steps"
        )
    return options


def table(record: dict[str, Any]) -> str:
    """A record for people."""
    options, image = record["settings"], record["seconds_an_image"]
    compiled = "compiled" if options["compile"] else "eager"
    decoding = "not timed" if image["decoding"] is None else f"{1e3 * image['decoding']:.1f} ms"
    peak = f"{record['matrix_peak_tflops']:.2f} TFLOP/s"
    rows = [
        f"{record['experiment']}, {record['run']} ({record['model']['name']}), "
        f"{record['sampler']} ({options['kind']}), {options['steps']} steps "
        f"({record['timed_steps']} of them timed), batch {options['batch_size']}, "
        f"guidance {options['guidance']['scale']:g}, {options['precision']}, {compiled}; "
        f"{machine_text(record)}",
        f"  images/s                   {record['images_per_second']:12.3f}",
        f"  a call of the network      {1e3 * record['seconds_a_call']:12.2f} ms",
        f"  an image: network          {1e3 * image['network']:12.1f} ms",
        f"  an image: VAE decoder      {decoding:>15}",
        f"  {IMAGES:,} images              {record['hours_for_50000']:12.2f} hours",
        f"  share of the matrix peak   {record['utilisation']:12.1%} of {peak}",
        f"  peak memory                {record['peak_memory'] / 1e9:12.1f} GB",
    ]
    return "\n".join(rows)


def _rates(network: float, decoding: float | None) -> dict[str, Any]:
    """Rates that follow from the seconds of an image."""
    seconds = network + (decoding or 0.0)
    return {
        "seconds_an_image": {"network": network, "decoding": decoding},
        "images_per_second": 1 / seconds,
        "hours_for_50000": IMAGES * seconds / 3600,
    }


def _utilisation(
    config: ExperimentConfig, run: RunConfig, rate: float, precision: str, device: torch.device
) -> dict[str, float]:
    """Share of the matrix peak that forward passes of `rate` images/s take."""
    channels, side, _ = latent_shape(config)
    peak, class_token = matrix_peak(precision, device), class_token_of(run.alignment, config)
    return {
        "matrix_peak_tflops": peak / 1e12,
        "utilisation": run_flops(run, side, channels, class_token) * rate / peak,
    }


def _decoding(
    config: ExperimentConfig, options: SamplerOptions, latents: torch.Tensor, device: torch.device
) -> float | None:
    """Seconds that the decoder takes for an image; None where diffusers is missing."""
    if importlib.util.find_spec("diffusers") is None:
        return None
    from vrpo.models.tokenizer import Tokenizer, build_vae

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae: nn.Module = build_vae(_vae_arguments(config.tokenizer, config.data.resolution))
        decoder = Tokenizer(vae.eval(), config.tokenizer.scale or 1.0).to(device)
    few = latents[:DECODE_BATCH]

    def decode() -> torch.Tensor:
        return to_uint8(decoder.decode(few), options.rounding).cpu()

    decode()
    return statistics.median(seconds_of(decode, device, REPEATS)) / len(few)


def _vae_arguments(tokenizer: TokenizerOptions, resolution: int) -> dict[str, Any]:
    from vrpo.models.tokenizer import vae_arguments

    if tokenizer.weights == "trained":
        return vae_arguments(tokenizer, resolution)
    return {**STABLE_DIFFUSION, "latent_channels": tokenizer.latent_channels}


class _Counted:
    """A network that counts its calls, and the images in them."""

    def __init__(self, network: SamplingNetwork) -> None:
        self.network, self.null_label = network, network.null_label
        self.calls = self.rows = 0

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        self.calls += 1
        self.rows += len(x)
        return self.network(x, t, labels)
