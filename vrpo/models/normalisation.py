"""Normalisation of VAE latents: a shift and a scale, of all channels or of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vrpo.errors import UserError
from vrpo.models.weights import printable, read_weights

IN_CONFIG = "fix its config.json, or set `tokenizer.scale`"


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


def file_normalisation(path: Path | str, channels: int, scale: float | None) -> Normalisation:
    """The normalisation of a file of `torch.save` or safetensors: `(z - mean) / std * scale`.

    Its arrays, of one number for each of `channels` in any shape, are `mean` and `std`
    (LightningDiT's `latents_stats.pt`), or `latents_bias` and `latents_scale`, which is 1 / std
    (REPA-E's and iREPA's `*-latents-stats.pt`).

    Raises:
        UserError: it is missing or damaged, or its arrays are others or of another channel count.
    """
    remedy = "give the statistics of this VAE, with `mean` and `std`"
    content = read_weights(path, remedy).content
    pairs = (("mean", "std"), ("latents_bias", "latents_scale"))
    names = next((pair for pair in pairs if set(pair) <= content.keys()), None)
    if names is None:
        held = printable(", ".join(map(str, content))[:80])
        raise UserError(
            f"{path}: holds {held or 'nothing'}, neither `mean` and `std` nor `latents_bias` and "
            f"`latents_scale`; {remedy}"
        )
    where = f"tokenizer.statistics: {path}"
    arrays = {name: _channel_values(content[name], name, channels, where) for name in names}
    shift = [_number(value, names[0], where, fix=remedy) for value in arrays[names[0]]]
    spread = [_number(value, names[1], where, True, remedy) for value in arrays[names[1]]]
    factor = 1.0 if scale is None else scale
    inverse = names[1] == "latents_scale"
    return Normalisation([factor * value if inverse else factor / value for value in spread], shift)


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


def _channel_values(value: Any, name: str, channels: int, where: str) -> list[float]:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise UserError(
            f"{where}: `{name}` is no tensor of real numbers; give the statistics of this VAE"
        )
    if value.numel() != channels:
        raise UserError(
            f"{where}: `{name}` has {value.numel()} numbers, the VAE's latents {channels} "
            "channels; give the statistics of this VAE"
        )
    return value.double().flatten().tolist()


def _number(
    value: Any, name: str, where: str, positive: bool = False, fix: str = IN_CONFIG
) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (positive and value <= 0):
        kind = "positive" if positive else "finite"
        raise UserError(f"{where}: `{name}` is {value}, not a {kind} number; {fix}")
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
