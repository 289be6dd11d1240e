"""Preparation in shards: the rows of one file."""

import json

import numpy as np
import pytest

from vrpo.data.arrays import Arrays
from vrpo.data.shards import open_arrays, shard_name
from vrpo.errors import UserError
from vrpo.prepare.images import write_images
from vrpo.prepare.manifest import write_manifest
from vrpo.prepare.tokenizer import fit_tokenizer

from tests.fixtures.prepared import DIGITS, DIGITS_COUNT

pytestmark = pytest.mark.usefixtures("one_thread")


def test_three_shards_hold_the_rows_of_one_file(whole, tmp_path):
    files = [shard_name(index, 3) for index in (2, 0, 1)]
    for name in files:
        write_images(DIGITS.data, tmp_path / "images" / name)
    images = tmp_path / "images"
    for name in files:
        DIGITS.encode_latents(whole, tmp_path / "latents" / name, images)
        DIGITS.encode_features(whole, tmp_path / "features" / name, images)
    for name in ("images", "latents", "features"):
        one, many = open_arrays(whole / f"{name}.h5"), open_arrays(tmp_path / name)
        names = one.keys()
        assert many.keys() == names
        for key in names:
            np.testing.assert_array_equal(
                one.rows(key, slice(None)), many.rows(key, slice(None)), err_msg=f"{name} {key}"
            )
        same = {key for key in one.attributes if key != "error"}
        assert {key: one.attributes[key] for key in same} == {
            key: many.attributes[key] for key in same
        }
        if name == "features":
            assert many.attributes["error"] == pytest.approx(one.attributes["error"])
        else:
            assert one.fingerprint == many.fingerprint
    write_manifest(DIGITS.data, images, tmp_path / "images.json")
    assert (tmp_path / "images.json").read_bytes() == (whole / "images.json").read_bytes()
    fit_tokenizer(DIGITS.tokenizer, images, tmp_path / "tokenizer.safetensors", "cpu")
    assert (tmp_path / "tokenizer.safetensors").read_bytes() == (
        whole / "tokenizer.safetensors"
    ).read_bytes()


def test_manifest(whole):
    manifest = json.loads((whole / "images.json").read_text())
    assert manifest["count"] == DIGITS_COUNT == sum(manifest["images_per_class"]) and manifest[
        "class_names"
    ] == list("0123456789")
    assert (
        manifest["fingerprint"] == Arrays(whole / "images.h5").attributes["fingerprint"]
        and manifest["unreadable"] == []
    )


def test_more_shards_than_batches(whole, tmp_path):
    with pytest.raises(
        UserError,
        match=(
            r"data\.shards: 30 shards for 29 batches of 64 images leave some empty; set "
            r"it to 29 or less"
        ),
    ):
        DIGITS.encode_latents(whole, tmp_path / shard_name(0, 30))
