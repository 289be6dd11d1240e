"""Pixels of a decoded image as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
BLACK_IS_ZERO, UNSIGNED = 1, 1
SIXTEEN_BITS = ("PNG", "PPM")  # mode I of these formats has values from 0 to 65535


def as_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB as of Pillow's `convert("RGB")`, which drops transparency; deeper grey is scaled.

    Pillow would clip deeper grey. Of 16 bits the upper 8 are kept, as Pillow does with colours.

    Raises:
        ValueError: its values have no known range, e.g. floats or signed numbers.
    """
    bits, deep = 16, image.mode.startswith("I;16")
    if image.format == "TIFF":
        bits = _tag(image, TIFF_BITS, bits)
        if deep and _tag(image, TIFF_PHOTOMETRIC, BLACK_IS_ZERO) != BLACK_IS_ZERO:
            raise ValueError("16-bit grey in which zero is white; save it as 8-bit grey or RGB")
        if _tag(image, TIFF_SAMPLE_FORMAT, UNSIGNED) != UNSIGNED:
            raise ValueError(
                "its values are signed or floating-point numbers, whose range is not known; "
                "save it as 8-bit grey or RGB"
            )
    if deep or (image.mode == "I" and image.format in SIXTEEN_BITS):
        grey = np.asarray(image) >> (bits - 8)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"mode {image.mode}: 32-bit values, whose range is not known; "
            "save it as 8-bit grey or RGB"
        )
    return image.convert("RGB")


def _tag(image: Image.Image, number: int, default: int) -> int:
    """First value of a TIFF's tag."""
    value = image.tag_v2.get(number, default)
    return value[0] if isinstance(value, tuple) else value
