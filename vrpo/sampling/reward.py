"""The semantic reward of a milestone's hidden tokens against fixed targets (docs/guidance.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vrpo.alignment.base import AlignmentContext, ProjectedAlignment
from vrpo.alignment.diagnostics import noise_level_bin
from vrpo.alignment.moments import Moments, read_moments
from vrpo.config.alignments import AnyAlignment
from vrpo.config.alignments.base import NOISE_BINS
from vrpo.config.guidance import TARGETS, BestOfOptions, RepresentationGuidanceOptions
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.models.checkpoints import load_into, read_milestone, read_network
from vrpo.models.weights import printable

OPTIONS = TypeAdapter(AnyAlignment)
PROJECTORS = "projectors."


class SemanticReward:
    """Mean cosine [B] of projected hidden tokens and each image's target, over tokens, encoders.

    The projector is the averaged one of the milestone, and cosines are those of its training:
    iREPA's targets are normalised as there. A class token among the hidden tokens is left out.

    Args:
        alignment: with the milestone's projectors.
        tokens: targets [B,N,D] by encoder.
        moments: of the reward; None: its unit is 1.
    """

    def __init__(
        self, alignment: ProjectedAlignment, tokens: dict[str, Tensor], moments: Moments | None
    ) -> None:
        self.alignment, self.tokens, self.moments = alignment, tokens, moments
        (self.depth,) = alignment.hidden_after

    def __call__(self, hidden: Tensor) -> Tensor:
        """Rewards [B] of hidden tokens [B,N,W]."""
        count = next(iter(self.tokens.values())).shape[1]
        return self.alignment.cosine(hidden[:, -count:], self.tokens)

    def unit(self, level: float) -> float:
        """1 over the reward's deviation at a noise level; 0 where it is not known."""
        if self.moments is None:
            return 1.0
        return self.moments.inverse_std[int(noise_level_bin(torch.tensor(level), NOISE_BINS))]

    def rows(self, rows: slice) -> SemanticReward:
        """The reward of some of the images."""
        tokens = {name: values[rows] for name, values in self.tokens.items()}
        return SemanticReward(self.alignment, tokens, self.moments)


class Rewards:
    """Makes the reward of each batch of a sampling."""

    def __init__(
        self, alignment: ProjectedAlignment, targets: dict[str, Tensor], moments: Moments | None
    ) -> None:
        """`targets` are [K,N,D] by encoder: a row for each class, or one for all images."""
        self.alignment, self.targets, self.moments = alignment, targets, moments
        self.origin: dict[str, Any] = {}
        """SHA-256 of the files, for the protocol of the samples."""

    def of(self, labels: Tensor) -> SemanticReward:
        """The reward of images of the classes `labels` [B]."""
        tokens = {
            name: values[labels] if len(values) > 1 else values.expand(len(labels), -1, -1)
            for name, values in self.targets.items()
        }
        return SemanticReward(self.alignment, tokens, self.moments)


def load_rewards(
    guidance: RepresentationGuidanceOptions | BestOfOptions,
    milestone: Path | str,
    targets: Mapping[str, Path],
    moments: Path | None,
    device: torch.device,
) -> Rewards:
    """Projector of a milestone, targets of its encoders, and moments of its semantic reward.

    Args:
        guidance: what the rewards are for.
        milestone: averaged weights of a run.
        targets: output of `class-tokens` or `image-tokens` by encoder.
        moments: output of `reward-moments`, where `guidance.standardised`.
        device: where to compute.

    Raises:
        UserError: the milestone has no projector; targets or moments are missing, damaged, of
            another encoder or run, or of other sizes than the milestone's.
    """
    alignment = load_projectors(milestone, device)
    found, (_, _, description) = {}, read_milestone(milestone)
    for name, wanted in alignment.context.tokens.items():
        rows = description["model"]["num_classes"] if guidance.target is None else 1
        found[name] = _target(name, targets, milestone, (rows, *wanted)).to(device)
    of_reward = None
    if guidance.standardised:
        if moments is None:
            raise UserError(
                f"--moments: missing, and guidance standardises the reward of {milestone}; "
                "give the output of `reward-moments`, or set `guidance.standardise: false`"
            )
        of_reward = read_moments(moments, "semantic", description.get("config_sha256"))
    rewards = Rewards(alignment, found, of_reward)
    rewards.origin = {"targets": {name: sha256(targets[name]) for name in found}}
    if of_reward is not None:
        rewards.origin["moments"] = sha256(moments)
    return rewards


