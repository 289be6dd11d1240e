"""Latents that were encoded elsewhere: REPA's layout in, the same file as from our encoder out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from vrpo.config.networks import TokenizerOptions
from vrpo.data.arrays import Arrays
from vrpo.data.shards import open_arrays
from vrpo.errors import UserError
from vrpo.prepare.latents import encode_latents

from tests.fixtures.vae import EACH, PLAIN, options, pixels, write_images, write_vae

pytestmark = pytest.mark.usefixtures("one_thread")
COUNT = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, a VAE, and their latents as REPA's `dataset_tools.py encode` writes them."""
    write_images(tmp_path / "images.h5", pixels(COUNT))
    vae = AutoencoderKL.from_pretrained(write_vae(tmp_path / "vae", **PLAIN))
    labels = []
    for index, image in enumerate(pixels(COUNT)):
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            posterior = vae.encode(x).latent_dist
        name = f"{index // 5:05d}/img-mean-std-{index:08d}.npy"
        path = tmp_path / "vae-sd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, torch.cat([posterior.mean, posterior.std], 1)[0].numpy())
        labels.append([name, index % 3])
    write_labels(tmp_path, labels[::-1])  # their order is that of the names
    return tmp_path


def write_labels(folder: Path, labels: object) -> None:
    (folder / "vae-sd/dataset.json").write_text(json.dumps({"labels": labels}))


def encoded(folder: Path, output: str = "latents.h5", **others: object) -> Arrays:
    chosen = options(folder / "vae", batch_size=5, encoded=str(folder / "vae-sd"), **others)
    encode_latents(chosen, folder / "images.h5", None, folder / output, "cpu")
    return open_arrays(folder / output)


@pytest.mark.parametrize("config", [PLAIN, EACH], ids=["one factor", "each channel"])
def test_they_are_what_the_vae_would_give(folder: Path, config: dict[str, object]) -> None:
    write_vae(folder / "vae", **config)
    read = encoded(folder)
    plain = TokenizerOptions(weights=str(folder / "vae"))
    encode_latents(plain, folder / "images.h5", None, folder / "own.h5", "cpu")
    own = open_arrays(folder / "own.h5")
    for name in ("mean", "std"):
        first, second = (each.rows(name, slice(0, COUNT)) for each in (read, own))
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    rows = [each.rows("labels", slice(0, COUNT)) for each in (read, own)]
    assert np.array_equal(*rows)
    added = read.attributes.keys() - own.attributes.keys()
    assert added == {"encoded"} and len(read.attributes["encoded"]) == 64
    for name in ("scale", "shift", "sha256", "images"):
        assert read.attributes[name] == own.attributes[name]


def test_a_part_of_them(folder: Path) -> None:
    whole = encoded(folder).rows("mean", slice(0, COUNT))
    parts = []
    for index in range(2):
        name = f"latents/shard-{index:05d}-of-00002.h5"
        (folder / "latents").mkdir(exist_ok=True)
        parts.append(name)
        chosen = options(folder / "vae", batch_size=5, encoded=str(folder / "vae-sd"))
        encode_latents(chosen, folder / "images.h5", None, folder / name, "cpu")
    read = open_arrays(folder / "latents")
    assert np.array_equal(read.rows("mean", slice(0, COUNT)), whole)


def damage(folder: Path, kind: str) -> None:
    first = folder / "vae-sd/00000/img-mean-std-00000000.npy"
    listing = json.loads((folder / "vae-sd/dataset.json").read_text())["labels"]
    if kind == "missing":
        first.unlink()
    elif kind == "pickled":
        np.save(first, np.array([{"a": 1}]))
    elif kind == "nan":
        np.save(first, np.full_like(np.load(first), np.nan))
    elif kind == "shape":
        np.save(first, np.load(first)[:7])
    elif kind == "unlabelled":
        write_labels(folder, None)
    elif kind == "fewer":
        write_labels(folder, listing[1:])
    elif kind == "labels":
        write_labels(folder, [[name, 1] for name, _ in listing])
    elif kind == "others":
        np.save(first, np.load(first)[:, ::-1])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "is missing or no .npy of numbers"),
        ("pickled", "is missing or no .npy of numbers"),
        ("nan", "holds NaN or infinite numbers"),
        ("shape", r"is float32 \[7, 4, 4\], not float32 \[2 C, h, w\]"),
        ("unlabelled", "dataset.json is missing, or not a list of names and labels"),
        ("fewer", "has 11 latents, the data set 12 images"),
        ("labels", "has the label 1, image 0 of the data set 0"),
        ("others", "is not what `tokenizer.weights` makes of image 0"),
    ],
)
def test_latents_that_are_not_of_these_images(folder: Path, kind: str, words: str) -> None:
    damage(folder, kind)
    with pytest.raises(UserError, match=words) as error:
        encoded(folder)
    assert "\n" not in str(error.value)
    assert not (folder / "latents.h5").exists()
