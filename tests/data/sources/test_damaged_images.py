"""Images that cannot be decoded are listed with the reason, whatever the decoder does."""

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

from tests.fixtures.pictures import COLOURS, NO_RANGE, SIDE, SIXTEEN_BITS, save, write

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
