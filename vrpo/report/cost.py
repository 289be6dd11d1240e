"""Cost of an experiment in GPU hours and disk, from the FLOPs of its networks and the bytes of its files.

What is counted as a FLOP stands in vrpo/models/flops.py; a backward pass takes twice its forward pass.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from vrpo.config.experiment import ExperimentConfig
from vrpo.config.networks import EncoderOptions
from vrpo.config.resolved import ModelOptions, RunConfig
from vrpo.config.scoring import SamplerOptions
from vrpo.errors import UserError
from vrpo.models.flops import projector_flops, transformer_flops, vit_flops
from vrpo.plan.jobs import evaluations
from vrpo.plan.paths import Paths

IMAGENET_IMAGES, IMAGENET_CLASSES = 1_281_167, 1_000
DIGITS = 1_797
ENCODE_FLOPS = (
    272.7e9 / 256**2
)  # per pixel: Stable Diffusion's VAE encoder and decoder, counted by torch.utils.flop_counter at 256x256
DECODE_FLOPS = 622.2e9 / 256**2
INCEPTION_FLOPS = 11.4e9  # per image, at 299x299
VIT_SIZES = {
    "small": (12, 384),
    "base": (12, 768),
    "large": (24, 1024),
    "giant": (40, 1536),
}  # depth, width of timm's ViTs
KEPT_STATES = 2  # the trainer keeps the last two resume states


@dataclass(frozen=True)
class Machine:
    """The GPU that hours are computed for."""

    name: str = "H200"
    peak: float = 790e12  # FLOP/s of dense bf16 matrix products, as measured
    training: float = 0.45  # share of the peak that a training step reaches
    inference: float = 0.35  # the same for encoding, sampling and decoding
    fp32: float = (
        20e12  # FLOP/s that evaluation reaches: TF32 is off, the data sheet's peak is 67e12
    )


@dataclass(frozen=True)
class Cost:
    """One row: what, how many FLOPs, how many hours, how many bytes."""

    what: str
    flops: float
    hours: float
    bytes: float


def latent_side(config: ExperimentConfig) -> int:
    """Side of the latent: the VAE halves the image at all levels but the last (Stable Diffusion's has four)."""
    levels = len(config.tokenizer.block_channels) if config.tokenizer.weights == "trained" else 4
    return config.data.resolution // 2 ** (levels - 1)


def encoder_tokens(encoder: EncoderOptions) -> tuple[int, int, int]:
    """Tokens, width and depth of a ViT, from its arguments or else from its timm name.

    Raises:
        UserError: the name does not tell them.
    """
    arguments = encoder.arguments
    patch = arguments.get("patch_size") or _number(r"patch(\d+)", encoder.architecture)
    depth, width = next(
        (size for name, size in VIT_SIZES.items() if f"_{name}_" in encoder.architecture),
        (None, None),
    )
    depth, width = arguments.get("depth", depth), arguments.get("embed_dim", width)
    if not (patch and depth and width):
        raise UserError(
            f"encoder `{encoder.architecture}`: its cost is not known; give `patch_size`, `depth` and `embed_dim` as its `arguments`"
        )
    return (encoder.image_size // patch) ** 2, width, depth


def run_flops(run: RunConfig, side: int, channels: int) -> float:
    """One forward pass of a run's SiT or DiT on one latent [channels, side, side]."""
    return network_flops(run.model, run.process.kind, side, channels)


def network_flops(model: ModelOptions, process: str, side: int, channels: int) -> float:
    """As `run_flops`, of a network without a run."""
    size = {"depth": model.depth, "width": model.width, "patch_size": model.patch_size}
    return transformer_flops(
        **size,
        side=side,
        channels=channels,
        out_channels=2 * channels if process == "ddpm" else channels,
    )


def projectors_flops(run: RunConfig, tokens: int, widths: list[int]) -> float:
    """One forward pass of the alignment's projectors, one for each encoder."""
    alignment, width = run.alignment, run.model.width
    if alignment.convolution is not None:
        kernel = alignment.convolution.kernel_size**2
        return sum(2 * tokens * width * width_out * kernel for width_out in widths)
    size = {"tokens": tokens, "width_in": width}
    return sum(
        projector_flops(**size, width_hidden=alignment.projector_width, width_out=width_out)
        for width_out in widths
    )


def training_flops(run: RunConfig, config: ExperimentConfig) -> float:
    """Forward and backward pass for one training image, projector included; the latent critic's few convolutions are not."""
    side = latent_side(config)
    widths = [encoder_tokens(config.encoders[name])[1] for name in run.alignment.encoders]
    tokens = (side // run.model.patch_size) ** 2
    return 3 * (
        run_flops(run, side, config.tokenizer.latent_channels)
        + projectors_flops(run, tokens, widths)
    )


def parameters(run: RunConfig, side: int, channels: int) -> int:
    """Parameters of the transformer, without projector."""
    width, patch = run.model.width, run.model.patch_size**2 * channels
    out = 2 * patch if run.process.kind == "ddpm" else patch
    block = 4 * width**2 + 4 * width + 8 * width**2 + 5 * width + 6 * width**2 + 6 * width
    ends = (
        (patch + 1) * width
        + (256 + 1) * width
        + (width + 1) * width
        + (run.model.num_classes + 1) * width
        + 2 * width * (width + 1)
        + (width + 1) * out
    )
    return run.model.depth * block + ends


def network_evaluations(sampler: SamplerOptions) -> float:
    """Evaluations of the network for one image; guidance doubles those inside its interval."""
    evaluations = sampler.steps * (2 if sampler.kind == "ode-heun" else 1)
    if sampler.guidance.scale == 1:
        return evaluations
    low, high = sampler.guidance.interval
    first, last = (
        (0.04, 1.0) if sampler.kind == "sde" else (0.0, 1.0)
    )  # noise levels that the sampler visits, evenly
    guided = max(0.0, min(high, last) - max(low, first)) / (last - first)
    return evaluations * (1 + guided)


def image_count(config: ExperimentConfig) -> int:
    """Training images: as counted by the stage `manifest`, or, before it, the digits' or ImageNet's, if there are 1,000 classes.

    Raises:
        UserError: their number is not known.
    """
    manifest = Paths.of(config).manifest
    if config.data.source == "digits":
        return DIGITS
    if manifest.is_file():
        try:
            return int(json.loads(manifest.read_text(encoding="utf-8"))["count"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{manifest}: is damaged ({error}); delete it and make it again"
            ) from error
    if config.data.num_classes != IMAGENET_CLASSES:
        raise UserError(
            f"{config.data.root}: how many images it holds is not known before the stage `manifest`; give --images NUMBER"
        )
    return IMAGENET_IMAGES


def costs(
    config: ExperimentConfig, machine: Machine | None = None, images: int | None = None
) -> list[Cost]:
    """Rows of the experiment's cost, for a data set of `images` (None: `image_count`)."""
    machine = machine or Machine()
    count = images or image_count(config)
    side, channels, pixels = (
        latent_side(config),
        config.tokenizer.latent_channels,
        config.data.resolution**2,
    )
    rows = [_row("images", 0.0, 3 * pixels * count, machine.inference, machine)]
    latent_bytes = 2 * channels * side**2 * (2 if config.tokenizer.storage == "float16" else 4)
    rows.append(
        _row(
            "latents",
            ENCODE_FLOPS * pixels * count,
            latent_bytes * count,
            machine.inference,
            machine,
        )
    )
    for name, encoder in config.encoders.items():
        tokens, width, depth = encoder_tokens(encoder)
        token_bytes = 2 * width if encoder.storage == "float16" else width + 2
        stored = (
            0
            if encoder.features == "online"
            else tokens * token_bytes * (1 + 2 * len(encoder.attention))
        )  # queries and keys are as wide as tokens
        rows.append(
            _row(
                f"features of {name}",
                vit_flops(tokens, width, depth) * count,
                stored * count,
                machine.inference,
                machine,
            )
        )
    groups: dict[str, list[tuple[str, int]]] = {}
    for run in config.runs:
        for seed in config.seeds_of(run):
            groups.setdefault(config.run_config(run, seed).model.name, []).append((run, seed))
    for model, runs in groups.items():
        resolved = [config.run_config(run, seed) for run, seed in runs]
        flops = sum(
            training_flops(run, config)
            * run.training.batch_size
            * config.milestones_of(run.run)[-1]
            for run in resolved
        )
        kept = sum(
            4
            * parameters(run, side, channels)
            * (len(config.milestones_of(run.run)) + 4 * KEPT_STATES)
            for run in resolved
        )
        rows.append(
            _row(f"training {model}, {len(runs)} runs", flops, kept, machine.training, machine)
        )
    sampling, sampled, evaluated = 0.0, 0, 0.0
    for run, _, _, name in evaluations(config):
        sampler = config.samplers[name]
        one = network_flops(config.model_of(run), config.process_of(run), side, channels)
        sampling += sampler.images * (network_evaluations(sampler) * one + DECODE_FLOPS * pixels)
        sampled += sampler.images * 3 * pixels
        evaluated += sampler.images * INCEPTION_FLOPS
    rows.append(
        _row(
            f"sampling, {sum(1 for _ in evaluations(config))} sets",
            sampling,
            sampled,
            machine.inference,
            machine,
        )
    )
    rows.append(
        _row(
            "evaluation",
            evaluated + count * INCEPTION_FLOPS,
            0,
            machine.fp32 / machine.peak,
            machine,
        )
    )
    return [
        *rows,
        Cost(
            "in all",
            *(sum(getattr(row, key) for row in rows) for key in ("flops", "hours", "bytes")),
        ),
    ]


def describe_cost(
    config: ExperimentConfig, machine: Machine | None = None, images: int | None = None
) -> str:
    """A Markdown table of `costs`, with the assumptions below it."""
    machine = machine or Machine()
    lines = ["| stage | EFLOP | GPU hours | disk, GB |", "|---|---:|---:|---:|"]
    lines += [
        f"| {row.what} | {_text(row.flops / 1e18)} | {_text(row.hours)} | {_text(row.bytes / 1e9)} |"
        for row in costs(config, machine, images)
    ]
    assumed = (
        f"GPU hours on one {machine.name} at {machine.peak / 1e12:.0f} TFLOP/s (dense bf16), of which training is assumed to reach {machine.training:.0%} "
        f"and encoding and sampling {machine.inference:.0%}; evaluation in fp32 at {machine.fp32 / 1e12:.0f} TFLOP/s. "
        f"{images or image_count(config):,} training images. Disk with the weights of every milestone and {KEPT_STATES} resume states of each run."
    )
    return "\n".join([*lines, "", assumed])


def _row(what: str, flops: float, n_bytes: float, utilisation: float, machine: Machine) -> Cost:
    return Cost(what, flops, flops / (machine.peak * utilisation) / 3600, n_bytes)


def _number(pattern: str, text: str) -> int | None:
    match = re.search(pattern, text)
    return int(match[1]) if match else None


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
