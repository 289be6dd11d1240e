"""Scores of generated images, as ADM's evaluator defines them, in PyTorch.

FID, sFID, Inception score, precision, recall and KID, from Python:

    from vrpo.metrics import score, summary

    record = score("samples/", "real/", weights="inception.pth")
    print(record["scores"]["fid"], summary(record))

The networks are imported when `score` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    from vrpo.config.scoring import EvaluationOptions

__all__ = ["score", "summary"]


def score(
    samples: str | PathLike[str] | np.ndarray,
    reference: str | PathLike[str] | np.ndarray,
    *,
    weights: str | PathLike[str] | None = None,
    options: EvaluationOptions | None = None,
    output: str | PathLike[str] | None = None,
    device: torch.device | str = "auto",
    force_sfid: bool = False,
    extra_weights: Mapping[str, str | PathLike[str]] | None = None,
) -> dict[str, Any]:
    """Scores of images compared with real ones, as `vrpo evaluate` computes them.

    Args:
        samples: a folder of PNGs, an .npz with `arr_0`, this pipeline's .h5, or an array, uint8
            [N, H, H, 3].
        reference: real images in the same forms, of which a folder may hold images of any kind and
            size; or an .npz of statistics (docs/evaluation.md).
        weights: file of the scoring network. None: Inception's in torch's cache, downloaded there
            if it is missing.
        options: the protocol (`vrpo.config.scoring.EvaluationOptions`). None: ADM's, with
            Inception, as published numbers have it.
        output: JSON file to write the record to.
        device: `auto`, `cpu`, `cuda` or a torch device.
        force_sfid: give sFID also for fewer images than its 2,023 features.
        extra_weights: files of the networks in `options.extra_networks` that were fitted, by name.

    Returns:
        The record: `scores` (`fid`, `sfid`, `is`, `precision`, `recall`, `kid`; None: not given,
        the warnings say why), `confidence`, `protocol` with its `warnings`, and `provenance`;
        `run`, `seed`, `step` and `sampler` where the samples' file names them.

    Raises:
        vrpo.errors.UserError: an input is missing, of the wrong kind or size, or damaged; the
            message says how to fix it.
    """
    from vrpo.config.scoring import ADM_PROTOCOL
    from vrpo.metrics.evaluate import evaluate
    from vrpo.runtime.distributed import choose_device

    return evaluate(
        options or ADM_PROTOCOL,
        _place(samples),
        _place(reference),
        None if weights is None else Path(weights),
        None if output is None else Path(output),
        choose_device(device) if isinstance(device, str) else device,
        force_sfid,
        {name: Path(path) for name, path in (extra_weights or {}).items()},
    )


def summary(record: Mapping[str, Any]) -> str:
    """The scores of a record of `score` in one line."""
    from vrpo.metrics.evaluate import summary as line

    return line(record)


def _place(images: str | PathLike[str] | np.ndarray) -> Path | np.ndarray:
    if isinstance(images, str | PathLike):
        return Path(images)
    import numpy as np

    return np.asarray(images)
