"""Every image is decoded to 8-bit RGB without clipping, or listed as unreadable.

The list gives the reason, whatever the decoder does.
"""

import io
import json
import os
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from vrpo.config.data import DataOptions
from vrpo.data.sources import FolderSource, UnreadableImageError
from vrpo.errors import UserError
from vrpo.prepare import images as stage

SIDE = 16
RAMP = np.linspace(0, 65535, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)
HIGH = np.repeat(
    (RAMP >> 8).astype(np.uint8)[..., None], 3, axis=2
)  # what a 16-bit colour image of the same values becomes


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(depth, colour, pixels):
    """A PNG of Pillow's blind spots: 16 bits with two or more channels."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(content, bits, photometric=1, sample_format=1, order="<"):
    """An uncompressed grey TIFF."""
    entries = [
        (256, SIDE),
        (257, SIDE),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 134),
        (277, 1),
        (278, SIDE),
        (279, len(content)),
        (339, sample_format),
    ]
    directory = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + directory + bytes(4) + content


def twelve_bits(values):
    """Two values in three bytes, as TIFF packs them."""
    first, second = values.reshape(-1, 2).T.astype(np.uint32)
    return (
        np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
        .astype(np.uint8)
        .tobytes()
    )


def write(folder, content, name="a/0.png"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return FolderSource(folder, SIDE)


STACKED = np.stack([RAMP] * 3, axis=-1)
SIXTEEN_BITS = {
    "PNG, grey": save(Image.fromarray(RAMP), "PNG"),
    "PNG, grey and alpha": png(16, 4, np.stack([RAMP] * 2, axis=-1).astype(">u2")),
    "PNG, RGB": png(16, 2, STACKED.astype(">u2")),
    "PNG, RGBA": png(16, 6, np.stack([RAMP] * 4, axis=-1).astype(">u2")),
    "TIFF": save(Image.fromarray(RAMP), "TIFF"),
    "TIFF, packed": save(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
    "TIFF, big-endian": tiff(RAMP.astype(">u2").tobytes(), 16, order=">"),
    "TIFF, 12 bits": tiff(twelve_bits(RAMP >> 4), 12),
    "PGM": b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes(),
    "PPM": b"P6 16 16 65535\n" + STACKED.astype(">u2").tobytes(),
    "JPEG 2000": save(Image.fromarray(RAMP), "JPEG2000"),
}


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


GREY8 = (RAMP >> 8).astype(np.uint8)
NO_RANGE = {
    "32-bit float TIFF": save(Image.fromarray(RAMP.astype(np.float32) / 65535), "TIFF"),
    "PFM": b"Pf\n16 16\n-1.0\n" + RAMP.astype("<f4").tobytes(),
    "32-bit TIFF": save(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "unsigned 32-bit TIFF": tiff(RAMP.astype("<u4").tobytes(), 32),
    "signed 16-bit TIFF": tiff(RAMP.view("<i2").tobytes(), 16, sample_format=2),
    "signed 8-bit TIFF": tiff(GREY8.tobytes(), 8, sample_format=2),
    "16-bit TIFF in which zero is white": tiff(RAMP.tobytes(), 16, photometric=0),
}


@pytest.mark.parametrize("kind", NO_RANGE)
def test_values_without_a_known_range_are_unreadable(tmp_path, kind):
    with pytest.raises(
        UnreadableImageError,
        match=r"a/0\.png: cannot be read as an image \(.*save it as 8-bit grey or RGB\); restore",
    ) as error:
        write(tmp_path, NO_RANGE[kind]).read(0)
    assert "\n" not in str(error.value)


COLOURS = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
)
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


RAISED = [
    *(
        struct.error("unpack requires a buffer of 4 bytes"),
        zlib.error("Error -3"),
        IndexError("index out of range"),
        KeyError(272),
        TypeError("an integer is required"),
    ),
    *(
        OverflowError("too large"),
        AttributeError("no attribute"),
        AssertionError(),
        RuntimeError("Failed\nto decode"),
        NotImplementedError("mode"),
        MemoryError(),
    ),
    *(
        RecursionError("depth"),
        ZeroDivisionError("division"),
        ArithmeticError("x"),
        EOFError(),
        SyntaxError("broken PNG file"),
        Image.DecompressionBombError("bomb"),
    ),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_decoder_raises_is_listed(tmp_path, monkeypatch, error):
    source = write(tmp_path, save(COLOURS, "PNG"))

    def fail(file):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    images, failed = stage.decode_batch(source, np.array([0]))
    (listed,) = failed
    assert not images.any() and listed.where.endswith("a/0.png")
    assert listed.reason and "\n" not in listed.reason
    assert all(word in listed.reason for word in str(error).split()) and (
        str(error) or type(error).__name__ in listed.reason
    )


def test_an_interruption_is_no_unreadable_image(tmp_path, monkeypatch):
    source = write(tmp_path, save(COLOURS, "PNG"))

    def interrupt(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        source.read(0)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 40_000)])
def test_a_picture_too_narrow_to_crop_is_unreadable(tmp_path, size):
    """Resized to the side of 256 pixels it would take 16 GB."""
    (tmp_path / "a").mkdir()
    Image.new("RGB", size).save(tmp_path / "a" / "0.bmp")
    with pytest.raises(UnreadableImageError, match=rf"{size[0]} x {size[1]} pixels are too narrow"):
        FolderSource(tmp_path, 256).read(0)
    assert FolderSource(tmp_path, SIDE).read(0).shape == (SIDE, SIDE, 3)


# ---- damaged files -------------------------------------------------------------------------------


def _formats():
    pictures = {
        kind: save(
            COLOURS.resize((30, 20)), kind, **({"quality": 90} if kind in ("JPEG", "WEBP") else {})
        )
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "TGA", "ICO")
    }
    if features.check("avif"):
        pictures["AVIF"] = save(COLOURS.resize((30, 20)), "AVIF")
    pictures["16-bit PNG"] = SIXTEEN_BITS["PNG, grey"]
    pictures["progressive JPEG with EXIF"] = save(COLOURS, "JPEG", progressive=True, exif=_exif())
    pictures["animated GIF"] = save(
        COLOURS, "GIF", save_all=True, append_images=[COLOURS.rotate(90)]
    )
    pictures["CMYK JPEG"] = save(COLOURS.convert("CMYK"), "JPEG")
    return pictures | {
        f"{packing} TIFF": save(COLOURS, "TIFF", compression=packing)
        for packing in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    }


def _exif():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return exif


FORMATS = _formats()


def damaged(content, rng):
    """Some bytes changed, mostly of the header, or the end cut off."""
    spoilt = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(min(len(spoilt), rng.choice((64, 256, len(spoilt)))))
        spoilt[place] = rng.choice(
            (spoilt[place] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255)
        )
    return bytes(spoilt[: rng.randrange(len(spoilt))] if rng.random() < 0.1 else spoilt)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_decoded_or_listed(tmp_path, kind, capfd):
    """Random bytes give an image of the right shape, or one line.

    The reason in it is the same in every run.
    """
    source, rng = write(tmp_path, FORMATS[kind]), random.Random(kind)
    assert source.read(0).any()
    read = 0
    trials = 200
    for _ in range(trials):
        content = damaged(FORMATS[kind], rng)
        (tmp_path / "a/0.png").write_bytes(content)
        try:
            image = source.read(0)
        except UnreadableImageError as error:
            assert "\n" not in str(error) and error.reason and " at 0x" not in error.reason
        else:
            read += 1
            assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8
    assert 0 < read < trials
    capfd.readouterr()  # libtiff writes to the standard error by itself


def test_the_stage_lists_damaged_files_of_every_format(tmp_path):
    for number, content in enumerate(FORMATS.values()):
        write(tmp_path / "png", content, f"a/{number:02d}.png")
        write(tmp_path / "png", content[: len(content) // 3], f"b/{number:02d}.png")
    write(tmp_path / "png", NO_RANGE["PFM"], "b/99.png")
    options = DataOptions(
        source="folder", root=str(tmp_path / "png"), resolution=SIDE, num_classes=2
    )
    with pytest.raises(
        UserError,
        match=rf"lists \d+ of {2 * len(FORMATS) + 1} images that cannot be read, first .*b/00\.png",
    ):
        stage.write_images(options, tmp_path / "images.h5")
    listed = json.loads((tmp_path / "images.unreadable.json").read_text())["images"]
    assert all("/b/" in image["where"] for image in listed) and len(listed) > len(FORMATS) // 2
    assert "range is not known" in listed[-1]["reason"]


class DyingSource(FolderSource):
    """The process that decodes is killed, as for want of memory."""

    def read(self, index):
        os._exit(9)


def test_a_killed_worker_is_told_in_one_line(tmp_path, monkeypatch):
    source = write(tmp_path / "png", save(COLOURS, "PNG"))
    source.__class__ = DyingSource
    monkeypatch.setattr(stage, "open_source", lambda options: source)
    options = DataOptions(
        source="folder", root=str(tmp_path / "png"), resolution=SIDE, num_classes=1, workers=1
    )
    with pytest.raises(UserError, match=r"data\.workers: a process that decodes images was killed"):
        stage.write_images(options, tmp_path / "images.h5")
