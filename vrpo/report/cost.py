"""Cost of an experiment: GPU hours from the FLOPs of its networks, disk from its files.

vrpo/models/flops.py defines a FLOP; a backward pass takes twice its forward pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from vrpo.config.alignments import AnyAlignment
from vrpo.config.experiment import ExperimentConfig
from vrpo.config.geometry import encoder_patch, latent_side
from vrpo.config.networks import EncoderOptions
from vrpo.config.resolved import ModelOptions, RunConfig
from vrpo.config.scoring import SamplerOptions
from vrpo.config.training import KEPT_STATES
from vrpo.errors import UserError
from vrpo.models.flops import critic_flops, projector_flops, transformer_flops, vit_flops
from vrpo.plan.jobs import evaluations, trainings
from vrpo.plan.paths import Paths
from vrpo.report.evaluations import network_evaluations, reward_passes

IMAGENET_IMAGES, IMAGENET_CLASSES = 1_281_167, 1_000
DIGITS = 1_797
# Per pixel: Stable Diffusion's VAE at 256x256, counted by torch.utils.flop_counter.
ENCODE_FLOPS, DECODE_FLOPS = 272.7e9 / 256**2, 622.2e9 / 256**2
INCEPTION_FLOPS = 11.4e9  # per image, at 299x299
VIT_SIZES = {  # depth, width of timm's ViTs, by a part of the name
    "tiny": (12, 192),
    "small": (12, 384),
    "base": (12, 768),
    "large": (24, 1024),
    "huge": (32, 1280),
    "so400m": (27, 1152),
    "giant": (40, 1408),
    "gigantic": (48, 1664),
}
DINOV2_GIANT = 40, 1536


@dataclass(frozen=True)
class Machine:
    """The GPU that hours are computed for."""

    name: str = "H200"
    peak: float = 790e12  # FLOP/s of dense bf16 matrix products, as measured
    training: float = 0.45  # share of the peak that a training step reaches
    inference: float = 0.35  # the same for encoding, sampling and decoding
    fp32: float = 20e12  # FLOP/s of evaluation, without TF32; the data sheet's peak is 67e12


@dataclass(frozen=True)
class Cost:
    """One row: what, how many FLOPs, how many hours, how many bytes."""

    what: str
    flops: float
    hours: float
    bytes: float


def encoder_tokens(encoder: EncoderOptions) -> tuple[int, int, int]:
    """Tokens, width and depth of a ViT, from its arguments or else from its timm name.

    Raises:
        UserError: the name does not tell them.
    """
    arguments = encoder.arguments
    patch = encoder_patch(encoder)
    words = encoder.architecture.split(".")[0].split("_")
    if {"aimv2", "pe"} & set(words):  # their sizes have the same names and other numbers
        words = []
    depth, width = next((VIT_SIZES[word] for word in words if word in VIT_SIZES), (None, None))
    if {"giant", "dinov2"} <= set(words):
        depth, width = DINOV2_GIANT
    depth, width = arguments.get("depth", depth), arguments.get("embed_dim", width)
    if not (patch and depth and width):
        raise UserError(
            f"encoder `{encoder.architecture}`: its cost is not known; "
            "give `patch_size`, `depth` and `embed_dim` as its `arguments`"
        )
    return (encoder.image_size // patch) ** 2, width, depth


def run_flops(run: RunConfig, side: int, channels: int, class_token: int = 0) -> float:
    """One forward pass of a run's SiT or DiT on one latent [channels, side, side].

    With `class_token` of `class_token_of`.
    """
    return network_flops(run.model, run.process.kind, side, channels, class_token)


def class_token_of(alignment: AnyAlignment, config: ExperimentConfig) -> int:
    """Channels of the class token that the network denoises; 0: none."""
    if not alignment.needs_class_token:
        return 0
    return encoder_tokens(config.encoders[alignment.encoders[0]])[1]


def network_flops(
    model: ModelOptions, process: str, side: int, channels: int, class_token: int = 0
) -> float:
    """As `run_flops`, of a network without a run."""
    size = {"depth": model.depth, "width": model.width, "patch_size": model.patch_size}
    out_channels = 2 * channels if process == "ddpm" else channels
    ends = {"channels": channels, "out_channels": out_channels, "class_token": class_token}
    return transformer_flops(**size, side=side, **ends)


def projectors_flops(run: RunConfig, tokens: int, widths: list[int]) -> float:
    """One forward pass of the alignment's projectors, one for each encoder, or SRA's."""
    alignment, width = run.alignment, run.model.width
    if alignment.cleaner_target is not None:
        return 8 * tokens * width**2  # W x 2 W and 2 W x W
    if alignment.convolution is not None:
        kernel = alignment.convolution.kernel_size**2
        return sum(2 * tokens * width * width_out * kernel for width_out in widths)
    size = {"tokens": tokens, "width_in": width}
    return sum(
        projector_flops(**size, width_hidden=alignment.projector_width, width_out=width_out)
        for width_out in widths
    )


def training_flops(run: RunConfig, config: ExperimentConfig) -> dict[str, float]:
    """Forward and backward pass for one training image: network, projector and critic.

    A critic runs twice forward and once backward to its input. An averaged network that gives
    targets runs once forward, up to its block; it is part of the network.
    """
    side, channels = latent_side(config), config.tokenizer.latent_channels
    tokens = [encoder_tokens(config.encoders[name])[:2] for name in run.alignment.encoders]
    grid, widths = (side // run.model.patch_size) ** 2, [width for _, width in tokens]
    shape = channels, side, side
    size = {"width": config.critic.width, "depth": config.critic.depth}
    critics = [critic_flops(latent_shape=shape, tokens=each, **size) for each in tokens]
    class_token = class_token_of(run.alignment, config)
    grid += class_token > 0
    target = run.alignment.cleaner_target
    forward = run_flops(run, side, channels, class_token)
    averaged = forward * target.depth / run.model.depth if target is not None else 0.0
    return {
        "network": 3 * forward + averaged,
        "projector": 3 * projectors_flops(run, grid, widths),
        "critic": 3 * sum(critics) if run.alignment.needs_critic else 0.0,
    }


def parameters(run: RunConfig, side: int, channels: int, class_token: int = 0) -> int:
    """Parameters of the transformer, without projector; `class_token` of `class_token_of`."""
    width, patch = run.model.width, run.model.patch_size**2 * channels
    out = 2 * patch if run.process.kind == "ddpm" else patch
    attention, mlp = 4 * width**2 + 4 * width, 8 * width**2 + 5 * width
    block = attention + mlp + 6 * width**2 + 6 * width  # with modulation
    time = (256 + 1) * width + (width + 1) * width
    embeddings = (patch + 1) * width + time + (run.model.num_classes + 1) * width
    token = (class_token + 3) * width + (width + 1) * class_token if class_token else 0
    ends = embeddings + 2 * width * (width + 1) + (width + 1) * out + token
    return run.model.depth * block + ends


def sampling_flops(config: ExperimentConfig, run: str, sampler: SamplerOptions) -> float:
    """FLOPs of the network, and of the reward that guides it, for one sampled image."""
    side, channels = latent_side(config), config.tokenizer.latent_channels
    model = config.model_of(run)
    class_token = 0
    if run in config.runs:
        class_token = class_token_of(config.alignments[config.runs[run].alignment], config)
    one = network_flops(model, config.process_of(run), side, channels, class_token)
    flops, passes = network_evaluations(sampler) * one, reward_passes(sampler)
    if not passes:
        return flops
    resolved = config.run_config(run, config.seeds_of(run)[0])
    widths = [encoder_tokens(config.encoders[name])[1] for name in resolved.alignment.encoders]
    projector = projectors_flops(resolved, (side // model.patch_size) ** 2, widths)
    forward = projector if hasattr(sampler.guidance, "scale") else 0.0  # the network's is counted
    return flops + passes * (one * resolved.alignment.depth / model.depth + projector + forward)


def image_count(config: ExperimentConfig) -> int:
    """Training images, as counted by the stage `manifest`.

    Before that stage, the digits' number, or ImageNet's if there are 1,000 classes.

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
            fault = f"is damaged ({error})"
            raise UserError(f"{manifest}: {fault}; delete it and rebuild it") from error
    if config.data.num_classes != IMAGENET_CLASSES:
        raise UserError(
            f"{config.data.root}: how many images it holds is not known before the stage "
            "`manifest`; give --images NUMBER"
        )
    return IMAGENET_IMAGES


