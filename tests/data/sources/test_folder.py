import numpy as np
import pytest
from PIL import Image

from vrpo.config.data import DataOptions
from vrpo.data.sources import DigitsSource, FolderSource, center_crop, open_source
from vrpo.errors import UserError


def save_image(path, size=(20, 16), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def adm_crop(pixels, size):
    """The definition, written on arrays.

    Averages of 2x2 blocks while the image is twice too large, then bicubic, then the middle.
    """
    while min(pixels.shape[:2]) >= 2 * size:
        height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.BOX))
    factor = size / min(pixels.shape[:2])
    pixels = np.asarray(
        Image.fromarray(pixels).resize(
            (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)), Image.BICUBIC
        )
    )
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


@pytest.mark.parametrize(
    "size", [(20, 16), (16, 33), (100, 71), (16, 16), (7, 9), (257, 64), (32, 31)]
)
def test_center_crop_is_adms(tmp_path, size):
    pixels = save_image(tmp_path / "a.png", size)
    ours = np.asarray(center_crop(Image.fromarray(pixels), 16))
    assert ours.shape == (16, 16, 3)
    np.testing.assert_array_equal(ours, adm_crop(pixels, 16))


def test_center_crop_halves_by_the_mean_of_blocks():
    blocks = np.random.default_rng(0).integers(0, 64, (8, 8), dtype=np.uint8) * 4
    image = Image.fromarray(np.kron(blocks, np.ones((4, 4), dtype=np.uint8)))
    np.testing.assert_array_equal(np.asarray(center_crop(image, 8)), blocks)


def test_digits():
    source = DigitsSource(32)
    assert len(source) == 1797
    assert source.labels.dtype == np.int64 and set(source.labels) == set(range(10))
    image = source.read(0)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert (image[..., 0] == image[..., 1]).all() and image.max() > 200 and image.min() == 0
    described = source.describe()
    assert described["count"] == 1797 and described["classes"] == 10
    assert described == DigitsSource(32).describe()
    assert described["fingerprint"] != DigitsSource(16).describe()["fingerprint"]


def test_folder_order_is_torchvisions(tmp_path):
    from torchvision.datasets import ImageFolder

    for name in [
        "b/2.png",
        "b/10.PNG",
        "b/deep/x.jpg",
        "a/1.jpeg",
        "B/0.webp",
        "a-1/z.bmp",
        "b/a.tif",
        "b/deeper/x.ppm",
    ]:
        save_image(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "README").write_text("no class")
    theirs = ImageFolder(str(tmp_path))
    ours = FolderSource(tmp_path, 16)
    assert ours.classes == theirs.classes
    assert [str(tmp_path / file) for file in ours.files] == [path for path, _ in theirs.samples]
    assert ours.labels.tolist() == [label for _, label in theirs.samples]
    assert ours.read(0).shape == (16, 16, 3)


def test_folder_fingerprint_follows_files_and_resolution(tmp_path):
    save_image(tmp_path / "a" / "1.png")
    save_image(tmp_path / "b" / "1.png")
    first = FolderSource(tmp_path, 16).describe()["fingerprint"]
    assert FolderSource(tmp_path, 16).describe()["fingerprint"] == first
    assert FolderSource(tmp_path, 8).describe()["fingerprint"] != first
    save_image(tmp_path / "b" / "2.png")
    assert FolderSource(tmp_path, 16).describe()["fingerprint"] != first


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB").convert(
        mode
    ).save(tmp_path / "a" / ("1.tif" if mode == "CMYK" else "1.png"))
    assert FolderSource(tmp_path, 8).read(0).shape == (8, 8, 3)


def test_bad_folders(tmp_path):
    def folder(root, num_classes=2):
        return DataOptions(source="folder", root=str(root), resolution=16, num_classes=num_classes)

    with pytest.raises(UserError, match=r"data\.root: .*nowhere"):
        open_source(folder(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"data\.root: .* no class folders"):
        open_source(folder(tmp_path))
    save_image(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"b holds no images"):
        open_source(folder(tmp_path))
    save_image(tmp_path / "b" / "1.png")
    with pytest.raises(UserError, match=r"data\.num_classes: 3, but .* 2 classes"):
        open_source(folder(tmp_path, 3))
    assert len(open_source(folder(tmp_path))) == 2


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_an_unreadable_image_is_named(tmp_path, damage):
    path = tmp_path / "a" / "1.png"
    save_image(path, (200, 200))
    path.write_bytes(
        {"empty": b"", "text": b"hello", "truncated": path.read_bytes()[:5000]}[damage]
    )
    with pytest.raises(UserError, match=r"a/1\.png: cannot be read as an image") as error:
        FolderSource(tmp_path, 16).read(0)
    assert "\n" not in str(error.value)
