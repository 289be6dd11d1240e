"""Folders of images: their order, their content, and the images stage's treatment of them."""

import os
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from vrpo.config.data import DataOptions
from vrpo.errors import UserError
from vrpo.metrics.compute_reference import compute_reference
from vrpo.metrics.evaluate import evaluate
from vrpo.metrics.folders import natural_order
from vrpo.metrics.inputs import open_images, open_real_images
from vrpo.prepare.images import write_images

from tests.fixtures.metrics import OPTIONS, make_images, write_reference

COUNT = 230  # more than two chunks of the Inception score; names of one, two and three digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_reference(folder, 200)
    np.savez(folder / "samples.npz", arr_0=make_images(COUNT, seed=5))
    return folder


def score(folder, samples, reference="reference.npz"):
    return evaluate(
        OPTIONS, samples, folder / reference, folder / "classifier.safetensors", None, "cpu"
    )


def write_pngs(place, images, name="{}.png"):
    for number, image in enumerate(images):
        file = place / name.format(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return place


def test_natural_order():
    expected = [
        "0.png",
        "01.png",
        "1.png",
        "2.png",
        "10.png",
        "a/1.png",
        "a/10.png",
        "a2/0.png",
        "a10/0.png",
        "img2.png",
        "img10.png",
        "img10b.png",
        "x.png",
    ]
    swapped = [expected[0], expected[2], expected[1], *expected[3:]]  # 1.png before 01.png
    for shuffled in (swapped, swapped[::-1], sorted(expected)):
        assert [str(path) for path in sorted(map(Path, shuffled), key=natural_order)] == expected


@pytest.mark.parametrize("name", ["{}.png", "sample_{}.PNG", "{:06d}.png", "part{}/x.png"])
def test_a_folder_scores_as_the_npz_of_the_same_images(folder, tmp_path, name):
    """In every score and interval: all of them depend on the order of the images."""
    images = make_images(COUNT, seed=5)
    samples = write_pngs(tmp_path / "samples", images, name)
    np.testing.assert_array_equal(np.concatenate(list(open_images(samples).batches(64))), images)
    ours, theirs = score(folder, samples), score(folder, folder / "samples.npz")
    assert ours["scores"] == theirs["scores"] and ours["confidence"] == theirs["confidence"]
    shuffled = np.random.default_rng(0).permutation(COUNT)
    np.savez(tmp_path / "shuffled.npz", arr_0=images[shuffled])
    other = score(folder, tmp_path / "shuffled.npz")  # else the test would hold for any order
    assert all(other["scores"][name] != ours["scores"][name] for name in ("is", "kid"))


def test_a_reference_folder_is_the_reference_of_the_same_images_stored(folder, tmp_path):
    """Also where some of them are drawn for precision, recall and KID (150 of 200)."""
    write_pngs(folder / "real", make_images(200))
    stored, drawn = (score(folder, folder / "samples.npz", name) for name in ("images.h5", "real"))
    assert (
        stored["protocol"]["reference"]["subset"]["of"] == 200
        and stored["protocol"]["precision_recall"]["reference_images"] == 150
    )
    assert drawn["scores"] == stored["scores"] and drawn["confidence"] == stored["confidence"]


def test_images_in_linked_folders_are_read(tmp_path):
    """A folder made of links to others, as data sets on shared disks often are."""
    write_pngs(tmp_path / "elsewhere", make_images(3))
    write_pngs(tmp_path / "samples/a", make_images(2))
    (tmp_path / "samples/b").symlink_to(tmp_path / "elsewhere")
    assert open_images(tmp_path / "samples").count == 5


def test_litter_is_neither_sample_nor_reference(folder, tmp_path):
    """Files that systems and tools leave behind, as in the image sources.

    They neither add an image nor refuse the folder.
    """
    for name in ("samples", "real"):
        place = write_pngs(tmp_path / name, make_images(20))
        for litter in (
            "._3.png",
            ".ipynb_checkpoints/3-checkpoint.png",
            "__MACOSX/._3.jpg",
            ".thumbs/3.jpg",
        ):
            (place / litter).parent.mkdir(exist_ok=True)
            (place / litter).write_bytes(b"no image")
    record = score(folder, tmp_path / "samples", tmp_path / "real")
    assert record["protocol"]["images"] == record["protocol"]["reference"]["count"] == 20


def test_a_pipe_among_the_samples_is_not_waited_for(tmp_path):
    samples = write_pngs(tmp_path / "samples", make_images(3))
    os.mkfifo(samples / "9.png")
    with pytest.raises(
        UserError, match=r"9\.png: cannot be decoded \(it is a pipe or a device, no file\)"
    ):
        open_images(samples)


def write_photos(root):
    """Real images as data sets have them.

    Classes in folders, several kinds, sizes and modes, one smaller than the wanted size.
    """
    for number, (width, height) in enumerate(
        [(80, 50), (33, 47), (32, 32), (200, 40), (24, 30), (64, 64)] * 6
    ):
        image = Image.fromarray(make_images(1, 200, number)[0]).resize((width, height))
        kind = ("jpg", "JPEG", "png", "webp", "bmp", "ppm")[number % 5]
        file = root / f"class{number % 2}/{number:03d}.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        (image.convert("L") if number % 7 == 0 else image).save(file)
    return root


def test_real_images_become_what_the_images_stage_makes_of_them(folder, tmp_path):
    """As reference by themselves, and through the commands `images` and `reference`.

    The scores are equal.
    """
    root = write_photos(tmp_path / "photos")
    options = DataOptions(source="folder", root=str(root), resolution=32, num_classes=2)
    write_images(options, tmp_path / "images.h5")
    with h5py.File(tmp_path / "images.h5") as file:
        prepared = file["images"][:]
    np.testing.assert_array_equal(
        np.concatenate(list(open_real_images(root, 32).batches(7))), prepared
    )
    record = score(folder, folder / "samples.npz", root)
    assert (
        record["scores"] == score(folder, folder / "samples.npz", tmp_path / "images.h5")["scores"]
    )
    assert record["protocol"]["reference"]["count"] == 36
    assert (
        "reference: 30 of its images are cropped and resized as the training images are, "
        "6 of them enlarged" in record["protocol"]["warnings"]
    )
    weights = folder / "classifier.safetensors"
    compute_reference(OPTIONS, root, weights, tmp_path / "reference.npz", "cpu", resolution=32)
    stored = score(folder, folder / "samples.npz", tmp_path / "reference.npz")
    assert stored["scores"] == record["scores"] and stored["protocol"] == record["protocol"]


def test_what_real_images_cannot_be(folder, tmp_path):
    root = write_photos(tmp_path / "photos")
    (root / "notes.txt").touch()
    weights = folder / "classifier.safetensors"
    with pytest.raises(UserError, match=r"class0/000\.jpg: 80 x 50 pixels; .* need --resolution"):
        compute_reference(OPTIONS, root, weights, tmp_path / "reference.npz", "cpu")
    with pytest.raises(UserError, match=r"its images are 32 x 32, those of --resolution 64 x 64"):
        compute_reference(
            OPTIONS, folder / "images.h5", weights, tmp_path / "reference.npz", "cpu", resolution=64
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no images in it"):
        score(folder, folder / "samples.npz", tmp_path / "empty")
    for name in ("class1/9.gif", "9"):
        Image.fromarray(make_images(1)[0]).save(root / name, "GIF")
        said = rf"photos: holds images of kinds that are not read: 1, first `{name}`; .*move them"
        with pytest.raises(UserError, match=said):
            score(folder, folder / "samples.npz", root)
        (root / name).unlink()
    whole = (root / "class1/001.JPEG").read_bytes()
    (root / "class1/001.JPEG").write_bytes(whole[:-100])  # its header is whole
    with pytest.raises(
        UserError, match=r"001\.JPEG: cannot be read as an image \(.*\); restore or remove it"
    ):
        score(folder, folder / "samples.npz", root)
    (root / "class1/001.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"001\.JPEG: cannot be decoded"):
        score(folder, folder / "samples.npz", root)
    assert not (tmp_path / "reference.npz").exists()


def test_places_that_hold_no_images(folder, tmp_path):
    for samples, complaint in (
        (tmp_path / "absent", "no such file or folder"),
        (tmp_path / "0.png", "is neither .h5 nor .npz; give samples as"),
    ):
        if samples.suffix:
            Image.fromarray(make_images(1)[0]).save(samples)
        with pytest.raises(UserError, match=complaint):
            score(folder, samples)
    with pytest.raises(UserError, match=r"is neither .* give real images as"):
        score(folder, folder / "samples.npz", tmp_path / "0.png")


def test_too_few_images_are_refused_before_the_others_are_looked_at(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "vrpo.metrics.reference.extract",
        lambda *arguments, **named: pytest.fail("images went through the network"),
    )
    monkeypatch.setattr(
        "vrpo.metrics.evaluate.extract",
        lambda *arguments, **named: pytest.fail("images went through the network"),
    )
    few = write_pngs(tmp_path / "few", make_images(3))
    for samples, reference in ((few, folder / "images.h5"), (folder / "samples.npz", few)):
        with pytest.raises(
            UserError, match="few: 3 images are too few for neighbour 3 of precision and recall"
        ):
            score(folder, samples, reference)


@pytest.mark.parametrize(
    "name", ["9.jpg", "9.JPEG", "deeper/9.webp", "9.bmp", "9.gif", "9", "9.png.1"]
)
def test_other_images_among_the_samples_are_refused(folder, tmp_path, name):
    """They would be left out of the scores, or bring lossy compression into them."""
    samples = write_pngs(tmp_path / "samples", make_images(20))
    (samples / "deeper").mkdir()
    kind = None if name[-1].isalpha() else "PNG"
    Image.fromarray(make_images(1)[0]).save(samples / name, kind)
    (samples / "notes.txt").touch()  # no image
    with pytest.raises(
        UserError,
        match=(
            rf"samples: 1 of its 21 images are no .png files, first {name}; .*save all "
            rf"as .png, or move the others"
        ),
    ):
        score(folder, samples)
    (samples / name).unlink()
    assert open_images(samples).count == 20
    for file in samples.glob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match="no PNG in it"):
        open_images(samples)


def test_a_faulty_sample_is_named_before_anything_is_computed(folder, tmp_path):
    """The header does not matter: a JPEG under the name of a PNG, another mode or size."""
    image = Image.fromarray(make_images(1)[0])
    faults = {
        "is a JPEG and no PNG": lambda file: image.save(file, "JPEG"),
        "mode RGBA": lambda file: image.convert("RGBA").save(file),
        "mode I;16": lambda file: Image.fromarray(np.zeros((32, 32), np.uint16)).save(file),
        "40 x 40 pixels, while 0.png has 32 x 32": lambda file: image.resize((40, 40)).save(file),
        "32 x 40 pixels; scores are defined on square": lambda file: image.resize((32, 40)).save(
            file
        ),
        "cannot be decoded": lambda file: file.write_bytes(b"\x89PNG broken"),
    }
    samples = write_pngs(tmp_path / "samples", make_images(20))
    for complaint, spoil in faults.items():
        spoil(samples / "15.png")
        with pytest.raises(UserError, match=rf"15\.png: .*{complaint}"):
            open_images(samples)


def test_damaged_pngs_are_refused_by_name(tmp_path):
    """Cut files and flipped bytes, with checksums that hold or do not.

    They give the same one line, or an image that can be decoded all the same.
    """
    samples = write_pngs(tmp_path / "samples", make_images(1))
    file, rng, refused = samples / "0.png", np.random.default_rng(0), 0
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for trial in range(400):
        damaged = whole.copy()
        damaged[rng.integers(60 if trial % 2 else len(whole), size=3)] ^= rng.integers(
            1, 256, 3, dtype=np.uint8
        )
        content = damaged.tobytes()[: rng.integers(len(whole)) if trial % 5 == 0 else None]
        file.write_bytes(with_checksums(content) if trial % 3 else content)
        try:
            images = open_images(samples)
            assert next(images.batches(8)).shape == (1, images.resolution, images.resolution, 3)
        except UserError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error)
            refused += 1
    assert refused > 200


def with_checksums(png):
    """The chunks of a PNG with their right CRC-32, so that a decoder goes on to what they hold."""
    content, place = bytearray(png), 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(bytes(content[place + 4 : end])))
        place = end + 4
    return bytes(content)
