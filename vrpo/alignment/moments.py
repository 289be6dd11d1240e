"""Mean and deviation of rewards by noise level, in a file beside a milestone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vrpo.config.alignments.base import NOISE_BINS
from vrpo.errors import UserError
from vrpo.files import write_text

KIND = "moments of rewards"


class Moments(NamedTuple):
    """A reward by noise level, in `NOISE_BINS` equal bins from clean to noise."""

    mean: list[float]
    inverse_std: list[float]
    """1 / standard deviation; 0 where it is not known."""


def moments_beside(milestone: Path | str) -> Path:
    """Where a training leaves the running moments of its rewards for a milestone."""
    path = Path(milestone)
    return path.parent / "rewards" / f"{path.stem}.json"


def write_moments(
    path: Path | str, moments: Mapping[str, Moments], source: str, config_sha256: str | None
) -> None:
    """Write the moments by reward; equal moments are equal bytes.

    Args:
        path: file to write.
        moments: of each reward.
        source: `training`, running moments, or `measured`.
        config_sha256: of the run that they belong to, as in its milestones.
    """
    rewards = {name: each._asdict() for name, each in moments.items()}
    content = {"kind": KIND, "source": source, "config_sha256": config_sha256, "rewards": rewards}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_moments(path: Path | str, reward: str, config_sha256: str | None) -> Moments:
    """The moments of one reward.

    Raises:
        UserError: the file is missing, damaged or of another run, or has not this reward.
    """
    remedy = "delete it and run the workflow again"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["kind"] != KIND:
            raise ValueError(f"it holds {content['kind']}")
        owner, found = content["config_sha256"], Moments(**content["rewards"][reward])
        for values in found:
            if len(values) != NOISE_BINS or not all(map(math.isfinite, values)):
                raise ValueError(f"{reward} has not {NOISE_BINS} finite values")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: is missing or damaged ({reason}); {remedy}") from error
    if owner != config_sha256:
        raise UserError(f"{path}: belongs to another training than the milestone; {remedy}")
    return found
