"""A .npz that anybody may have written, as samples and as reference.

Damage, wrong shapes or types, and values that are no numbers give one line each.
"""

import io
import zipfile

import numpy as np
import pytest

from vrpo.errors import UserError
from vrpo.metrics.evaluate import evaluate
from vrpo.metrics.inputs import open_images
from vrpo.metrics.networks.loading import load_network
from vrpo.metrics.npz import NpzFile
from vrpo.metrics.read_reference import load_reference
from vrpo.report.results import read_samples

from tests.fixtures.metrics import OPTIONS, make_images, write_reference

POOL, SPATIAL = 16, 112  # features of the fixture's network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("npz")
    write_reference(folder, 130, name="own.npz")
    rng = np.random.default_rng(0)
    pool, spatial = rng.standard_normal((200, POOL)), rng.standard_normal((200, SPATIAL))
    arrays = {
        "mu": pool.mean(0),
        "sigma": np.cov(pool, rowvar=False),
        "mu_s": spatial.mean(0),
        "sigma_s": np.cov(spatial, rowvar=False),
    }
    np.savez(folder / "adm.npz", **arrays, arr_0=make_images(20))
    np.savez_compressed(folder / "compressed.npz", **arrays, arr_0=make_images(20))
    np.savez(folder / "samples.npz", arr_0=make_images(5))
    return folder


@pytest.fixture(scope="module")
def extractor(folder):
    return load_network(OPTIONS, folder / "classifier.safetensors", "cpu")


def load(kind, path, extractor):
    """Read all that an evaluation reads of a file, without scoring it."""
    if kind == "samples":
        for batch in open_images(path).batches(4):
            assert batch.dtype == np.uint8 and batch.shape[1:] == (32, 32, 3)
    else:
        reference = load_reference(path, extractor, OPTIONS)
        for gaussian, dim in ((reference.pool, POOL), (reference.spatial, SPATIAL)):
            assert (
                gaussian.mu.isfinite().all()
                and gaussian.sigma.isfinite().all()
                and gaussian.factor.shape[0] == dim
            )
        assert reference.features.isfinite().all()


def refused(kind, path, extractor, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        load(kind, path, extractor)
    message = str(caught.value)
    assert (
        message.startswith(f"{path}: ")
        and "\n" not in message
        and "; " in message
        and len(message) < 500
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("samples", "samples"),
        ("compressed", "samples"),
        ("adm", "reference"),
        ("compressed", "reference"),
        ("own", "reference"),
    ],
)
def test_damaged_files_give_one_line(folder, extractor, tmp_path, name, kind):
    """Flipped bytes anywhere, most of them in the headers, and cut files.

    They are refused with the file's name, or read where the needed part is whole.
    """
    whole = np.frombuffer((folder / f"{name}.npz").read_bytes(), np.uint8)
    with zipfile.ZipFile(folder / f"{name}.npz") as archive:
        headers = [
            info.header_offset + at for info in archive.infolist() for at in range(200)
        ] + list(range(archive.start_dir, len(whole)))
    rng, path, refusals = np.random.default_rng(1), tmp_path / "damaged.npz", 0
    for trial in range(150):
        damaged = whole.copy()
        places = rng.choice(headers, 2) if trial % 2 else rng.integers(len(whole), size=2)
        damaged[np.minimum(places, len(whole) - 1)] ^= rng.integers(1, 256, 2, dtype=np.uint8)
        path.write_bytes(damaged.tobytes()[: rng.integers(len(whole)) if trial % 5 == 0 else None])
        try:
            load(kind, path, extractor)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refusals += 1
    assert refusals > 75