def load_projectors(milestone: Path | str, device: torch.device | str) -> ProjectedAlignment:
    """The alignment of a milestone with its averaged projectors, frozen.

    Raises:
        UserError: it has none, or they are not those that its description says.
    """
    _, state, description = read_milestone(milestone)
    projectors = {
        name.removeprefix(PROJECTORS): tensor
        for name, tensor in state.items()
        if name.startswith(PROJECTORS)
    }
    plain = description.get("alignment") or {}
    if not projectors:
        raise UserError(
            f"{milestone}: has no projector to an encoder "
            f"(alignment `{printable(str(plain.get('kind', 'none')))}`), so no reward to guide by; "
            "choose a run that is aligned with one, or classifier-free guidance"
        )
    options = _options(plain, milestone)
    side = description["latent_shape"][1] // description["model"]["patch_size"]
    widths = [_width(projectors, index) for index in range(len(options.encoders))]
    context = AlignmentContext(
        latent_shape=tuple(description["latent_shape"]),
        width=description["model"]["width"],
        tokens={
            name: (side**2, width) for name, width in zip(options.encoders, widths, strict=True)
        },
    )
    with torch.random.fork_rng(devices=[]):
        alignment = ProjectedAlignment(options, context)
    load_into(alignment.projectors, projectors, milestone)
    return alignment.to(device).eval().requires_grad_(False)


def _options(plain: Mapping[str, Any], milestone: Path | str) -> AnyAlignment:
    """Options of a description; what an imported one does not say, null, has its default."""
    try:
        return OPTIONS.validate_python(plain)
    except ValidationError as error:
        unsaid = {each["loc"][-1] for each in error.errors() if each["input"] is None}
    try:
        return OPTIONS.validate_python({name: plain[name] for name in plain.keys() - unsaid})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{milestone}: its alignment is not described as this version needs it ({where}: "
            f"{printable(first['msg'])}); import or train it again"
        ) from error


def _width(projectors: Mapping[str, Tensor], index: int) -> int:
    """Channels of the tokens that a projector, MLP or convolution, gives."""
    last = projectors.get(f"{index}.4.bias", projectors.get(f"{index}.bias"))
    return 0 if last is None else len(last)


def _target(
    encoder: str, targets: Mapping[str, Path], milestone: Path | str, shape: tuple[int, ...]
) -> Tensor:
    """Tokens [K,N,D] of an encoder, of which `shape` is wanted."""
    if encoder not in targets:
        given = ", ".join(targets) or "none"
        raise UserError(
            f"--target: {milestone} is aligned with encoder `{encoder}`, and targets are given "
            f"for {given}; give {encoder}=FILE"
        )
    path = targets[encoder]
    state, description = read_network(path)
    if description.get("kind") != TARGETS or "tokens" not in state:
        raise UserError(
            f"{path}: holds no targets; give the output of `class-tokens` or `image-tokens`"
        )
    if (made_by := description.get("encoder")) != encoder:
        raise UserError(
            f"--target {encoder}: {path} holds tokens of encoder `{printable(str(made_by))}`; "
            f"give those of `{encoder}`"
        )
    if (found := tuple(state["tokens"].shape)) != shape:
        raise UserError(
            f"--target {encoder}: {path} holds tokens [K,N,D] of {list(found)}, {milestone} needs "
            f"{list(shape)}; give tokens of the encoder and classes that it was trained with"
        )
    return state["tokens"]
