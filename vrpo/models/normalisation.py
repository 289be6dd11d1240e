"""Normalisation of VAE latents: a shift and a scale, of all channels or of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vrpo.errors import UserError


class Normalisation(NamedTuple):
    """`(z - shift) * scale` of latents z, which so get about unit variance; and `latents / scale + shift` before they are decoded."""

    scale: float | list[float]
    """One number, or one a channel."""
    shift: float | list[float] = 0.0

    @property
    def per_channel(self) -> bool:
        """Whether channels differ."""
        return isinstance(self.scale, list) or isinstance(self.shift, list)

    def __str__(self) -> str:
        return f"scale {_short(self.scale)}, shift {_short(self.shift)}"


def normalisation_of(config: Mapping[str, Any], scale: float | None, where: str) -> Normalisation:
    """The normalisation that the config of a diffusers AutoencoderKL asks for, as diffusers' pipelines do it.

    With `latents_mean` and `latents_std` that is `(z - latents_mean) * scaling_factor / latents_std` (Stable Diffusion XL's pipeline, diffusers 0.27), else
    `(z - shift_factor) * scaling_factor` (Flux's, Stable Diffusion 3's).

    Args:
        config: of the VAE.
        scale: in the place of `scaling_factor`; None: the config's.
        where: names the VAE in messages.

    Raises:
        UserError: the config contradicts itself, or has values that normalise nothing.
    """
    shift, factor = (
        config.get("shift_factor"),
        config.get("scaling_factor") if scale is None else scale,
    )
    mean, std = (_per_channel(config, name, where) for name in ("latents_mean", "latents_std"))
    if (mean is None) != (std is None):
        there, missing = (
            ("latents_mean", "latents_std") if std is None else ("latents_std", "latents_mean")
        )
        raise UserError(
            f"{where}: its config has `{there}` and no `{missing}`; give both in its config.json, or neither"
        )
    if mean is not None and shift:
        raise UserError(
            f"{where}: its config has both `shift_factor` and `latents_mean`, of which diffusers uses only one; remove one from its config.json"
        )
    if factor is None and std is None:
        raise UserError(
            f"{where}: its config has no `scaling_factor`; set `tokenizer.scale` to 1 / the standard deviation of its latents"
        )
    factor = _number(1.0 if factor is None else factor, "scaling_factor", where, positive=True)
    if mean is None or std is None:
        return Normalisation(factor, _number(shift or 0.0, "shift_factor", where))
    return Normalisation(
        [factor / _number(value, "latents_std", where, positive=True) for value in std], mean
    )


def recorded_normalisation(attributes: Mapping[str, Any]) -> Normalisation | None:
    """The normalisation of stored latents, of their attributes; None: they do not tell.

    Those of a trained tokenizer do not, as its file holds its scale and is read by both stages; nor do synthetic ones, nor those of earlier versions.
    """
    return (
        Normalisation(attributes["scale"], attributes["shift"])
        if {"scale", "shift"} <= attributes.keys()
        else None
    )


def check_normalisation(
    description: Mapping[str, Any], own: Normalisation, milestone: Path | str, other: str
) -> None:
    """See that a milestone was trained on latents that are normalised as those at hand.

    Args:
        description: of the milestone; `normalisation`, where it has it, is that of the latents it was trained on.
        own: what decodes, or what the latents at hand have.
        milestone: its file, for messages.
        other: names what has `own`, for messages.

    Raises:
        UserError: they differ. Weights trained elsewhere, which do not tell, fit everything.
    """
    recorded = description.get("normalisation")
    if recorded is None:
        if own.per_channel and "source" not in description:
            raise UserError(
                f"{milestone}: was trained on latents without a normalisation of each channel, {other} has one; give the VAE that made its latents"
            )
        return
    trained = Normalisation(**recorded)
    if not (_same(trained.scale, own.scale) and _same(trained.shift, own.shift)):
        raise UserError(
            f"{milestone}: was trained on latents of another normalisation ({trained}) than that of {other} ({own}); "
            "give the VAE that made its latents, with its `tokenizer.scale`, or encode and train anew"
        )


def _per_channel(config: Mapping[str, Any], name: str, where: str) -> list[float] | None:
    value, channels = config.get(name), config.get("latent_channels")
    if value is None:
        return None
    try:
        values = torch.tensor(value, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{where}: `{name}` of its config is not a list of numbers ({' '.join(str(error).split())[:100]}); mend its config.json"
        ) from error
    if len(values) != channels:
        raise UserError(
            f"{where}: `{name}` of its config has {len(values)} numbers, its latents {channels} channels; mend its config.json"
        )
    return [_number(each, name, where) for each in values]


def _number(value: Any, name: str, where: str, positive: bool = False) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or (positive and value <= 0)
    ):
        raise UserError(
            f"{where}: `{name}` is {value}, not a {'positive' if positive else 'finite'} number; mend its config.json, or set `tokenizer.scale`"
        )
    return float(value)


def _same(first: float | Sequence[float], second: float | Sequence[float]) -> bool:
    if isinstance(first, Sequence) != isinstance(second, Sequence):
        return False
    pairs = (
        zip(first, second, strict=False)
        if isinstance(first, Sequence) and isinstance(second, Sequence)
        else [(first, second)]
    )
    lengths = [len(values) if isinstance(values, Sequence) else 1 for values in (first, second)]
    return lengths[0] == lengths[1] and all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in pairs
    )


def _short(values: float | Sequence[float]) -> str:
    if not isinstance(values, Sequence):
        return f"{values:.5g}"
    listed = ", ".join(f"{value:.5g}" for value in values[:4])
    return f"[{listed}{', ...' if len(values) > 4 else ''}] by channel"
