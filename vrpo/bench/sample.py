"""Sampling by the clock: images/s of a network with random weights, and of the VAE's decoder."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vrpo.bench.measure import machine, matrix_peak, peak_memory, seconds_of
from vrpo.bench.paper import CLASSES, LATENT, PaperModel
from vrpo.config.scoring import SamplerOptions
from vrpo.files import write_text
from vrpo.models.attention import choose_attention
from vrpo.processes.guidance import Guided
from vrpo.processes.samplers import check_sampler, sample
from vrpo.sampling.generate import DECODE_BATCH, ImageDraws, to_uint8
from vrpo.sampling.network import SamplingNetwork

IMAGES = 50_000
REPEATS = 3
DECODER = {  # of stabilityai/sd-vae-ft-ema
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": LATENT[0],
}


@dataclass(frozen=True)
class SampleSettings:
    """How images are sampled."""

    sampler: str = "sde"
    steps: int = 250
    timed_steps: int = 20
    batch_size: int = 128
    guidance: float = 1.0
    precision: str = "bf16"
    compile: bool = True
    attention: str = "auto"
    decode: bool = True


def bench_sample(
    model: PaperModel, settings: SampleSettings, device: torch.device, output: Path | None = None
) -> dict[str, Any]:
    """Time `timed_steps` steps of the sampler, as they are of `steps`, and the decoding of their latents.

    Args:
        model: the network.
        settings: of the sampling.
        device: where.
        output: JSON file to write, or None.

    Returns:
        The record that `table` shows; `vae` is None where diffusers is not installed.

    Raises:
        UserError: the sampler does not belong to the model's process.
    """
    process, network = (
        model.build_process(),
        model.build_network().to(device).eval().requires_grad_(False),
    )
    options = SamplerOptions(kind=settings.sampler, steps=settings.timed_steps)
    check_sampler(process, options)
    batch = settings.batch_size * (2 if settings.guidance != 1 else 1)
    heads, width = model.options.heads, model.options.width
    kind = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    attention = choose_attention(
        settings.attention,
        (batch, heads, network.grid**2, width // heads),
        kind,
        device,
        backward=False,
    )
    calls = _Counted(SamplingNetwork(network, settings.precision, settings.compile))
    draws = ImageDraws(0, range(settings.batch_size), LATENT, device)
    denoiser = Guided(calls, process, draws.labels("balanced", CLASSES), settings.guidance)

    def steps() -> torch.Tensor:
        return sample(process, options, denoiser, draws.normal(), draws.normal)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        latents = steps()  # compiles
        calls.count = 0
        seconds = statistics.median(seconds_of(steps, device, REPEATS))
        evaluations = calls.count / REPEATS
        decoding = _decoding(settings, latents, device)
    whole = seconds * settings.steps / settings.timed_steps / settings.batch_size
    image = whole + (decoding or 0.0)
    flops = model.flops("none")["network"] / 3 * batch / settings.batch_size
    peak = matrix_peak(settings.precision, device)
    record = {
        "model": model.name,
        "settings": vars(settings),
        "attention": attention,
        "machine": machine(device),
        "seconds_a_call": seconds / evaluations,
        "seconds_an_image": {"network": whole, "decoding": decoding},
        "images_per_second": 1 / image,
        "hours_for_50000": IMAGES * image / 3600,
        "matrix_peak_tflops": peak / 1e12,
        "utilisation": flops * evaluations * settings.batch_size / seconds / peak,
        "peak_memory": peak_memory(device),
        "load_after": os.getloadavg()[0],
    }
    if output is not None:
        write_text(output, json.dumps(record, indent=2) + "\n")
    return record


def table(record: dict[str, Any]) -> str:
    """A record for people."""
    settings, image = record["settings"], record["seconds_an_image"]
    where = f"{record['machine']['device']}, {record['machine']['threads']} threads, torch {record['machine']['torch']}"
    compiled = "compiled" if settings["compile"] else "eager"
    decoding = "not timed" if image["decoding"] is None else f"{1e3 * image['decoding']:.1f} ms"
    rows = [
        f"{record['model']}, {settings['sampler']}, {settings['steps']} steps ({settings['timed_steps']} of them timed), batch {settings['batch_size']}, "
        f"guidance {settings['guidance']:g}, {settings['precision']}, {compiled}, attention {record['attention']}; {where}",
        f"  images/s                   {record['images_per_second']:12.3f}",
        f"  a call of the network      {1e3 * record['seconds_a_call']:12.2f} ms",
        f"  an image: network          {1e3 * image['network']:12.1f} ms",
        f"  an image: VAE decoder      {decoding:>15}",
        f"  {IMAGES:,} images              {record['hours_for_50000']:12.2f} hours",
        f"  share of the matrix peak   {record['utilisation']:12.1%} of {record['matrix_peak_tflops']:.2f} TFLOP/s",
        f"  peak memory                {record['peak_memory'] / 1e9:12.1f} GB",
    ]
    return "\n".join(rows)


def _decoding(
    settings: SampleSettings, latents: torch.Tensor, device: torch.device
) -> float | None:
    """Seconds that the decoder takes for an image; None where it is not asked for or diffusers is missing."""
    if not settings.decode or importlib.util.find_spec("diffusers") is None:
        return None
    from diffusers import AutoencoderKL

    from vrpo.models.tokenizer import Tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = Tokenizer(AutoencoderKL(**DECODER).eval(), 0.18215).to(device)
    few = latents[:DECODE_BATCH]

    def decode() -> torch.Tensor:
        return to_uint8(tokenizer.decode(few), "truncate").cpu()

    decode()
    return statistics.median(seconds_of(decode, device, REPEATS)) / len(few)


class _Counted:
    """A network that counts its calls."""

    def __init__(self, network: SamplingNetwork) -> None:
        self.network, self.null_label, self.count = network, network.null_label, 0

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        self.count += 1
        return self.network(*arguments)
