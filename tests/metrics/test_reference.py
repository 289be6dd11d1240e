"""The reference file: its numbers, its bytes, ADM's format, and what is refused."""

import json

import numpy as np
import pytest
import torch

from vrpo.errors import UserError
from vrpo.metrics.compute_reference import compute_reference
from vrpo.metrics.evaluate import evaluate, summary
from vrpo.metrics.networks.loading import load_network
from vrpo.metrics.read_reference import load_reference
from vrpo.metrics.reference import subset_indices

from tests.fixtures.metrics import OPTIONS, make_images, write_classifier, write_h5, write_reference

COUNT = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    write_reference(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def extractor(folder):
    return load_network(OPTIONS, folder / "classifier.safetensors", "cpu")


@pytest.fixture(scope="module")
def features(extractor):
    return extractor.features(torch.from_numpy(make_images(COUNT)).permute(0, 3, 1, 2))


def adm_npz(path, features, images, **changes):
    """A reference as ADM lays it out, of this network's features."""
    pool, spatial = features.pool.double().numpy(), features.spatial.double().numpy()
    arrays = {
        "mu": pool.mean(0),
        "sigma": np.cov(pool, rowvar=False),
        "mu_s": spatial.mean(0),
        "sigma_s": np.cov(spatial, rowvar=False),
        "arr_0": images,
    }
    arrays = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    np.savez(path, **arrays)
    return path


def test_statistics_are_numpys(folder, features):
    with np.load(folder / "reference.npz") as file:
        for name, rows in {"mu": features.pool, "mu_s": features.spatial}.items():
            np.testing.assert_allclose(file[name], rows.double().mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            file["sigma"],
            np.cov(features.pool.double().numpy(), rowvar=False),
            rtol=1e-3,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            file["sigma_s"],
            np.cov(features.spatial.double().numpy(), rowvar=False),
            rtol=1e-3,
            atol=1e-5,
        )
        np.testing.assert_allclose(
            file["pool"], features.pool[subset_indices(COUNT, 150)], rtol=1e-4, atol=1e-6
        )
        description = json.loads(str(file["vrpo"]))
    assert description["subset"] == {"images": 150, "of": COUNT, "seed": 0}
    assert description["source"] == {"kind": "images", "fingerprint": "f" * 64}
    assert (description["count"], description["resolution"]) == (COUNT, 32)


def test_same_bytes_at_another_time(folder):
    compute_reference(
        OPTIONS,
        folder / "images.h5",
        folder / "classifier.safetensors",
        folder / "again.npz",
        "cpu",
    )
    assert (folder / "again.npz").read_bytes() == (folder / "reference.npz").read_bytes()


def test_subset():
    assert list(subset_indices(5, 9)) == [0, 1, 2, 3, 4]
    drawn = subset_indices(1000, 100)
    assert len(np.unique(drawn)) == 100
    assert (np.diff(drawn) > 0).all()


def test_adm_file(folder, extractor, features, tmp_path):
    """ADM's statistics are taken as they are; its images serve for precision and recall only."""
    images = make_images(COUNT)[:120]
    path = adm_npz(tmp_path / "adm.npz", features, images)
    reference = load_reference(path, extractor, OPTIONS)
    np.testing.assert_array_equal(reference.pool.mu, features.pool.double().numpy().mean(0))
    np.testing.assert_array_equal(
        reference.spatial.sigma, np.cov(features.spatial.double().numpy(), rowvar=False)
    )
    torch.testing.assert_close(reference.features, features.pool[:120], rtol=1e-4, atol=1e-5)
    assert reference.pool.count is None

    options = OPTIONS.model_copy(update={"reference": str(path)})
    compute_reference(
        options,
        folder / "images.h5",
        folder / "classifier.safetensors",
        tmp_path / "out.npz",
        "cpu",
    )
    stored = load_reference(tmp_path / "out.npz", extractor, options)
    np.testing.assert_array_equal(stored.pool.sigma, reference.pool.sigma)
    assert stored.description == reference.description


def test_adm_file_with_faults(extractor, features, tmp_path):
    images = make_images(20)
    for changes, complaint in [
        ({"sigma_s": None}, "holds mu, sigma, mu_s, arr_0 and no `sigma_s`"),
        ({"mu": None}, "and no `mu`; statistics are"),
        (
            {"mu": None, "sigma": None},
            "and no `mu`; statistics are",
        ),  # spatial ones of all images, and a sample of the images, are two sets
        ({"arr_0": images[:3]}, "3 images are too few for neighbour 3"),
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, "this network has 16 such features"),
        ({"arr_0": images.astype(np.float32)}, "images are float32"),
    ]:
        path = adm_npz(tmp_path / "adm.npz", features, images, **changes)
        with pytest.raises(UserError, match=complaint):
            load_reference(path, extractor, OPTIONS)


