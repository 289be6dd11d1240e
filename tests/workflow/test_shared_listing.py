"""The images are listed once for all shards, by a job of its own."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.workflow import plan, snakemake, stats, whole

pytestmark = [pytest.mark.workflow]

MANIFEST = "results/tiny/images.json"


def write_images(root: Path) -> Path:
    """Six images of two classes."""
    for number in range(6):
        file = root / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 40 * number, dtype=np.uint8)).save(file)
    return root


def data(root: Path, **other: object) -> str:
    data = {"source": "folder", "root": str(root), "num_classes": 2, "resolution": 32, **other}
    return f"data={json.dumps(data)}"


@pytest.mark.parametrize(
    ("options", "listings"),
    [({"shards": 3}, 1), ({}, 0), ({"shards": 3, "source": "digits", "num_classes": 10}, 0)],
    ids=str,
)
def test_shards_alone_need_a_listing(
    options: dict[str, object], listings: int, tmp_path: Path
) -> None:
    result = plan(tmp_path, "--config", data(tmp_path, **options), "--", MANIFEST)
    assert result.returncode == 0, whole(result)
    jobs = stats(whole(result))
    assert jobs["images"] == options.get("shards", 1) and jobs.get("listing", 0) == listings


def test_the_listing_serves_all_shards(tmp_path: Path) -> None:
    root = write_images(tmp_path / "my images")
    damaged = root / "b" / "5.png"
    content = damaged.read_bytes()
    damaged.write_bytes(bytes(len(content)))
    arguments = ["--cores", "2", "--keep-going", "--config", data(root, shards=3), "--", MANIFEST]
    result = snakemake(tmp_path, *arguments)
    results = tmp_path / "results/tiny"
    assert result.returncode != 0 and "Traceback" not in whole(result)
    assert (
        "lists 1 of 2 images that cannot be read" in (results / "logs/images/00002.log").read_text()
    )

    damaged.write_bytes(content)
    result = snakemake(tmp_path, *arguments)
    assert result.returncode == 0, whole(result)[-8000:]
    assert stats(whole(result))["images"] == 1 and "listing" not in stats(whole(result))
    assert json.loads((results / "images.json").read_text())["images_per_class"] == [3, 3]
    logs = {path.name: path.read_text() for path in (results / "logs/images").glob("[!.]*")}
    assert sorted(logs) == ["00000.log", "00001.log", "00002.log", "00002.log.1"]
    assert not any("images of 2 classes" in log for log in logs.values()), (
        "a shard listed the images by itself"
    )
    assert "6 images of 2 classes" in (results / "logs/listing.log").read_text()

    result = plan(tmp_path, *arguments[3:])
    assert result.returncode == 0 and "Nothing to be done" in whole(result), whole(result)[-8000:]

    (results / "images/shard-00001-of-00003.h5").unlink()
    (results / "images.json").unlink()
    result = plan(tmp_path, *arguments[3:])
    jobs = stats(whole(result))
    assert jobs["images"] == jobs["manifest"] == 1 and "listing" not in jobs, whole(result)
