"""Statistics in a .npz from any source, checked before they are used."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.metrics.npz import NpzFile
from vrpo.metrics.statistics import Gaussian

ASYMMETRY = 1e-4  # of a covariance, relative to its largest entry; float32 rounding is far below


def read_description(file: NpzFile) -> dict[str, Any]:
    """The JSON description `vrpo` of a file of `save_reference`.

    Raises:
        UserError: it is damaged.
    """
    try:
        description = json.loads(str(file.array("vrpo")))
        extra = description.get("extra", {})
        counts = [description["count"], *(described["count"] for described in extra.values())]
        sound = {"source", "resolution", "subset"} <= description.keys()
        sound = sound and isinstance(description["network"], dict)
        if not sound or not all(count is None or isinstance(count, int) for count in counts):
            raise ValueError("entries are missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file.path}: its description `vrpo` is damaged ({error}); compute the reference again"
        ) from error
    return description


def read_gaussian(
    file: NpzFile, mu: str, sigma: str, dim: int | None, count: int | None = None
) -> Gaussian:
    """The arrays `mu` [D] and `sigma` [D, D] of a file, with D = `dim` (None: any).

    Raises:
        UserError: they are missing, no real numbers, of other shapes or not finite, or `sigma` is
            no covariance.
    """
    headers = {name: file.header(name) for name in (mu, sigma)}
    for name, header in headers.items():
        if header.dtype.kind not in "fiu":
            raise UserError(
                f"{file.path}: `{name}` is {header.dtype}, statistics are real numbers; "
                "compute the file again"
            )
    shape, square = headers[mu].shape, headers[sigma].shape
    found = f"{file.path}: `{mu}` and `{sigma}` have shapes {list(shape)} and {list(square)}"
    if len(shape) != 1 or square != shape * 2 or not shape[0]:
        raise UserError(f"{found}, not [D] and [D, D]; compute the file again")
    if dim is not None and shape != (dim,):
        raise UserError(
            f"{found}, this network has {dim} such features; "
            "ADM's references go with `evaluation.network: inception`"
        )
    arrays = {name: np.asarray(file.array(name), dtype=np.float64) for name in (mu, sigma)}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{file.path}: `{name}` holds NaN or infinite numbers; compute the file again"
            )
    matrix = arrays[sigma]
    if np.abs(matrix - matrix.T).max() > ASYMMETRY * np.abs(matrix).max():
        raise UserError(
            f"{file.path}: `{sigma}` is not symmetric, so it is no covariance; "
            "compute the file again"
        )
    gaussian = Gaussian(torch.from_numpy(arrays[mu]), torch.from_numpy(matrix), count)
    try:
        _ = gaussian.factor  # kept for the distance
    except UserError as error:
        raise UserError(f"{file.path}: `{sigma}`: {error}") from error
    return gaussian


def read_features(file: NpzFile, dim: int, name: str = "pool") -> Tensor:
    """The array `name` [R, D] of a file, float32, with D = `dim`.

    Raises:
        UserError: it is missing, of another type or shape, or not finite.
    """
    header = file.header(name)
    if header.dtype.kind != "f" or len(header.shape) != 2 or header.shape[1] != dim:
        raise UserError(
            f"{file.path}: `{name}` is {header.dtype} {list(header.shape)}, "
            f"not float32 [R, {dim}]; compute the reference again"
        )
    rows = torch.from_numpy(np.asarray(file.array(name), dtype=np.float32))
    if not torch.isfinite(rows).all():
        raise UserError(
            f"{file.path}: `{name}` holds NaN or infinite numbers; compute the reference again"
        )
    return rows