def costs(
    config: ExperimentConfig, machine: Machine | None = None, images: int | None = None
) -> list[Cost]:
    """Rows of the experiment's cost, for a data set of `images` (None: `image_count`)."""
    machine = machine or Machine()
    count = images or image_count(config)
    rows = [
        *_preparation(config, machine, count),
        *_trainings(config, machine),
        *_scores(config, machine, count),
    ]
    totals = {key: sum(getattr(row, key) for row in rows) for key in ("flops", "hours", "bytes")}
    return [*rows, Cost("in all", **totals)]


def _preparation(config: ExperimentConfig, machine: Machine, count: int) -> Iterator[Cost]:
    side, pixels = latent_side(config), config.data.resolution**2
    yield _row("images", 0.0, 3 * pixels * count, machine.inference, machine)
    number_bytes = 2 if config.tokenizer.storage == "float16" else 4
    stored = 2 * config.tokenizer.latent_channels * side**2 * number_bytes * count
    yield _row("latents", ENCODE_FLOPS * pixels * count, stored, machine.inference, machine)
    for name, encoder in config.encoders.items():
        tokens, width, depth = encoder_tokens(encoder)
        token_bytes = 2 * width if encoder.storage == "float16" else width + 2
        arrays = 1 + 2 * len(encoder.attention)  # queries and keys are as wide as tokens
        bytes_of_image = tokens * token_bytes * arrays + 2 * width * encoder.class_token
        stored = 0 if encoder.features == "online" else bytes_of_image * count
        flops = vit_flops(tokens, width, depth) * count
        yield _row(f"features of {name}", flops, stored, machine.inference, machine)


