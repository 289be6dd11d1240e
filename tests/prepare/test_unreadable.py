"""Images that cannot be read: listed, left out, or read again once they are restored."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import vrpo
from vrpo.data.shards import open_arrays, shard_name
from vrpo.errors import UserError
from vrpo.prepare.images import write_images
from vrpo.prepare.manifest import write_manifest

from tests.fixtures.prepared import DIGITS, png_options

pytestmark = pytest.mark.usefixtures("one_thread")

KEPT = [index for index in range(20) if index not in (11, 17)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_ends_the_stage(tmp_path, workers):
    for label in (0, 1):
        (tmp_path / "png" / str(label)).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "png" / str(label) / "a.png")
    (tmp_path / "png" / "1" / "a.png").write_bytes(b"no image")
    with pytest.raises(
        UserError,
        match=(
            r"images\.unreadable\.json: lists 1 of 2 images that cannot be read, first "
            r".*1/a\.png \(cannot identify"
        ),
    ):
        write_images(png_options(tmp_path, workers=workers), tmp_path / "images.h5")
    assert not (tmp_path / "images.h5").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_listed(broken, tmp_path, workers):
    options = broken.model_copy(update={"workers": workers})
    for _ in range(2):  # the second time from the list
        with pytest.raises(
            UserError,
            match=(
                r"images\.unreadable\.json: lists 2 of 20 images that cannot be read, "
                r"first .*b/1\.png .*skip_unreadable"
            ),
        ) as error:
            write_images(options, tmp_path / "images.h5")
        assert "\n" not in str(error.value) and not (tmp_path / "images.h5").exists()
    listed = json.loads((tmp_path / "images.unreadable.json").read_text())["images"]
    assert [image["index"] for image in listed] == [11, 17] and all(
        image["where"].endswith(".png") and image["reason"] for image in listed
    )


def test_unreadable_images_are_left_out_of_everything(broken, whole, tmp_path):
    options = broken.model_copy(update={"skip_unreadable": True})
    write_images(options, tmp_path / "images.h5")
    images = open_arrays(tmp_path / "images.h5")
    assert images.rows("images", slice(None))[:, 0, 0, 0].tolist() == [10 * index for index in KEPT]
    assert images.rows("labels", slice(None)).tolist() == [index // 10 for index in KEPT]
    assert images.attributes["count"] == 18 and images.attributes["skipped"] == 2
    write_manifest(options, tmp_path / "images.h5", tmp_path / "images.json")
    manifest = json.loads((tmp_path / "images.json").read_text())
    assert (
        manifest["count"] == 18
        and manifest["images_per_class"] == [10, 8]
        and len(manifest["unreadable"]) == 2
    )
    assert manifest["fingerprint"] == images.attributes["fingerprint"]
    for index in range(3):
        write_images(options, tmp_path / "shards" / shard_name(index, 3))
    shards = open_arrays(tmp_path / "shards")
    assert shards.attributes == images.attributes and shards.fingerprint == images.fingerprint
    np.testing.assert_array_equal(
        shards.rows("images", slice(None)), images.rows("images", slice(None))
    )
    write_manifest(options, tmp_path / "shards", tmp_path / "shards.json")
    assert (tmp_path / "shards.json").read_bytes() == (tmp_path / "images.json").read_bytes()
    DIGITS.encode_latents(whole, tmp_path / "latents.h5", tmp_path / "images.h5")
    latents = open_arrays(tmp_path / "latents.h5")
    assert (
        latents.rows("labels", slice(None)).tolist() == [index // 10 for index in KEPT]
        and latents.attributes["images"] == images.attributes["fingerprint"]
    )


def test_mended_images_are_read_again(broken, tmp_path):
    with pytest.raises(UserError, match="lists 2 of 20"):
        write_images(broken, tmp_path / "images.h5")
    for name in ("1", "7"):  # of the same size as before, so the source's fingerprint is the same
        path = Path(broken.root) / "b" / f"{name}.png"
        path.unlink()
        path.symlink_to(Path(broken.root) / "a" / "3.png")
        os.truncate(
            Path(broken.root) / "a" / "3.png", (Path(broken.root) / "a" / "3.png").stat().st_size
        )
    write_images(broken, tmp_path / "images.h5")
    assert open_arrays(tmp_path / "images.h5").rows("images", np.array([11, 17]))[
        :, 0, 0, 0
    ].tolist() == [30, 30]
    assert not (tmp_path / "images.unreadable.json").exists()


def test_a_changed_data_set_is_noticed(broken, tmp_path):
    options = broken.model_copy(update={"skip_unreadable": True})
    write_images(options, tmp_path / "images.h5")
    Image.new("RGB", (16, 16)).save(Path(broken.root) / "a" / "99.png")
    with pytest.raises(UserError, match=r"images\.h5: the data set has changed"):
        write_manifest(options, tmp_path / "images.h5", tmp_path / "images.json")


def test_commands_of_the_workflow(broken, tmp_path):
    """`images` and `manifest` as the rules call them, with two shards."""
    (tmp_path / "images.yaml").write_text(
        yaml.safe_dump(broken.model_dump(mode="json") | {"shards": 2})
    )

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "vrpo", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(vrpo.__file__).parents[1],
        )

    first, second = (tmp_path / "images" / shard_name(index, 2) for index in (0, 1))
    assert call("images", "--config", tmp_path / "images.yaml", "--output", first).returncode == 0
    failed = call("images", "--config", tmp_path / "images.yaml", "--output", second)
    assert (
        failed.returncode == 2
        and failed.stderr.count("vrpo: error:") == 1
        and "lists 2 of 10 images" in failed.stderr
    )
    (tmp_path / "images.yaml").write_text(
        yaml.safe_dump(broken.model_dump(mode="json") | {"shards": 2, "skip_unreadable": True})
    )
    assert call("images", "--config", tmp_path / "images.yaml", "--output", second).returncode == 0
    assert (
        call(
            "manifest",
            "--config",
            tmp_path / "images.yaml",
            "--images",
            tmp_path / "images",
            "--output",
            tmp_path / "images.json",
        ).returncode
        == 0
    )
    assert json.loads((tmp_path / "images.json").read_text())["count"] == 18
