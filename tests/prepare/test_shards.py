"""Preparation in shards, with unreadable images, and stages killed at random moments."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vrpo
from vrpo.data.arrays import Arrays
from vrpo.data.batches import TrainingData
from vrpo.data.quantisation import STORED_TYPES, decode, encode, storage_error
from vrpo.data.shards import open_arrays, shard_name
from vrpo.errors import UserError
from vrpo.prepare.images import write_images
from vrpo.prepare.manifest import write_manifest
from vrpo.prepare.tokenizer import fit_tokenizer
from vrpo.seeds import numpy_generator

from tests.fixtures.prepared import DIGITS, png_options
from tests.fixtures.stages import Stages

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 1797


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread):
    """Everything in one file each."""
    folder = tmp_path_factory.mktemp("whole")
    DIGITS.fit(folder)
    write_manifest(DIGITS.data, folder / "images.h5", folder / "images.json")
    DIGITS.encode_latents(folder, folder / "latents.h5")
    DIGITS.encode_features(folder, folder / "features.h5")
    return folder


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
    assert manifest["count"] == COUNT == sum(manifest["images_per_class"]) and manifest[
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


# ---- how tokens are stored -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "mean", "worst"),
    [("int8", 1e-4, 3e-4), ("float8", 6e-4, 8e-4), ("float16", 5e-8, 1e-7)],
)
def test_storage_errors(storage, mean, worst):
    tokens = torch.randn(8, 20, 768, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -3, 3, 20
    ).view(20, 1)
    values, scale = encode(tokens, storage)
    assert str(values.dtype) == f"torch.{STORED_TYPES[storage]}" and (scale is None) == (
        storage == "float16"
    )
    decoded = decode(values, scale, storage)
    assert decoded.dtype == torch.float32
    error = storage_error(tokens, decoded)
    assert mean / 4 < error[:, 0].mean() < mean and error[:, 1].max() < worst
    again = decode(*encode(decoded, storage), storage)
    assert (again - decoded).abs().max() <= 2e-3 * decoded.abs().max()
    zeros = encode(torch.zeros(1, 1, 8), storage)
    assert not decode(*zeros, storage).any() and (scale is None or torch.isfinite(zeros[1]).all())


def test_int8_is_at_most_about_half_a_level_off():
    tokens = torch.randn(5, 4, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -3, 3, 4
    ).view(4, 1)
    values, scale = encode(tokens, "int8")
    level = scale.float().unsqueeze(-1)
    assert (
        (decode(values, scale, "int8") - tokens).abs() <= (0.5 + 127 * 2**-11) * level * 1.001
    ).all()  # the scale's rounding clips the largest value


@pytest.mark.parametrize("storage", ["float8", "float16"])
def test_other_storages(whole, tmp_path, storage):
    DIGITS.encode_features(whole, tmp_path / "features.h5", storage=storage, attention=[1])
    arrays, exact = Arrays(tmp_path / "features.h5"), Arrays(whole / "features.h5")
    assert (
        arrays.attributes["storage"] == storage and arrays.dtype("tokens") == STORED_TYPES[storage]
    )
    rows = np.arange(50)
    ours, theirs = (
        decode(
            torch.from_numpy(file.rows("tokens", rows)),
            torch.from_numpy(file.rows("scale", rows)) if "scale" in file else None,
            file.attributes["storage"],
        )
        for file in (arrays, exact)
    )
    assert storage_error(ours, theirs).max() < 2e-3
    gathered = TrainingData(whole / "latents.h5", {"vit": tmp_path / "features.h5"}).gather(
        rows, attention=True
    )
    assert (
        torch.equal(gathered.tokens["vit"], ours)
        and gathered.attention["vit"].shape[1:] == arrays.shape("attention")[1:]
    )
    assert 0 < arrays.attributes["error"]["mean"] < {"float8": 1e-3, "float16": 1e-6}[storage]
    assert arrays.shape("attention")[:3] == (COUNT, 1, 2) and ("attention_scale" in arrays) == (
        storage == "float8"
    )


# ---- images that cannot be read ------------------------------------------------------------------


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


KEPT = [index for index in range(20) if index not in (11, 17)]


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


# ---- killed at random moments --------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages():
    with Stages() as running:
        yield running


def test_killed_at_random_moments(whole, tmp_path, stages):
    """SIGKILL at seeded random moments of writing images, latents and features.

    Afterwards the bytes are those of the undisturbed files.
    """
    for name in ("images", "latents", "features"):
        output, wanted = tmp_path / f"{name}.h5", (whole / f"{name}.h5").read_bytes()
        random = numpy_generator("kill-moments", name)
        moments = [
            (moment, random.integers(1, 6))
            for moment in ("between-arrays", "between-rows", "between-arrays", "between-rows")
        ]
        for moment, count in [*moments, ("unsealed", 1), ("unnamed", 1), ("named", 1)]:
            killed = stages.run("digits", name, whole, output, moment, count)
            assert killed == signal.SIGKILL, (name, moment)
            assert output.exists() == (moment == "named")
        assert output.read_bytes() == wanted
        assert stages.run("digits", name, whole, output) == 0
        assert output.read_bytes() == wanted


def test_workers_end_with_a_killed_stage(broken, tmp_path):
    slow = f"""
import os, time
from pathlib import Path
from vrpo.config.data import DataOptions
from vrpo.data.sources import FolderSource
from vrpo.prepare.images import write_images

class SlowSource(FolderSource):
    def read(self, index):
        Path({str(tmp_path)!r}, f"reads-{{os.getpid()}}").touch()
        time.sleep(600)

if __name__ == "__main__":
    import vrpo.prepare.images as stage
    stage.open_source = lambda options: SlowSource(options.root, options.resolution)
    options = DataOptions(
        source="folder", root={broken.root!r}, resolution=16, num_classes=2, workers=2
    )
    write_images(options, {str(tmp_path / "images.h5")!r})
"""
    (tmp_path / "slow.py").write_text(slow)
    environment = {**os.environ, "PYTHONPATH": str(Path(vrpo.__file__).parents[1])}
    stage_process = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py")], env=environment, stderr=subprocess.DEVNULL
    )
    reading = _wait_for(lambda: list(tmp_path.glob("reads-*")))
    worker = int(reading[0].name.removeprefix("reads-"))
    assert _is_worker(worker)
    stage_process.kill()
    stage_process.wait()
    _wait_for(lambda: not _is_worker(worker))


def _is_worker(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


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