SCORES = {"fid", "sfid", "is", "precision", "recall", "kid"}


@pytest.mark.parametrize(
    ("left_out", "null"),
    [
        ((), set()),
        (("mu_s", "sigma_s"), {"sfid"}),
        (("arr_0",), {"precision", "recall", "kid"}),
        (
            ("mu_s", "sigma_s", "arr_0"),
            {"sfid", "precision", "recall", "kid"},
        ),  # pytorch-fid's, MAR's, EDM's
    ],
    ids=["nothing", "spatial", "images", "both"],
)
def test_statistics_without_the_rest_give_what_they_can(folder, features, tmp_path, left_out, null):
    """And the log says what is not given, by `evaluate` and by way of `reference`."""
    whole = adm_npz(tmp_path / "whole.npz", features, make_images(120))
    path = adm_npz(tmp_path / "part.npz", features, make_images(120), **dict.fromkeys(left_out))
    samples, weights = (
        write_h5(tmp_path / "samples.h5", make_images(200, seed=5), {}),
        folder / "classifier.safetensors",
    )
    compute_reference(
        OPTIONS.model_copy(update={"reference": str(path)}),
        folder / "images.h5",
        weights,
        tmp_path / "stored.npz",
        "cpu",
    )
    full = evaluate(OPTIONS, samples, whole, weights, None, "cpu")
    for reference in (path, tmp_path / "stored.npz"):
        record = evaluate(OPTIONS, samples, reference, weights, tmp_path / "record.json", "cpu")
        assert json.loads((tmp_path / "record.json").read_text()) == record
        assert {
            name for name, value in record["scores"].items() if value is None
        } == null and record["scores"].keys() == SCORES
        assert {name: record["scores"][name] for name in SCORES - null} == {
            name: full["scores"][name] for name in SCORES - null
        }
        said = [warning for warning in record["protocol"]["warnings"] if "not given" in warning]
        assert {name for warning in said for name in warning.partition(":")[0].split(", ")} == null
        assert record["protocol"]["reference"]["resolution"] == (
            None if "arr_0" in left_out else 32
        )
        assert all(
            f"{name} not given" in summary(record).replace("FID", "fid").replace("KID", "kid")
            for name in null
        )


def test_images_alone_are_the_reference_of_those_images(folder, tmp_path):
    """`arr_0` without statistics, which ADM's evaluator computes, too."""
    samples, weights = (
        write_h5(tmp_path / "samples.h5", make_images(200, seed=5), {}),
        folder / "classifier.safetensors",
    )
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "images.npz", arr_0=make_images(COUNT))
        alone, stored = (
            evaluate(OPTIONS, samples, path, weights, None, "cpu")
            for path in (tmp_path / "images.npz", folder / "reference.npz")
        )
        assert alone["scores"] == stored["scores"] and alone["confidence"] == stored["confidence"]
        assert alone["protocol"]["reference"]["count"] == COUNT
    options = OPTIONS.model_copy(update={"reference": str(tmp_path / "images.npz")})
    compute_reference(options, folder / "images.h5", weights, tmp_path / "out.npz", "cpu")
    assert (
        evaluate(OPTIONS, samples, tmp_path / "out.npz", weights, None, "cpu")["scores"]
        == alone["scores"]
    )


def test_other_resolution_than_training(folder, features, tmp_path):
    path = adm_npz(tmp_path / "adm.npz", features, make_images(20, side=64))
    options = OPTIONS.model_copy(update={"reference": str(path)})
    with pytest.raises(UserError, match=r"64 x 64.*32 x 32"):
        compute_reference(
            options,
            folder / "images.h5",
            folder / "classifier.safetensors",
            tmp_path / "out.npz",
            "cpu",
        )
    assert not (tmp_path / "out.npz").exists()


def test_other_weights_are_said_with_both_hashes(folder, tmp_path):
    other = load_network(OPTIONS, write_classifier(tmp_path / "other.safetensors", seed=1), "cpu")
    own = load_network(OPTIONS, folder / "classifier.safetensors", "cpu")
    with pytest.raises(UserError, match=f"{own.sha256}.*{other.sha256}"):
        load_reference(folder / "reference.npz", other, OPTIONS)


def test_not_an_npz(extractor, tmp_path):
    path = tmp_path / "reference.npz"
    with pytest.raises(UserError, match="no such file"):
        load_reference(path, extractor, OPTIONS)
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(UserError, match=r"not a \.npz, truncated or damaged"):
        load_reference(path, extractor, OPTIONS)
