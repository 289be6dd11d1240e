"""Latents that were encoded elsewhere, in the layout of REPA's preprocessing (after EDM2's).

A folder has `dataset.json`, `{"labels": [[name, label], ...]}`, and the files that it names, such
as `00000/img-mean-std-00000000.npy`: mean and deviation of the VAE's posterior, one after the
other, float32 [2 C, h, w], not normalised. Their order is that of the sorted names.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vrpo.data.shards import StoredArrays
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.models.tokenizer import Tokenizer
from vrpo.prepare.pixels import image_batch

THREADS = 8  # that read the files of a batch
COMPARED = 3  # images that are encoded, to see that these are their latents
FARTHEST = 0.1  # relative difference of those; rounding and another JPEG decoder stay far below
OPTION = "tokenizer.encoded"


class ReadyLatents:
    """The latents in `folder`.

    Raises:
        UserError: `dataset.json` is missing or damaged, or has no labels.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        listing = self.folder / "dataset.json"
        try:
            pairs = json.loads(listing.read_text(encoding="utf-8"))["labels"]
            ordered = sorted((str(name), int(label)) for name, label in pairs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{OPTION}: {listing} is missing, or not a list of names and labels "
                f"({' '.join(str(error).split())[:100]}); give the folder that REPA's "
                "`dataset_tools.py encode` wrote"
            ) from error
        self._names = [name for name, _ in ordered]
        self.labels = np.array([label for _, label in ordered], dtype=np.int64)  # [N]
        self.sha256 = sha256(listing)

    def rows(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Means and deviations [B, C, h, w] of the latents `rows`, as the VAE gives them.

        Raises:
            UserError: a file is missing, damaged, of another shape or type, or not finite.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            arrays = list(pool.map(self._read, self._names[rows]))
        odd = next((k for k, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
        if odd is not None:
            raise UserError(
                f"{self.folder / self._names[rows][odd]}: has the shape {list(arrays[odd].shape)}, "
                f"others {list(arrays[0].shape)}; encode it again"
            )
        mean, deviation = torch.from_numpy(np.stack(arrays)).chunk(2, dim=1)
        return mean, deviation

    def check(self, images: StoredArrays, tokenizer: Tokenizer, device: torch.device | str) -> None:
        """Check that these are the latents of `images`: number, labels, and some encoded again.

        Raises:
            UserError: they are not.
        """
        labels = images.rows("labels", slice(None))
        remedy = "give the latents of these images, or leave it out"
        if len(labels) != len(self.labels):
            raise UserError(
                f"{OPTION}: {self.folder} has {len(self.labels):,} latents, the data set "
                f"{len(labels):,} images; {remedy}"
            )
        if not np.array_equal(labels, self.labels):
            first = int(np.flatnonzero(labels != self.labels)[0])
            raise UserError(
                f"{OPTION}: {self.folder / self._names[first]} has the label {self.labels[first]}, "
                f"image {first} of the data set {labels[first]}; {remedy}"
            )
        for index in np.linspace(0, len(labels) - 1, COMPARED).astype(int).tolist():
            row = slice(index, index + 1)
            mean, _ = tokenizer.normalised(*(each.to(device) for each in self.rows(row)))
            own, _ = tokenizer.encode(image_batch(images, row, device))
            if mean.shape != own.shape or float((mean - own).norm() / own.norm()) > FARTHEST:
                raise UserError(
                    f"{OPTION}: {self.folder / self._names[index]} is not what "
                    f"`tokenizer.weights` makes of image {index}; give the VAE that encoded it, "
                    "or leave it out"
                )

    def _read(self, name: str) -> np.ndarray:
        path = self.folder / name
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path}: is missing or no .npy of numbers "
                f"({' '.join(str(error).split())[:100]}); encode it again"
            ) from error
        if array.dtype.kind != "f" or array.ndim != 3 or array.shape[0] % 2:
            raise UserError(
                f"{path}: is {array.dtype} {list(array.shape)}, not float32 [2 C, h, w]; "
                "give latents of REPA's `dataset_tools.py encode`"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path}: holds NaN or infinite numbers; encode it again")
        return array.astype(np.float32)
