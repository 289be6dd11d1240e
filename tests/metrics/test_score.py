"""The Python API of the scores: folders, files and arrays in, a record out."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from vrpo.errors import UserError
from vrpo.metrics import score, summary
from vrpo.metrics.export import write_npz

from tests.fixtures import ROOT
from tests.fixtures.metrics import OPTIONS, make_images, write_classifier

REAL, MADE = make_images(60), make_images(40, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("scores")
    write_classifier(place / "classifier.safetensors")
    for name, images in (("real", REAL), ("made", MADE)):
        (place / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(place / name / f"{index}.png")
        write_npz(place / f"{name}.npz", {"arr_0": images})
    return place


def scored(folder, samples, reference, **options):
    weights = folder / "classifier.safetensors"
    return score(samples, reference, weights=weights, options=OPTIONS, device="cpu", **options)


def test_arrays_folders_and_files_score_alike(folder):
    records = [
        scored(folder, MADE, REAL),
        scored(folder, folder / "made", folder / "real"),
        scored(folder, str(folder / "made.npz"), str(folder / "real.npz")),
        scored(folder, MADE, folder / "real"),
    ]
    assert all(record["scores"] == records[0]["scores"] for record in records)
    assert all(record["confidence"] == records[0]["confidence"] for record in records)
    assert records[0]["scores"]["fid"] > 0
    assert summary(records[0]).startswith(f"FID {records[0]['scores']['fid']:.4g}, ")


def test_arrays_are_named_by_their_pixels(folder):
    one, other = (scored(folder, array, REAL)["provenance"] for array in (MADE, MADE[::-1]))
    assert one["samples_sha256"] != other["samples_sha256"]
    assert one["reference_sha256"] == other["reference_sha256"]
    assert one == scored(folder, MADE.copy(), REAL)["provenance"]


def test_the_record_is_written(folder, tmp_path):
    record = scored(folder, MADE, REAL, output=tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == record


@pytest.mark.parametrize(
    ("samples", "reference", "message"),
    [
        (MADE.transpose(0, 3, 1, 2), REAL, r"^samples: images have shape \[40, 3, 32, 32\], not"),
        (MADE / 255.0, REAL, "^samples: images are float64, scores need uint8"),
        (MADE, REAL.astype(np.int64), "^reference: images are int64, scores need uint8"),
        (MADE, make_images(60, side=16), "^reference: its images are 16 x 16, those of samples 32"),
        (MADE[:2], REAL, "^samples: 2 images are too few"),
        ("nowhere", REAL, "^nowhere: no such file or folder"),
    ],
)
def test_unfit_images_are_refused(folder, samples, reference, message):
    with pytest.raises(UserError, match=message):
        scored(folder, samples, reference)


def test_scoring_needs_no_snakemake():
    code = """
        import sys
        sys.modules["snakemake"] = None
        from vrpo.metrics import score, summary
        assert "torch" not in sys.modules
        import vrpo.metrics.evaluate, vrpo.cli.scores
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=ROOT)
