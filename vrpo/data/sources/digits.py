"""Handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from vrpo.data.sources.base import fingerprint


class DigitsSource:
    """scikit-learn's handwritten digits (UCI optdigits): 1,797 scans of 8x8 pixels, 16 grey levels.

    Args:
        resolution: side of the images in pixels; the scans are upsampled to it (bicubic).
    """

    def __init__(self, resolution: int) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.resolution = resolution
        self.labels: np.ndarray = digits.target.astype(np.int64)
        self.classes = [str(digit) for digit in range(10)]
        self._scans = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [N, 8, 8]

    def __len__(self) -> int:
        return len(self._scans)

    def read(self, index: int) -> np.ndarray:
        """Image `index`, uint8 `[resolution, resolution, 3]`."""
        size = (self.resolution, self.resolution)
        scan = Image.fromarray(self._scans[index])
        return np.asarray(scan.resize(size, Image.Resampling.BICUBIC).convert("RGB"))

    def describe(self) -> dict[str, Any]:
        """See `ImageSource.describe`; the fingerprint hashes all pixels and labels."""
        content = hashlib.sha256(self._scans.tobytes() + self.labels.tobytes()).hexdigest()
        return {
            "name": "digits",
            "count": len(self),
            "classes": len(self.classes),
            "fingerprint": fingerprint("digits", self.resolution, content),
        }
