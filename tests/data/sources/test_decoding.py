"""Every image is decoded to 8-bit RGB without clipping, or is unreadable."""

import numpy as np
import pytest
from PIL import Image

from vrpo.data.sources import FolderSource, UnreadableImageError

from tests.fixtures.pictures import (
    COLOURS,
    GREY8,
    HIGH,
    NO_RANGE,
    RAMP,
    SIDE,
    SIXTEEN_BITS,
    save,
    tiff,
    write,
)


@pytest.mark.parametrize("kind", SIXTEEN_BITS)
def test_sixteen_bits_are_scaled(tmp_path, kind):
    image = write(tmp_path, SIXTEEN_BITS[kind]).read(0)
    assert image.dtype == np.uint8 and 127 <= image.mean() < 128
    np.testing.assert_allclose(image, HIGH, atol=1)  # PPM's decoder rounds
    if not kind.startswith("PPM"):
        np.testing.assert_array_equal(image, HIGH)


def test_a_small_maximum_of_a_pgm_is_white(tmp_path):
    image = write(tmp_path, b"P5 16 16 1023\n" + (RAMP >> 6).astype(">u2").tobytes()).read(0)
    np.testing.assert_allclose(image, HIGH, atol=1)


@pytest.mark.parametrize("kind", NO_RANGE)
def test_values_without_a_known_range_are_unreadable(tmp_path, kind):
    with pytest.raises(
        UnreadableImageError,
        match=r"a/0\.png: cannot be read as an image \(.*save it as 8-bit grey or RGB\); restore",
    ) as error:
        write(tmp_path, NO_RANGE[kind]).read(0)
    assert "\n" not in str(error.value)


PALETTE = COLOURS.quantize(64)
EIGHT_BITS = {
    "1": (COLOURS.convert("1"), {}),
    "L": (COLOURS.convert("L"), {}),
    "LA": (COLOURS.convert("LA"), {}),
    "P": (PALETTE, {}),
    "P with a transparent colour": (PALETTE, {"transparency": 3}),
    "P with transparencies": (PALETTE, {"transparency": bytes(range(64))}),
    "RGB with a transparent colour": (COLOURS, {"transparency": (1, 2, 3)}),
    "RGBA": (Image.merge("RGBA", [*COLOURS.split(), COLOURS.convert("L")]), {}),
}


@pytest.mark.parametrize("kind", EIGHT_BITS)
def test_transparency_is_dropped_and_colours_stay(tmp_path, kind):
    image, options = EIGHT_BITS[kind]
    source = write(tmp_path, save(image, "PNG", **options))
    np.testing.assert_array_equal(source.read(0), np.asarray(image.convert("RGBA"))[..., :3])


def test_eight_bit_tiffs_are_read_as_ever(tmp_path):
    for photometric, wanted in ((1, GREY8), (0, 255 - GREY8)):
        np.testing.assert_array_equal(
            write(tmp_path, tiff(GREY8.tobytes(), 8, photometric)).read(0)[..., 0], wanted
        )
    np.testing.assert_array_equal(
        write(tmp_path, save(COLOURS.convert("CMYK"), "TIFF")).read(0), COLOURS
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_rotation(tmp_path, kind):
    """That of EXIF is ignored, as by torchvision; that of a TIFF is its own."""
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = Image.fromarray(GREY8)
    plain, turned = (
        write(tmp_path, save(image, kind, **given)).read(0) for given in ({}, {"exif": exif})
    )
    np.testing.assert_array_equal(turned, plain[::-1, ::-1] if kind == "TIFF" else plain)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_the_first_of_several_pages_is_read(tmp_path, kind):
    exact = {"lossless": True} if kind == "WEBP" else {}
    content = save(COLOURS, kind, save_all=True, append_images=[COLOURS.rotate(90)], **exact)
    np.testing.assert_array_equal(write(tmp_path, content).read(0), COLOURS)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 40_000)])
def test_a_picture_too_narrow_to_crop_is_unreadable(tmp_path, size):
    """Resized to the side of 256 pixels it would take 16 GB."""
    (tmp_path / "a").mkdir()
    Image.new("RGB", size).save(tmp_path / "a" / "0.bmp")
    with pytest.raises(UnreadableImageError, match=rf"{size[0]} x {size[1]} pixels are too narrow"):
        FolderSource(tmp_path, 256).read(0)
    assert FolderSource(tmp_path, SIDE).read(0).shape == (SIDE, SIDE, 3)
