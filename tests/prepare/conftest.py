"""Prepared images, and images of which some cannot be read."""

import numpy as np
import pytest
from PIL import Image

from vrpo.prepare.manifest import write_manifest

from tests.fixtures.prepared import DIGITS, PNG_COUNT, png_options, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory, one_thread):
    """Two classes of 30 small images, bright above or below, and every file made from them."""
    folder = tmp_path_factory.mktemp("prepared")
    random = np.random.default_rng(0)
    for index in range(PNG_COUNT):
        pixels = random.integers(0, 100, (16, 16, 3), dtype=np.uint8)
        label = index % 2
        pixels[8 * label : 8 * label + 8] += 120
        path = folder / "png" / f"class{label}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread):
    """Digits, and everything made from them, in one file each."""
    folder = tmp_path_factory.mktemp("whole")
    DIGITS.fit(folder)
    write_manifest(DIGITS.data, folder / "images.h5", folder / "images.json")
    DIGITS.encode_latents(folder, folder / "latents.h5")
    DIGITS.encode_features(folder, folder / "features.h5")
    return folder


@pytest.fixture
def broken(tmp_path):
    """20 images of two classes, of which b/1.png and b/7.png cannot be read."""
    for index in range(20):
        path = tmp_path / "png" / "ab"[index // 10] / f"{index % 10}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 10 * index, dtype=np.uint8)).save(path)
    for name in ("1", "7"):
        (tmp_path / "png" / "b" / f"{name}.png").write_bytes(b"no image")
    return png_options(tmp_path)
