"""KDD, CMMD and FDr of a record, against plain loops on the networks' features."""

import itertools
import math

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from vrpo.config.networks import SpaceOptions
from vrpo.metrics.compute_reference import compute_reference
from vrpo.metrics.evaluate import evaluate, summary
from vrpo.metrics.networks.pretrained import PretrainedNetwork

from tests.fixtures.metrics import OPTIONS, make_images, write_classifier, write_h5

REAL, MADE = make_images(40), make_images(40, seed=5) // 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spaces")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm.create_model("test_vit").state_dict()
    save_file(state, folder / "vit.safetensors")
    write_h5(folder / "images.h5", REAL, {"fingerprint": "f" * 64, "resolution": 32})
    write_h5(folder / "samples.h5", MADE, {})
    write_classifier(folder / "main.safetensors")
    return folder


def space(folder, **others):
    weights = str(folder / "vit.safetensors")
    fixed = {"architecture": "test_vit.r160_in1k", "weights": weights, "image_size": 160}
    return SpaceOptions(**fixed, **others)


def chosen(folder, vit=(), clip=(), **others):
    """Two spaces of one network: its class token, and its projected embedding."""
    vit = {"scores": ["fd", "kd"], **dict(vit)}
    spaces = {
        "vit": space(folder, **vit),
        "clip": space(folder, scores=["cmmd"], features="embedding", **dict(clip)),
    }
    return OPTIONS.model_copy(update={"extra_networks": spaces, **others})


def score(folder, options, reference="images.h5"):
    main = folder / "main.safetensors"
    return evaluate(options, folder / "samples.h5", folder / reference, main, None, "cpu")


def features(folder, images, **others):
    network = PretrainedNetwork("x", space(folder, **others), "cpu")
    return network.features(torch.from_numpy(images).permute(0, 3, 1, 2)).pool.double()


@pytest.fixture(scope="module")
def record(folder):
    return score(folder, chosen(folder, {"validation_fd": 0.5}, validation_fid=0.25))


def test_kernel_distance_is_that_of_a_loop(folder, record):
    """With as many images as a subset has, each subset holds all of them."""
    x, y = (features(folder, images).tolist() for images in (REAL, MADE))

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    within = [
        sum(kernel(a, b) for a, b in itertools.permutations(rows, 2)) / (40 * 39) for rows in (x, y)
    ]
    between = sum(kernel(a, b) for a in x for b in y) / 40**2
    assert record["scores"]["kd_vit"] == pytest.approx(sum(within) - 2 * between, rel=1e-3)
    assert record["protocol"]["extra_networks"]["vit"]["kd"]["subset_size"] == 40


def test_cmmd_is_that_of_a_loop(folder, record):
    x, y = (features(folder, images, features="embedding").tolist() for images in (REAL, MADE))

    def mean_kernel(first, second):
        squares = (math.dist(a, b) ** 2 for a in first for b in second)
        return sum(math.exp(-square / 200) for square in squares) / 40**2

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert record["scores"]["cmmd_clip"] == pytest.approx(expected, rel=1e-6)
    assert record["protocol"]["extra_networks"]["clip"]["cmmd"] == {
        "sigma": 10.0, "scale": 1000.0, "reference_images": 40,
    }  # fmt: skip
    assert "fd_clip" not in record["scores"]


def test_mean_of_ratios(record):
    scores = record["scores"]
    expected = (scores["fid"] / 0.25 + scores["fd_vit"] / 0.5) / 2
    assert scores["fdr"] == pytest.approx(expected, rel=1e-12)
    assert record["protocol"]["fdr"]["validation_fd"] == {"fid": 0.25, "fd_vit": 0.5}
    line = summary(record)
    assert all(name in line for name in ("FD-vit", "KD-vit", "CMMD-clip", "FDr"))


def test_a_stored_reference_gives_the_same_scores(folder, record):
    options = chosen(folder, {"validation_fd": 0.5}, validation_fid=0.25)
    main, output = folder / "main.safetensors", folder / "reference.npz"
    compute_reference(options, folder / "images.h5", main, output, "cpu")
    assert score(folder, options, "reference.npz")["scores"] == record["scores"]
    plain = chosen(folder, {"scores": ["fd"]})
    compute_reference(plain, folder / "images.h5", main, folder / "plain.npz", "cpu")
    found = score(folder, options, "plain.npz")
    assert found["scores"]["kd_vit"] is None and found["scores"]["fdr"] == record["scores"]["fdr"]
    assert any("kd_vit: not given" in warning for warning in found["protocol"]["warnings"])


def test_without_them_nothing_is_new(folder):
    options = OPTIONS.model_copy(update={"extra_networks": {"vit": space(folder)}})
    scores = score(folder, options)["scores"]
    assert list(scores)[6:] == ["fd_vit"]


def test_a_score_that_is_missing_leaves_no_mean(folder):
    main, output = folder / "main.safetensors", folder / "main.npz"
    compute_reference(OPTIONS, folder / "images.h5", main, output, "cpu")
    found = score(folder, chosen(folder, {"validation_fd": 0.5}), "main.npz")
    assert found["scores"]["fdr"] is None
    assert "fdr: not given, as fd_vit is not" in found["protocol"]["warnings"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ["kd"], "validation_fd": 1.0}, "`validation_fd` needs `fd`"),
        ({"features": "embedding", "weights": "trained"}, "needs a pretrained CLIP"),
        ({"scores": []}, "at least 1 item"),
        ({"scores": ["kd", "kd"]}, "must be different"),
    ],
)
def test_options_that_contradict(options, message):
    with pytest.raises(ValidationError, match=message):
        SpaceOptions(**{"architecture": "test_vit", **options})
