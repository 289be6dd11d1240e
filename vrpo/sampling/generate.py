"""Images from a milestone, each with a random generator for its label and all its noise.

So an image depends on the sampler's seed and its own number, not on batches, ranks or
interruptions. On the CPU this holds bitwise: matrix kernels round differently for different batch
shapes, so there the shapes are fixed and the last batch is filled up. On a GPU the shape is
`batch_size`, and images of different batch sizes agree up to rounding.

Ranks take the batches in turn. The first one gathers and writes them, so that there is one file, in
order, and any number of ranks can resume.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import vrpo
from vrpo.config.guidance import BestOfOptions, RepresentationGuidanceOptions
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.models.checkpoints import load_milestone
from vrpo.models.normalisation import check_normalisation
from vrpo.models.tokenizer import Tokenizer, load_tokenizer
from vrpo.processes.guidance import Guided
from vrpo.processes.registry import described_process
from vrpo.processes.samplers import check_sampler, sample
from vrpo.processes.steering import Steered
from vrpo.runtime.compiler import require_compiler
from vrpo.runtime.distributed import Ranks
from vrpo.runtime.precision import require_precision, use_tf32
from vrpo.sampling.best import best_of
from vrpo.sampling.collector import Collector, rounds, writer_of_first_rank
from vrpo.sampling.decoding import DecodedBatch
from vrpo.sampling.draws import ImageDraws, JointDraws
from vrpo.sampling.network import SamplingNetwork
from vrpo.sampling.reward import SemanticReward, load_rewards

if TYPE_CHECKING:
    from vrpo.config.networks import TokenizerOptions
    from vrpo.config.scoring import SamplerOptions
    from vrpo.processes.process import Process

log = logging.getLogger(__name__)

CPU_BATCH = 64  # images in the transformer at once on the CPU, whatever `batch_size` says


def _without_gradients(function: Callable[..., None]) -> Callable[..., None]:
    """`function` of sampler options in inference mode, or where the reward's gradient is taken,
    which needs tensors that inference mode does not make, without gradients elsewhere."""

    @functools.wraps(function)
    def call(options: SamplerOptions, *arguments: Any, **more: Any) -> None:
        with torch.no_grad() if options.guidance.rewarded else torch.inference_mode():
            function(options, *arguments, **more)

    return call


@_without_gradients
def sample_images(
    options: SamplerOptions,
    milestone: Path | str,
    tokenizer: TokenizerOptions,
    tokenizer_weights: Path | str | None,
    output: Path | str,
    device: torch.device | str,
    ranks: Ranks | None = None,
    targets: Mapping[str, Path] | None = None,
    moments: Path | None = None,
) -> None:
    """Write `images` uint8 [N,H,W,3] and `labels` int64 [N]; a killed run resumes.

    Args:
        options: sampler, guidance, labels, rounding, count and seed.
        milestone: averaged weights of a run.
        tokenizer: the VAE that decodes.
        tokenizer_weights: its file if it was trained here, else None.
        output: HDF5 file to write; its attributes are the protocol.
        device: where to compute.
        ranks: this process among those that share the work; None: alone.
        targets: tokens by encoder, where the guidance is by the representation.
        moments: of the reward, where the guidance standardises it.

    Raises:
        UserError: sampler, milestone, tokenizer, targets and moments do not fit each other, or are
            missing or damaged; the network gives values that are not finite.
    """
    device = torch.device(device)
    ranks = ranks or Ranks(0, 1, device)
    require_precision(options.precision, device, "samplers.<name>.precision")
    if options.compile:
        require_compiler(device, "samplers.<name>.compile")
    if options.decoder:
        tokenizer = tokenizer.model_copy(update={"weights": options.decoder, "subfolder": None})
    network, description = load_milestone(milestone, device)
    process = described_process(description)
    check_sampler(process, options)
    chosen, rewards = options.guidance, None
    if chosen.rewarded:
        rewards = load_rewards(chosen, milestone, targets or {}, moments, device)
    use_tf32(options.precision == "tf32", device)
    network = SamplingNetwork(network, options.precision, options.compile)
    decoder = load_tokenizer(tokenizer, tokenizer_weights, device)
    channels, height, width = shape = tuple(description["latent_shape"])
    check_channels(channels, decoder, milestone)
    _check_guided_channels(options, channels)
    named = f"the tokenizer `{tokenizer.weights}`"
    check_normalisation(description, decoder.normalisation, milestone, named)
    batch_size = options.batch_size if device.type == "cuda" else CPU_BATCH
    side = (height * decoder.downsampling, width * decoder.downsampling)
    shapes = {
        "images": ((options.images, *side, 3), np.uint8),
        "labels": ((options.images,), np.int64),
    }
    attributes = _protocol(options, description, milestone, tokenizer, decoder)
    if rewards:
        attributes["guided_by"] = rewards.origin
    with writer_of_first_rank(ranks, output, shapes, attributes) as writer:
        collected = Collector(ranks, batch_size, (*side, 3), writer)
        waiting = None
        for rows in rounds(ranks, writer, options.images, batch_size):
            first = rows.start + ranks.rank * batch_size
            wanted = max(0, min(batch_size, rows.stop - first))
            finished = waiting
            waiting = DecodedBatch(rows, wanted)
            if wanted:
                draws = ImageDraws(options.seed, range(first, first + batch_size), shape, device)
                labels = draws.labels(options.labels, network.null_label)
                reward = rewards.of(labels) if rewards else None
                latents = sample_latents(options, network, process, labels, draws, reward)
                waiting.decode(decoder, latents, labels, options.rounding)
            if finished:
                collected.add(finished, milestone)
        if waiting:
            collected.add(waiting, milestone)
        collected.finish()
    if ranks.is_main:
        how = f"{options.kind} with {options.steps} steps"
        log.info("samples: %d of %dx%d, %s", options.images, *side, how)


def sample_latents(
    options: SamplerOptions,
    network: SamplingNetwork,
    process: Process,
    labels: Tensor,
    draws: ImageDraws,
    reward: SemanticReward | None = None,
) -> Tensor:
    """Latents [B,C,h,w] float32 of the classes `labels` [B].

    `draws` are of latents, and `reward` is that of these images, where the guidance is by the
    representation. A class token that the network denoises beside them is drawn here and left out.
    """
    chosen = options.guidance
    free = chosen.free
    denoiser = Guided(network, process, labels, free.scale, free.interval, free.channels)

    def sampled(drawn: ImageDraws | JointDraws) -> Tensor:
        return sample(process, options, denoiser, drawn.normal(), drawn.normal)

    joint = network.joint
    drawn = draws if joint is None else JointDraws(draws, joint)
    if isinstance(chosen, BestOfOptions):
        state = best_of(chosen, network, process, labels, reward, drawn, sampled)
    else:
        if isinstance(chosen, RepresentationGuidanceOptions):
            steering = chosen.scale, chosen.interval, chosen.schedule, chosen.channels
            denoiser = Steered(denoiser, reward, *steering)
        state = sampled(drawn)
    return state if joint is None else joint.split(state)[0].contiguous()


def check_channels(channels: int, decoder: Tokenizer, milestone: Path | str) -> None:
    """Check that the tokenizer has as many latent channels as `milestone`, a file, says.

    Raises:
        UserError: it has not.
    """
    own = decoder.vae.config.latent_channels
    if own != channels:
        raise UserError(
            f"{milestone}: was trained on latents of {channels} channels, "
            f"the tokenizer has {own}; give the tokenizer that made its latents"
        )


def _check_guided_channels(options: SamplerOptions, channels: int) -> None:
    own, free = getattr(options.guidance, "channels", None), options.guidance.free.channels
    guided = max(own or 0, free or 0)
    if guided > channels:
        raise UserError(
            f"sampler guidance.channels: {guided} are more than the latent's {channels}; "
            f"choose at most {channels}, or null for all"
        )


def _protocol(
    options: SamplerOptions,
    description: dict[str, Any],
    milestone: Path | str,
    tokenizer: TokenizerOptions,
    decoder: Tokenizer,
) -> dict[str, Any]:
    """Attributes of the output: all that the images depend on, so without e.g. the batch size."""
    unused = {"preset", "decoder", "batch_size", "milestones", "compile"}
    if options.kind != "ode-dopri5":
        unused |= {"rtol", "atol"}
    used = {"weights": tokenizer.weights, "scale": decoder.scale, "sha256": decoder.sha256}
    if decoder.shift:
        used["shift"] = decoder.shift
    return {
        "run": description["run"],
        "seed": description["seed"],
        "step": description["step"],
        "milestone_sha256": sha256(milestone),
        "sampler": options.model_dump(mode="json", exclude=unused),
        "tokenizer": used,
        "versions": {"vrpo": vrpo.__version__, "torch": torch.__version__.split("+")[0]},
    }
