"""A second feature space that is fitted on the images: from its file to the score in the record."""

import pytest
import torch
from typer.testing import CliRunner

from vrpo.cli import app
from vrpo.config.networks import SpaceOptions
from vrpo.errors import UserError
from vrpo.metrics.compute_reference import compute_reference
from vrpo.metrics.distances.frechet import frechet_distance
from vrpo.metrics.evaluate import evaluate, summary
from vrpo.metrics.networks.classifier import ClassifierNetwork
from vrpo.metrics.networks.loading import extra_networks
from vrpo.metrics.statistics import gaussian_of

from tests.fixtures.metrics import ATTRIBUTES, OPTIONS, make_images, write_classifier, write_h5

SECOND = SpaceOptions(
    architecture="test_convnext",
    weights="trained",
    arguments={"dims": [8, 16, 16, 24]},
    image_size=32,
)
CHOSEN = OPTIONS.model_copy(update={"extra_networks": {"validation": SECOND}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extra")
    write_h5(folder / "images.h5", make_images(90), {"fingerprint": "f" * 64, "resolution": 32})
    write_h5(folder / "samples.h5", make_images(80, seed=5) // 2, ATTRIBUTES)
    write_classifier(folder / "main.safetensors")
    write_classifier(folder / "second.safetensors", SECOND)
    extra = {"validation": folder / "second.safetensors"}
    compute_reference(
        CHOSEN,
        folder / "images.h5",
        folder / "main.safetensors",
        folder / "reference.npz",
        "cpu",
        extra,
    )
    return folder


def score(folder, **extra):
    return evaluate(
        CHOSEN,
        folder / "samples.h5",
        folder / "reference.npz",
        folder / "main.safetensors",
        None,
        "cpu",
        extra_weights=extra,
    )


def test_distance_in_the_second_space(folder):
    record = score(folder, validation=folder / "second.safetensors")
    extractor = ClassifierNetwork(SECOND, folder / "second.safetensors", "cpu")
    images = (make_images(90), make_images(80, seed=5) // 2)
    real, made = (
        extractor.features(torch.from_numpy(part).permute(0, 3, 1, 2)).pool for part in images
    )
    assert real.shape == (90, 24)
    assert record["scores"]["fd_validation"] == pytest.approx(
        frechet_distance(gaussian_of(real), gaussian_of(made)), rel=1e-3
    )
    assert record["scores"]["fd_validation"] != pytest.approx(record["scores"]["fid"], rel=0.01)
    assert record["provenance"]["extra_networks_sha256"] == {"validation": extractor.sha256}
    assert record["protocol"]["extra_networks"]["validation"]["dim"] == 24
    assert "FD-validation" in summary(record)


def test_other_weights_are_not_compared(folder, tmp_path):
    write_classifier(tmp_path / "other.safetensors", SECOND, seed=1)
    with pytest.raises(UserError, match="compute the reference again"):
        score(folder, validation=tmp_path / "other.safetensors")


def test_missing_and_stray_weights(folder):
    with pytest.raises(
        UserError,
        match=(
            r"extra_networks.validation: `weights: trained`, and no file.*--section "
            r"extra_networks.validation"
        ),
    ):
        score(folder)
    with pytest.raises(UserError, match=r"--extra-weights stray: there is none.*known: validation"):
        dict(extra_networks(CHOSEN, {"stray": folder / "second.safetensors"}, "cpu"))


def test_sections_of_the_evaluation():
    assert CHOSEN.network_of("trained") == CHOSEN.trained
    assert CHOSEN.network_of("extra_networks.validation") == SECOND
    with pytest.raises(
        UserError,
        match=r"--section validation: .*known: encoder, trained, extra_networks.validation",
    ):
        CHOSEN.network_of("validation")
    pretrained = CHOSEN.model_copy(
        update={"extra_networks": {"vit": SECOND.model_copy(update={"weights": "timm"})}}
    )
    with pytest.raises(UserError, match="no network of this name is fitted"):
        pretrained.network_of("extra_networks.vit")
    assert (
        "extra_networks.NAME"
        in CliRunner().invoke(app, ["fit-classifier", "--help"], env={"COLUMNS": "200"}).output
    )