def _trainings(config: ExperimentConfig, machine: Machine) -> Iterator[Cost]:
    side, channels = latent_side(config), config.tokenizer.latent_channels
    groups: dict[str, list[RunConfig]] = {}
    for run, seed in trainings(config):
        resolved = config.run_config(run, seed)
        groups.setdefault(resolved.model.name, []).append(resolved)
    for model, runs in groups.items():
        flops, kept = 0, 0
        for run in runs:
            milestones, batch = config.milestones_of(run.run), run.training.batch_size
            flops += sum(training_flops(run, config).values()) * batch * milestones[-1]
            states = len(milestones) + 4 * KEPT_STATES
            own = parameters(run, side, channels, class_token_of(run.alignment, config))
            kept += 4 * own * states
        yield _row(f"training {model}, {len(runs)} runs", flops, kept, machine.training, machine)


def _scores(config: ExperimentConfig, machine: Machine, count: int) -> Iterator[Cost]:
    pixels = config.data.resolution**2
    sets, sampling, sampled, evaluated = 0, 0.0, 0, 0.0
    for run, _, _, name in evaluations(config):
        sampler = config.samplers[name]
        one = sampling_flops(config, run, sampler)
        sampling += sampler.images * (one + DECODE_FLOPS * pixels)
        sampled += sampler.images * 3 * pixels
        evaluated += sampler.images * INCEPTION_FLOPS
        sets += 1
    yield _row(f"sampling, {sets} sets", sampling, sampled, machine.inference, machine)
    evaluated += count * INCEPTION_FLOPS
    yield _row("evaluation", evaluated, 0, machine.fp32 / machine.peak, machine)


def describe_cost(
    config: ExperimentConfig, machine: Machine | None = None, images: int | None = None
) -> str:
    """A Markdown table of `costs`, with the assumptions below it."""
    machine = machine or Machine()
    lines = ["| stage | EFLOP | GPU hours | disk, GB |", "|---|---:|---:|---:|"]
    for row in costs(config, machine, images):
        numbers = row.flops / 1e18, row.hours, row.bytes / 1e9
        lines.append(f"| {row.what} | {' | '.join(map(_text, numbers))} |")
    assumed = (
        f"GPU hours on one {machine.name} at {machine.peak / 1e12:.0f} TFLOP/s (dense bf16), "
        f"of which training is assumed to reach {machine.training:.0%} "
        f"and encoding and sampling {machine.inference:.0%}; "
        f"evaluation in fp32 at {machine.fp32 / 1e12:.0f} TFLOP/s. "
        f"{images or image_count(config):,} training images. "
        f"Disk with the weights of every milestone and {KEPT_STATES} resume states of each run."
    )
    return "\n".join([*lines, "", assumed])


def _row(what: str, flops: float, n_bytes: float, utilisation: float, machine: Machine) -> Cost:
    return Cost(what, flops, flops / (machine.peak * utilisation) / 3600, n_bytes)


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
