"""The record of an evaluation.

Scores against independent computations, every kind of input, warnings, bad input, and the golden
numbers.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from vrpo.cli import app
from vrpo.config.scoring import EvaluationOptions
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.metrics import evaluate as module
from vrpo.metrics.distances.frechet import frechet_distance
from vrpo.metrics.distances.inception_score import inception_score
from vrpo.metrics.distances.neighbours import precision_recall
from vrpo.metrics.evaluate import evaluate, summary
from vrpo.metrics.export import export_npz
from vrpo.metrics.features import extract
from vrpo.metrics.inputs import open_images
from vrpo.metrics.networks.loading import load_network
from vrpo.metrics.networks.protocol import Features
from vrpo.metrics.read_reference import load_reference

from tests.fixtures.metrics import (
    ATTRIBUTES,
    OPTIONS,
    make_images,
    write_h5,
    write_reference,
)

COUNT = 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write_reference(folder, 400)
    write_h5(folder / "samples.h5", make_images(COUNT, seed=5) // 2 + 50, ATTRIBUTES)
    return folder


def score(folder, samples, output="record.json", options=OPTIONS, **kwargs):
    return evaluate(
        options,
        samples,
        folder / "reference.npz",
        folder / "classifier.safetensors",
        folder / output,
        "cpu",
        **kwargs,
    )


@pytest.fixture(scope="module")
def record(folder):
    return score(folder, folder / "samples.h5")


@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_scores_are_the_plain_ones(folder, record):
    extractor = load_network(OPTIONS, folder / "classifier.safetensors", "cpu")
    real, made = (
        extractor.features(torch.from_numpy(images).permute(0, 3, 1, 2))
        for images in (make_images(400), make_images(COUNT, seed=5) // 2 + 50)
    )

    def fid(a, b):
        a, b = a.double().numpy(), b.double().numpy()
        s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
            s + t - 2 * np.real(scipy.linalg.sqrtm(s @ t))
        )

    assert record["scores"]["fid"] == pytest.approx(fid(real.pool, made.pool), rel=1e-3, abs=1e-6)
    assert record["scores"]["sfid"] == pytest.approx(fid(real.spatial, made.spatial), rel=1e-3)
    assert record["scores"]["is"] == pytest.approx(
        inception_score(made.logits, 100).value, rel=1e-4
    )
    assert 0 <= record["scores"]["precision"] <= 1
    assert set(record["scores"]) == {"fid", "sfid", "is", "precision", "recall", "kid"}
    low, high = (record["confidence"]["fid"][key] for key in ("low", "high"))
    assert low < record["scores"]["fid"] < high


def test_record_says_what_was_done(folder, record):
    assert {key: record[key] for key in ("run", "seed", "step", "sampler")} == {
        key: ATTRIBUTES[key] for key in ("run", "seed", "step", "sampler")
    }
    protocol = record["protocol"]
    assert protocol["guidance"] == {"scale": 1.8, "interval": [0.0, 0.7], "channels": None}
    assert (protocol["labels"], protocol["rounding"], protocol["decoder"]) == (
        "random",
        "truncate",
        "stabilityai/sd-vae-ft-ema",
    )
    assert (
        protocol["sampler"],
        protocol["steps"],
        protocol["images"],
        protocol["sampling_seed"],
    ) == ("sde", 250, COUNT, 0)
    assert protocol["precision_recall"] == {
        "neighbours": 3,
        "distances": "fp32",
        "reference_images": 150,
        "images": COUNT,
    }
    assert protocol["inception_score"] | {"std": 0} == {
        "splits": 2,
        "split_size": 100,
        "used": 200,
        "permutation_seed": 0,
        "std": 0,
    }
    assert protocol["dims"] == {"pool": 16, "logits": 10, "spatial": 112}
    assert any(
        "is: 250 images are no multiple of 100; 50 of them" in warning
        for warning in protocol["warnings"]
    )
    provenance = record["provenance"]
    assert provenance["milestone_sha256"] == ATTRIBUTES["milestone_sha256"]
    assert provenance["samples_sha256"] == sha256(folder / "samples.h5")
    assert provenance["reference_sha256"] == sha256(folder / "reference.npz")
    assert {"torch", "timm", "torch-fidelity", "numpy", "scipy", "vrpo"} <= provenance[
        "versions"
    ].keys()
    line = summary(record)
    assert line.startswith("FID ")
    assert "\n" not in line


def test_same_bytes_again(folder, record):
    assert json.loads((folder / "record.json").read_text()) == record
    score(folder, folder / "samples.h5", "again.json")
    assert (folder / "again.json").read_bytes() == (folder / "record.json").read_bytes()


def test_all_inputs_give_the_same_scores(folder, record, tmp_path):
    export_npz(folder / "samples.h5", tmp_path / "samples.npz", batch_size=7)
    with np.load(tmp_path / "samples.npz") as file:
        assert file.files == ["arr_0"]
        np.testing.assert_array_equal(file["arr_0"], make_images(COUNT, seed=5) // 2 + 50)
        np.savez_compressed(tmp_path / "compressed.npz", arr_0=file["arr_0"])
        (tmp_path / "png" / "a").mkdir(parents=True)
        for i, image in enumerate(file["arr_0"]):
            Image.fromarray(image).save(tmp_path / "png" / "a" / f"{i:06d}.png")
    for samples in ("samples.npz", "compressed.npz", "png"):
        other = score(folder, tmp_path / samples, "other.json")
        assert other["scores"] == record["scores"]
        assert other["protocol"]["labels"] is None
        assert len(other["provenance"]["samples_sha256"]) == 64
    export_npz(tmp_path / "png", tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "samples.npz").read_bytes()


def test_command_line(folder, record, tmp_path):
    """With the pipeline's config, with real images as the reference, and without a config.

    No config means Inception.
    """
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump(OPTIONS.model_dump(mode="json")))
    common = [
        "--config",
        tmp_path / "evaluation.yaml",
        "--weights",
        folder / "classifier.safetensors",
        "--device",
        "cpu",
    ]
    result = command(
        "evaluate",
        folder / "samples.h5",
        folder / "reference.npz",
        *common,
        "--output",
        tmp_path / "record.json",
    )
    said, wrote = result.stdout.splitlines()
    assert said == summary(record) and wrote.startswith(f"wrote {tmp_path / 'record.json'} (")
    assert "is: 250 images are no multiple of 100" in result.stderr
    assert (tmp_path / "record.json").read_bytes() == (folder / "record.json").read_bytes()
    beside = command("evaluate", folder / "samples.h5", folder / "images.h5", *common)
    assert beside.stdout == f"{said}\n"
    exported = command("export-npz", folder / "samples.h5", tmp_path / "samples.npz")
    assert exported.stdout.startswith(f"wrote {tmp_path / 'samples.npz'} (")
    refused = command(
        "evaluate",
        folder / "samples.h5",
        folder / "reference.npz",
        "--weights",
        tmp_path / "absent.pth",
    )
    assert isinstance(refused.exception, UserError) and "evaluation.inception_weights" in str(
        refused.exception
    )


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_too_few_samples(folder, tmp_path):
    samples = write_h5(tmp_path / "few.h5", make_images(40, seed=5), ATTRIBUTES)
    few = score(folder, samples, "few.json")
    assert few["scores"]["sfid"] is None
    assert any(
        warning.startswith("sfid: not given, no more samples than its 112 features")
        for warning in few["protocol"]["warnings"]
    )
    assert few["scores"]["fid"] is not None
    forced = score(folder, samples, "few.json", force_sfid=True)
    assert forced["scores"]["sfid"] > 0
    assert any(
        "sfid: 40 samples for 112 features" in warning for warning in forced["protocol"]["warnings"]
    )
    fewer = score(
        folder, write_h5(tmp_path / "fewer.h5", make_images(12, seed=5), ATTRIBUTES), "few.json"
    )
    assert any(
        "fid: 12 samples for 16 features" in warning for warning in fewer["protocol"]["warnings"]
    )
    assert fewer["confidence"]["fid_infinity"] is None


def test_bad_input(folder, tmp_path):
    def refused(samples, complaint):
        with pytest.raises(UserError, match=complaint):
            score(folder, samples, "bad.json")
        assert not (folder / "bad.json").exists()

    refused(tmp_path / "absent.h5", "no such file or folder")
    refused(
        write_h5(tmp_path / "float.h5", make_images(20).astype(np.float32) / 255, {}),
        "images are float32",
    )
    refused(
        write_h5(tmp_path / "large.h5", make_images(20, side=64), {}),
        "32 x 32, those of .*large.h5 64 x 64",
    )
    np.savez(tmp_path / "nothing.npz", images=make_images(5))
    refused(tmp_path / "nothing.npz", "no array `arr_0`, only images")
    np.savez(tmp_path / "flat.npz", arr_0=make_images(5).reshape(5, -1))
    refused(tmp_path / "flat.npz", r"shape \[5, 3072\]")
    (tmp_path / "cut.npz").write_bytes((folder / "reference.npz").read_bytes()[:2000])
    refused(tmp_path / "cut.npz", "not a .npz, truncated or damaged")
    png = tmp_path / "png"
    png.mkdir()
    refused(png, "no PNG in it")
    for name, side in (("a", 32), ("b", 40)):
        Image.fromarray(make_images(1, side=side)[0]).save(png / f"{name}.png")
    refused(png, "b.png: 40 x 40 pixels, while a.png has 32 x 32")
    (png / "b.png").write_bytes(b"\x89PNG broken")
    refused(png, "b.png: cannot be decoded")


def test_nan_features_are_refused(folder, monkeypatch):
    class Broken:
        sha256, warnings = "0" * 64, []

        def __init__(self, extractor):
            self.extractor = extractor
            self.describe = extractor.describe

        def features(self, images):
            pool, logits, spatial = self.extractor.features(images)
            return Features(
                pool.index_fill(
                    0, torch.arange(3, 4) if len(pool) > 3 else torch.arange(0), torch.nan
                ),
                logits,
                spatial,
            )

    monkeypatch.setattr(module, "load_network", lambda *arguments: Broken(load_network(*arguments)))
    with pytest.raises(UserError, match="features of image 3: NaN"):
        score(folder, folder / "samples.h5", "nan.json")
    assert not (folder / "nan.json").exists()


@pytest.mark.timeout(0)
def test_golden_numbers_of_adm():
    """ADM's own samples against ADM's reference give the numbers of its README.

    Needs a folder with `VIRTUAL_imagenet256_labeled.npz`, `admnet_guided_upsampled_imagenet256.npz`
    (openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/) and
    torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`. Takes hours on a CPU, minutes on a
    GPU.
    """
    if not os.environ.get("VRPO_GOLDEN_DIR"):
        pytest.skip(
            "VRPO_GOLDEN_DIR is not set: it names the folder of ADM's samples, reference "
            "and Inception's weights (this test's docstring)"
        )
    folder = Path(os.environ["VRPO_GOLDEN_DIR"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = EvaluationOptions(network="inception", distances="adm_fp16")
    extractor = load_network(options, folder / "weights-inception-2015-12-05-6726825d.pth", device)
    assert not extractor.warnings
    reference = load_reference(folder / "VIRTUAL_imagenet256_labeled.npz", extractor, options)
    features = extract(
        extractor,
        open_images(folder / "admnet_guided_upsampled_imagenet256.npz"),
        options.batch_size,
    )
    neighbours = precision_recall(reference.features, features.pool, 3, "adm_fp16", device)
    assert inception_score(features.logits, permutation_seed=None).value == pytest.approx(
        215.837, rel=2e-3
    )
    assert frechet_distance(features.pool_statistics.gaussian(), reference.pool) == pytest.approx(
        3.94256, rel=5e-3
    )
    assert frechet_distance(
        features.spatial_statistics.gaussian(), reference.spatial
    ) == pytest.approx(6.14043, rel=5e-3)
    assert neighbours.precision == pytest.approx(0.8265, abs=3e-3)
    assert neighbours.recall == pytest.approx(0.5309, abs=3e-3)
