"""Linear probe and CKNNA against plain loops and separable data, and the record of a milestone."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vrpo.config.scoring import RepresentationOptions
from vrpo.data.arrays import ArrayWriter
from vrpo.errors import UserError
from vrpo.metrics.cknna import cknna, nearest
from vrpo.metrics.probe import probe_accuracy
from vrpo.metrics.representation import measure_representation
from vrpo.models.backbones import build_network
from vrpo.models.checkpoints import save_milestone
from vrpo.models.transformer import build_transformer

from tests.fixtures import golden
from tests.fixtures.processes import ddpm, interpolant

MODEL = {"name": "tiny/2", "depth": 3, "width": 16, "heads": 2, "patch_size": 2, "num_classes": 5}
OPTIONS = RepresentationOptions(images=120, noise_levels=[0.2, 0.8], batch_size=50)
COUNT = 150


def drawn(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def plain_cknna(first, second, k):
    """CKNNA as the paper writes it, one pair at a time."""
    n = len(first)

    def independence(x, y):
        a, b = np.zeros((n, n)), np.zeros((n, n))
        for i in range(n):
            near = [
                set(sorted((j for j in range(n) if j != i), key=lambda j: -float(z[i] @ z[j]))[:k])
                for z in (x, y)
            ]
            for j in near[0] & near[1]:
                a[i, j], b[i, j] = float(x[i] @ x[j]), float(y[i] @ y[j])
        crossed = sum(
            a[i, j] * b[j, m] for i in range(n) for j in range(n) for m in range(n) if a[i, j]
        )
        diagonal = sum(a[i, j] * b[j, i] for i in range(n) for j in range(n))
        return (diagonal + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)) / (
            n * (n - 3)
        )

    x, y = (F.normalize(rows.double(), dim=1).numpy() for rows in (first, second))
    return independence(x, y) / math.sqrt(independence(x, x) * independence(y, y))


@pytest.mark.parametrize(("width", "k"), [(3, 4), (8, 10)])
def test_cknna_is_the_plain_loop(width, k):
    first = drawn(30, width, 0)
    second = first[:, : width - 1] + 0.5 * drawn(30, width - 1, 1)
    expected = plain_cknna(first, second, k)
    assert 0 < expected < 1
    assert cknna(nearest(first, k), nearest(second, k)) == pytest.approx(expected, rel=1e-12)


def test_cknna_of_equal_and_of_unrelated_features():
    first, other = drawn(3000, 8, 0), drawn(3000, 8, 1)  # more rows than one block
    rotation = torch.linalg.qr(drawn(8, 8, 2)).Q
    assert cknna(nearest(first), nearest(3 * first @ rotation)) == pytest.approx(1, abs=1e-9)
    assert abs(cknna(nearest(first), nearest(other))) < 0.02
    assert cknna(nearest(first), nearest(torch.ones(3000, 2))) < 0.02


def test_cknna_needs_more_images_than_neighbours():
    with pytest.raises(UserError, match=r"representation.images: 10 are too few for 10 neighbours"):
        nearest(drawn(10, 4, 0))


def test_probe_separates_what_is_separable():
    labels = torch.arange(400) % 4
    noise = drawn(400, 6, 0)
    features = torch.cat([1e3 * F.one_hot(labels, 4) + 5, noise], 1).float()
    assert probe_accuracy(features[:300], labels[:300], features[300:], labels[300:]) == 1.0
    chance = probe_accuracy(noise[:300], labels[:300], noise[300:], labels[300:])
    assert chance < 0.45
    assert probe_accuracy(noise[:300], labels[:300], noise[300:], labels[300:]) == chance


def test_probe_is_logistic_regression():
    linear_model = pytest.importorskip("sklearn.linear_model")
    labels = torch.arange(300) % 3
    features = drawn(300, 5, 3) + 0.8 * F.one_hot(labels, 5)
    train, test = features[:200].double(), features[200:].double()
    scaled = [(rows - train.mean(0)) / train.std(0) for rows in (train, test)]
    other = linear_model.LogisticRegression(C=1 / (200 * 1e-2), max_iter=1000, tol=1e-8).fit(
        scaled[0].numpy(), labels[:200].numpy()
    )
    accuracy = probe_accuracy(
        features[:200], labels[:200], features[200:], labels[200:], weight_decay=1e-2
    )
    assert accuracy == other.score(scaled[1].numpy(), labels[200:].numpy())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("representation")
    labels = np.arange(COUNT) % 5
    mean = drawn(COUNT, 4 * 64, 5).reshape(COUNT, 4, 8, 8).numpy()
    mean[:, 0] += labels[:, None, None]
    write(
        folder / "latents.h5",
        {"mean": mean, "std": np.full_like(mean, 0.1), "labels": labels},
        {"images": "f" * 64, "scale": 1.0},
    )
    tokens = drawn(COUNT, 16 * 6, 6).reshape(COUNT, 16, 6).numpy().astype(np.float16)
    tokens[..., 0] += labels[:, None]
    write(
        folder / "vit.h5",
        {"tokens": tokens, "class_token": tokens[:, 0]},
        {"images": "f" * 64, "encoder": "vit"},
    )
    for name, process in {
        "sit": {"kind": "interpolant", "path": "linear", "time": "uniform"},
        "dit": {"kind": "ddpm", "betas": "linear", "steps": 1000},
    }.items():
        out_channels = 4 if name == "sit" else 8
        network = golden.fill(build_transformer(SimpleNamespace(**MODEL), (4, 8, 8), out_channels))
        description = {
            "run": name,
            "seed": 0,
            "step": 7,
            "model": MODEL,
            "process": process,
            "latent_shape": [4, 8, 8],
            "out_channels": out_channels,
        }
        save_milestone(
            folder / f"{name}.safetensors", dict(network.named_parameters()), {}, description
        )
    joint = golden.fill(build_network(SimpleNamespace(**MODEL), (4, 8, 8), 8, 6))
    description |= {"run": "reg", "class_token": 6, "alignment": {"encoders": ["vit"]}}
    save_milestone(folder / "reg.safetensors", dict(joint.named_parameters()), {}, description)
    return folder


def write(path, arrays, attributes):
    with ArrayWriter(
        path, {name: (values.shape, values.dtype) for name, values in arrays.items()}, attributes
    ) as writer:
        writer.write(0, arrays)
        writer.finish()


@pytest.mark.parametrize("run", ["sit", "dit", "reg"])
def test_record(folder, tmp_path, run):
    arguments = (folder / f"{run}.safetensors", folder / "latents.h5", {"vit": folder / "vit.h5"})
    record = measure_representation(OPTIONS, *arguments, tmp_path / "a.json", "cpu")
    measure_representation(OPTIONS, *arguments, tmp_path / "b.json", "cpu")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == record
    assert (record["run"], record["seed"], record["step"]) == (run, 0, 7)
    assert [(row["noise_level"], row["block"]) for row in record["rows"]] == [
        (level, block) for level in (0.2, 0.8) for block in (1, 2, 3)
    ]
    assert all(
        0 <= row["probe_accuracy"] <= 1 and -1 <= row["cknna"]["vit"] <= 1 for row in record["rows"]
    )
    assert record["encoders"]["vit"] > 0.9
    assert record["protocol"]["test_images"] == 24
    # another batch size: the same images with the same noise
    other = measure_representation(
        OPTIONS.model_copy(update={"batch_size": 120, "blocks": [2]}),
        *arguments,
        tmp_path / "c.json",
        "cpu",
    )
    assert other["rows"][0]["cknna"]["vit"] == pytest.approx(
        record["rows"][1]["cknna"]["vit"], abs=1e-3
    )


def test_noise_levels_are_times_of_the_process():
    assert interpolant().at_level(0.25, 2).tolist() == [0.25, 0.25]
    process = ddpm()
    assert process.at_level(0.5, 1).tolist() == [500]
    assert process.noise_level(process.at_level(0.25, 1)).item() == pytest.approx(0.25, abs=1e-3)


def test_bad_input(folder, tmp_path):
    arguments = (folder / "latents.h5", {"vit": folder / "vit.h5"}, tmp_path / "a.json", "cpu")
    with pytest.raises(
        UserError, match=r"representation.blocks: \[4\], but this network has blocks 1 to 3"
    ):
        measure_representation(
            OPTIONS.model_copy(update={"blocks": [4]}), folder / "sit.safetensors", *arguments
        )
    with pytest.raises(UserError, match="leaves none to fit"):
        measure_representation(
            OPTIONS.model_copy(update={"test_fraction": 1e-4}),
            folder / "sit.safetensors",
            *arguments,
        )
    assert not (tmp_path / "a.json").exists()