def test_a_flipped_pixel_is_found_before_anything_is_scored(folder, tmp_path):
    content = bytearray((folder / "samples.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(
        UserError,
        match=(
            r"flipped\.npz: not a \.npz, truncated or damaged \(Bad CRC-32 .*; fetch or "
            r"compute it again"
        ),
    ):
        open_images(tmp_path / "flipped.npz")


def test_no_npz_at_all(extractor, tmp_path):
    path = tmp_path / "x.npz"
    for kind in ("samples", "reference"):
        for content in (
            b"",
            b"PK",
            b"\x93NUMPY\x01\x00",
            b"\x80\x04K\x01.",
            make_images(3).tobytes(),
        ):
            path.write_bytes(content)
            refused(kind, path, extractor, "not a .npz, truncated or damaged")
        np.savez(path)
        refused(kind, path, extractor, "holds no|needs the arrays")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arr_0.npy", b"no header")
            archive.writestr("vrpo.npy", b"no header")
            archive.writestr("mu.npy", b"no header")
            archive.writestr("sigma.npy", b"no header")
            archive.writestr("pool.npy", b"no header")
        refused(kind, path, extractor, "not a .npz, truncated or damaged")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (np.zeros((0, 32, 32, 3), np.uint8), r"shape \[0, 32, 32, 3\]"),
        (np.zeros((5, 32, 32), np.uint8), r"shape \[5, 32, 32\]"),
        (np.zeros((5, 3, 32, 32), np.uint8), r"shape \[5, 3, 32, 32\]"),
        (np.zeros((5, 32, 16, 3), np.uint8), "scores are defined on square ones"),
        (np.zeros((), np.uint8), r"shape \[\]"),
        (np.zeros((5, 32, 32, 3), np.float32), "images are float32"),
        (np.zeros((5, 32, 32, 3), np.complex64), "images are complex64"),
        (np.zeros((5, 32, 32, 3), bool), "images are bool"),
        (np.zeros((5, 32, 32, 3), np.int8), "images are int8"),
        (np.array(["text"]), "images are <U4"),
        (np.zeros((5, 32, 32, 3), [("r", np.uint8)]), "images are "),
        (np.asfortranarray(make_images(5)), "Fortran order"),
        (
            np.array([make_images(1)[0], None], dtype=object),
            "Python objects, which are never unpickled",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{value.dtype}{list(value.shape)}",
)
def test_samples_of_wrong_shape_or_type(extractor, tmp_path, images, complaint):
    np.savez(tmp_path / "x.npz", arr_0=images)
    refused("samples", tmp_path / "x.npz", extractor, complaint)


def test_a_header_that_promises_more_than_there_is(extractor, tmp_path):
    """Neither memory for what is promised is taken, nor is the rest passed over."""
    for count in (10**15, 6, 4):
        content = npy(make_images(5)).replace(
            b"(5, 32, 32, 3), }", f"({count}, 32, 32, 3), }}".encode()
        )
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("arr_0.npy", content)
        refused(
            "samples", tmp_path / "x.npz", extractor, "`arr_0` has .* bytes, its shape .* needs"
        )


COVARIANCE = np.eye(POOL)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sigma": -COVARIANCE}, "`sigma`: .*smallest eigenvalue -1 is negative"),
        (
            {"sigma": COVARIANCE - 2 * np.outer(COVARIANCE[0], COVARIANCE[0])},
            "`sigma`: .*smallest eigenvalue -1 is negative",
        ),
        ({"sigma": COVARIANCE + np.triu(np.ones((POOL, POOL)))}, "`sigma` is not symmetric"),
        ({"sigma": np.where(COVARIANCE, np.nan, 0)}, "`sigma` holds NaN or infinite"),
        ({"mu": np.full(POOL, np.inf)}, "`mu` holds NaN or infinite"),
        ({"sigma": COVARIANCE.astype(np.complex128)}, "`sigma` is complex128, statistics are real"),
        ({"mu": np.array(["0"] * POOL)}, "`mu` is <U1, statistics are real"),
        ({"mu": np.array([None] * POOL)}, "`mu` holds Python objects, which are never unpickled"),
        ({"sigma": COVARIANCE.astype(bool)}, "`sigma` is bool, statistics are real"),
        ({"mu": np.zeros((1, POOL))}, r"shapes \[1, 16\] and \[16, 16\], not \[D\] and \[D, D\]"),
        ({"sigma": np.ones(POOL)}, r"shapes \[16\] and \[16\], not \[D\]"),
        ({"sigma": np.eye(POOL)[:, :-1]}, r"shapes \[16\] and \[16, 15\], not \[D\]"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "not .D. and .D, D."),
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, "this network has 16 such features"),
        ({"mu_s": np.zeros(3), "sigma_s": np.eye(3)}, "this network has 112 such features"),
        ({"sigma_s": -np.eye(SPATIAL)}, "`sigma_s`: .* is negative"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "+".join(value),
)
def test_statistics_that_are_none(folder, extractor, tmp_path, changes, complaint):
    """In ADM's file and in our own alike."""
    for name in ("adm", "own"):
        with np.load(folder / f"{name}.npz") as file:
            arrays = {**file, **changes}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        refused("reference", tmp_path / f"{name}.npz", extractor, complaint)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vrpo": np.array("no JSON")}, "description `vrpo` is damaged"),
        ({"vrpo": np.array("[]")}, "description `vrpo` is damaged"),
        ({"vrpo": np.array("{}")}, "description `vrpo` is damaged"),
        (
            {
                "vrpo": np.array(
                    '{"network": {}, "count": "many", "source": 0, "resolution": 0, "subset": 0}'
                )
            },
            "description `vrpo` is damaged",
        ),
        ({"vrpo": np.array({}, dtype=object)}, "Python objects, which are never unpickled"),
        (
            {"pool": np.zeros((9, 3), np.float32)},
            r"`pool` is float32 \[9, 3\], not float32 \[R, 16\]",
        ),
        ({"pool": np.zeros((9, POOL), np.complex64)}, "`pool` is complex64"),
        ({"pool": np.full((9, POOL), np.nan, np.float32)}, "`pool` holds NaN or infinite"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "+".join(value),
)
def test_own_references_that_somebody_changed(folder, extractor, tmp_path, changes, complaint):
    with np.load(folder / "own.npz") as file:
        arrays = {**file, **changes}
    np.savez(tmp_path / "own.npz", **arrays)
    refused("reference", tmp_path / "own.npz", extractor, complaint)


