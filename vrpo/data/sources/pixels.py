"""Pixels of a decoded image as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
BLACK_IS_ZERO, UNSIGNED = 1, 1
SIXTEEN_BITS = (
    "PNG",
    "PPM",
)  # formats whose mode I runs from 0 to 65535, whatever the file's own maximum


def as_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB as Pillow's `convert("RGB")` gives it, which drops transparency; but deeper grey is scaled, where Pillow clips it.

    Of 16 bits the higher 8 are taken, as Pillow does with 16-bit colours.

    Raises:
        ValueError: its values have no known range, e.g. floats or signed numbers.
    """
    bits = 16
    if image.format == "TIFF":
        bits = _tag(image, TIFF_BITS, bits)
        if (
            image.mode.startswith("I;16")
            and _tag(image, TIFF_PHOTOMETRIC, BLACK_IS_ZERO) != BLACK_IS_ZERO
        ):
            raise ValueError("16-bit grey in which zero is white; save it as 8-bit grey or RGB")
        if _tag(image, TIFF_SAMPLE_FORMAT, UNSIGNED) != UNSIGNED:
            raise ValueError(
                "its values are signed or floating-point numbers, whose range is not known; save it as 8-bit grey or RGB"
            )
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        grey = np.asarray(image) >> (bits - 8)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"mode {image.mode}: 32-bit values, whose range is not known; save it as 8-bit grey or RGB"
        )
    return image.convert("RGB")


def _tag(image: Image.Image, number: int, default: int) -> int:
    """First value of a TIFF's tag."""
    value = image.tag_v2.get(number, default)
    return value[0] if isinstance(value, tuple) else value
