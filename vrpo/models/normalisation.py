"""Normalisation of VAE latents: a shift and a scale, of all channels or of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vrpo.errors import UserError


class Normalisation(NamedTuple):
    """`(z - shift) * scale` of latents z, of about unit variance; decoding takes it back."""

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
    """The normalisation that the config of a diffusers AutoencoderKL asks for, as its pipelines do.

    With `latents_mean` and `latents_std` that is
    `(z - latents_mean) * scaling_factor / latents_std` (Stable Diffusion XL's pipeline, diffusers
    0.27), else `(z - shift_factor) * scaling_factor` (Flux's, Stable Diffusion 3's).

    Args:
        config: of the VAE.
        scale: in the place of `scaling_factor`; None: the config's.
        where: names the VAE in messages.

    Raises:
        UserError: the config contradicts itself, or has values that normalise nothing.
    """
    shift = config.get("shift_factor")
    factor = config.get("scaling_factor") if scale is None else scale
    mean, std = (_per_channel(config, name, where) for name in ("latents_mean", "latents_std"))
    if (mean is None) != (std is None):
        names = ("latents_mean", "latents_std")
        there, missing = names if std is None else reversed(names)
        raise UserError(
            f"{where}: its config has `{there}` and no `{missing}`; "
            "give both in its config.json, or neither"
        )
    if mean is not None and shift:
        raise UserError(
            f"{where}: its config has both `shift_factor` and `latents_mean`, of which diffusers "
            "uses only one; remove one from its config.json"
        )
    if factor is None and std is None:
        raise UserError(
            f"{where}: its config has no `scaling_factor`; "
            "set `tokenizer.scale` to 1 / the standard deviation of its latents"
        )
    factor = _number(1.0 if factor is None else factor, "scaling_factor", where, positive=True)
    if mean is None or std is None:
        return Normalisation(factor, _number(shift or 0.0, "shift_factor", where))
    deviations = [_number(value, "latents_std", where, positive=True) for value in std]
    return Normalisation([factor / value for value in deviations], mean)


def recorded_normalisation(attributes: Mapping[str, Any]) -> Normalisation | None:
    """The normalisation in the attributes of stored latents; None: they do not tell.

    Those of a trained tokenizer do not, as its file holds its scale and is read by both stages; nor
    do synthetic ones, nor those of earlier versions.
    """
    if not {"scale", "shift"} <= attributes.keys():
        return None
    return Normalisation(attributes["scale"], attributes["shift"])


def check_normalisation(
    description: Mapping[str, Any], own: Normalisation, milestone: Path | str, other: str
) -> None:
    """Check that a milestone was trained on latents that are normalised as those at hand.

    Args:
        description: of the milestone; its `normalisation`, if any, is that of its latents.
        own: the normalisation at hand, of the decoder or of other latents.
        milestone: its file, for messages.
        other: names what has `own`, for messages.

    Raises:
        UserError: they differ. Weights trained elsewhere, which do not tell, fit everything.
    """
    recorded = description.get("normalisation")
    if recorded is None:
        if own.per_channel and "source" not in description:
            raise UserError(
                f"{milestone}: was trained on latents without a normalisation of each channel, "
                f"{other} has one; give the VAE that made its latents"
            )
        return
    trained = Normalisation(**recorded)
    if not (_same(trained.scale, own.scale) and _same(trained.shift, own.shift)):
        raise UserError(
            f"{milestone}: was trained on latents of another normalisation ({trained}) than that "
            f"of {other} ({own}); give the VAE that made its latents, with its `tokenizer.scale`, "
            "or encode and train anew"
        )


def _per_channel(config: Mapping[str, Any], name: str, where: str) -> list[float] | None:
    value, channels = config.get(name), config.get("latent_channels")
    if value is None:
        return None
    try:
        values = torch.tensor(value, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{where}: `{name}` of its config is not a list of numbers ({reason}); "
            "fix its config.json"
        ) from error
    if len(values) != channels:
        raise UserError(
            f"{where}: `{name}` of its config has {len(values)} numbers, "
            f"its latents {channels} channels; fix its config.json"
        )
    return [_number(each, name, where) for each in values]


def _number(value: Any, name: str, where: str, positive: bool = False) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (positive and value <= 0):
        kind = "positive" if positive else "finite"
        raise UserError(
            f"{where}: `{name}` is {value}, not a {kind} number; "
            "fix its config.json, or set `tokenizer.scale`"
        )
    return float(value)


def _same(first: float | Sequence[float], second: float | Sequence[float]) -> bool:
    if isinstance(first, Sequence) and isinstance(second, Sequence):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, Sequence) or isinstance(second, Sequence):
        return False
    return math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9)


def _short(values: float | Sequence[float]) -> str:
    if not isinstance(values, Sequence):
        return f"{values:.5g}"
    listed = ", ".join(f"{value:.5g}" for value in values[:4])
    return f"[{listed}{', ...' if len(values) > 4 else ''}] by channel"