def test_statistics_in_other_layouts_are_the_same(folder, extractor, tmp_path):
    """Big-endian, single precision and Fortran order are NumPy's business, not faults."""
    with np.load(folder / "adm.npz") as file:
        arrays = {
            **file,
            "mu": file["mu"].astype(">f8"),
            "sigma": np.asfortranarray(file["sigma"]),
            "sigma_s": file["sigma_s"].astype(np.float32),
        }
    np.savez(tmp_path / "x.npz", **arrays)
    assert NpzFile(tmp_path / "x.npz").header("sigma").fortran
    ours, theirs = (
        load_reference(path, extractor, OPTIONS)
        for path in (tmp_path / "x.npz", folder / "adm.npz")
    )
    np.testing.assert_array_equal(ours.pool.mu, theirs.pool.mu)
    np.testing.assert_array_equal(ours.pool.sigma, theirs.pool.sigma)
    np.testing.assert_allclose(ours.spatial.sigma, theirs.spatial.sigma, rtol=1e-6)


def test_refused_before_the_samples_are_looked_at(folder, tmp_path, monkeypatch):
    """And nothing is written."""
    with np.load(folder / "own.npz") as file:
        np.savez(tmp_path / "own.npz", **{**file, "sigma": -file["sigma"]})
    monkeypatch.setattr(
        "vrpo.metrics.evaluate.extract",
        lambda *arguments, **named: pytest.fail("samples went through the network"),
    )
    with pytest.raises(UserError, match="is negative"):
        evaluate(
            OPTIONS,
            folder / "samples.npz",
            tmp_path / "own.npz",
            folder / "classifier.safetensors",
            tmp_path / "record.json",
            "cpu",
        )
    assert not (tmp_path / "record.json").exists()


def test_the_collected_grid_is_read_with_the_same_care(tmp_path):
    np.savez(tmp_path / "samples.npz", images=make_images(3), runs=np.array(["a"]))
    assert read_samples(tmp_path)["images"].shape == (3, 32, 32, 3)
    content = (tmp_path / "samples.npz").read_bytes()
    for damaged in (
        content[:-30],
        content[:100] + b"\0\0" + content[102:],
        content[: len(content) // 2],
    ):
        (tmp_path / "samples.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"samples\.npz: .*damaged"):
            read_samples(tmp_path)
