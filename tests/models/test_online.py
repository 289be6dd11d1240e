"""Tokens computed in the training's loop are those of the cache, up to its rounding."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vrpo.config.data import DataOptions
from vrpo.config.networks import FitOptions
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.models.online import OnlineFeatures, open_features
from vrpo.prepare.classifier import fit_classifier
from vrpo.prepare.critic import fit_critic
from vrpo.prepare.images import write_images
from vrpo.training.run import train

from tests.fixtures.prepared import Preparation, small_encoder, small_tokenizer
from tests.fixtures.training import Toy, milestone_file

PREPARATION = Preparation(
    DataOptions(resolution=8),
    small_tokenizer(),
    small_encoder(
        {"patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2},
        storage="float16",
        attention=[2],
        class_token=True,
        batch_size=5,  # a batch of eight is encoded in two parts
    ),
    "toy",
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of 8 pixels, latents [4, 4, 4], and four tokens of width 8, cached and described."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("online")
    PREPARATION.fit(folder)
    PREPARATION.encode_latents(folder, folder / "latents.h5")
    PREPARATION.encode_features(folder, folder / "features" / "toy.h5")
    PREPARATION.encode_features(folder, folder / "features" / "toy.json", features="online")
    return folder


def data_of(prepared: Path, name: str) -> TrainingData:
    return TrainingData(
        prepared / "latents.h5", {"toy": open_features(prepared / "features" / name, "cpu")}
    )


def test_batches(prepared: Path) -> None:
    cached, online = data_of(prepared, "toy.h5"), data_of(prepared, "toy.json")
    assert isinstance(online.features["toy"], OnlineFeatures)
    assert online.feature_shapes == cached.feature_shapes == {
        "toy": (4, 8)
    } and online.attention_blocks == cached.attention_blocks == {"toy": 1}
    indices = np.array([5, 1796, 0, 5, 44, 3, 2, 1])
    wanted = {"attention": True, "class_token": True}
    batches = (data.decode(data.read(indices, **wanted)) for data in (online, cached))
    for ours, theirs in zip(*map(_parts, batches), strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)  # of float16
    first = cached.class_tokens("toy", indices)
    torch.testing.assert_close(online.class_tokens("toy", indices), first, rtol=2e-3, atol=2e-3)
    together = cached.decode(cached.read(indices, class_token=True)).tokens["toy"]
    assert torch.equal(
        together, torch.cat([first[:, None], cached.gather(indices).tokens["toy"]], 1)
    )
    assert not torch.equal(
        online.gather(indices).tokens["toy"], cached.gather(indices).tokens["toy"]
    )


def _parts(batch: Any) -> list[torch.Tensor]:
    return [batch.mean, batch.std, batch.tokens["toy"], batch.attention["toy"]]


def test_a_training_has_the_losses_of_the_cached_one(prepared: Path, tmp_path: Path) -> None:
    toy = Toy(tmp_path / "toy")
    config = toy.config("repa")
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"num_classes": 10})}
    )
    rows = {}
    for name in ("toy.h5", "toy.json"):
        output = milestone_file(tmp_path / name, 10)
        train(
            config,
            latents=prepared / "latents.h5",
            features={"toy": prepared / "features" / name},
            critics={},
            milestone=10,
            output=output,
            log_every=1,
            device="cpu",
        )
        with open(output.parent / "train.csv") as file:
            rows[name] = [
                {key: float(row[key]) for key in ("loss", "denoising", "alignment")}
                for row in csv.DictReader(file)
            ]
    assert len(rows["toy.h5"]) == 10
    for cached, online in zip(*rows.values(), strict=True):
        assert online == pytest.approx(cached, rel=1e-4, abs=5e-5)  # cosines start near 0
    assert rows["toy.h5"] != rows["toy.json"]


def test_a_critic_is_distilled_from_computed_tokens(prepared: Path, tmp_path: Path) -> None:
    from vrpo.config.networks import CriticOptions
    from vrpo.models.critic import load_critic

    options = CriticOptions(width=8, depth=0, training=FitOptions(steps=2, batch_size=8))
    fit_critic(
        options,
        prepared / "latents.h5",
        prepared / "features" / "toy.json",
        tmp_path / "critic.safetensors",
        "cpu",
    )
    assert (
        load_critic(tmp_path / "critic.safetensors", "cpu").description["features"]
        == data_of(prepared, "toy.json").features["toy"].fingerprint
    )


def test_features_of_another_encoder_are_refused(prepared: Path, tmp_path: Path) -> None:
    PREPARATION._replace(name="clip").encode_features(prepared, tmp_path / "clip.h5")
    config = Toy(tmp_path / "toy").config("repa")
    with pytest.raises(
        UserError,
        match=r"--features toy: .*clip\.h5 holds the tokens of encoder `clip`; give those of `toy`",
    ):
        train(
            config,
            latents=prepared / "latents.h5",
            features={"toy": tmp_path / "clip.h5"},
            critics={},
            milestone=1,
            output=milestone_file(tmp_path / "run", 1),
            device="cpu",
        )


@pytest.mark.parametrize("name", ["latents.h5", "features/toy.h5"])
def test_flipped_bits_are_named_before_the_training_starts(
    prepared: Path, tmp_path: Path, name: str
) -> None:
    files = {file: tmp_path / Path(file).name for file in ("latents.h5", "features/toy.h5")}
    for file, copy in files.items():
        copy.write_bytes((prepared / file).read_bytes())
    with open(files[name], "r+b") as file:
        file.seek(files[name].stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    config = Toy(tmp_path / "toy").config("repa")
    output = milestone_file(tmp_path / "run", 1)
    with pytest.raises(UserError, match=rf"{Path(name).name}: row \d+ is damaged"):
        train(
            config,
            latents=files["latents.h5"],
            features={"toy": files["features/toy.h5"]},
            critics={},
            milestone=1,
            output=output,
            device="cpu",
        )
    assert not list(output.parent.glob("*.csv"))


def test_other_weights_images_and_files_are_refused(prepared: Path, tmp_path: Path) -> None:
    described = (prepared / "features" / "toy.json").read_text()
    folder = tmp_path / "features"
    folder.mkdir()
    for name in ("images.h5", "encoder.safetensors"):
        (tmp_path / name).write_bytes((prepared / name).read_bytes())
    (folder / "toy.json").write_text(described)
    OnlineFeatures(folder / "toy.json", "cpu")  # places are relative to the file
    other = PREPARATION.encoder.model_copy(update={"training": FitOptions(steps=3, batch_size=8)})
    fit_classifier(other, prepared / "images.h5", tmp_path / "encoder.safetensors", "cpu")
    with pytest.raises(UserError, match=r"toy\.json: made for other weights"):
        OnlineFeatures(folder / "toy.json", "cpu")
    (tmp_path / "encoder.safetensors").write_bytes((prepared / "encoder.safetensors").read_bytes())
    (tmp_path / "images.h5").unlink()
    with pytest.raises(UserError, match=r"images\.h5: no such file"):
        OnlineFeatures(folder / "toy.json", "cpu")
    write_images(DataOptions(resolution=16), tmp_path / "images.h5")
    with pytest.raises(UserError, match=r"toy\.json: made for other images"):
        OnlineFeatures(folder / "toy.json", "cpu")
    (folder / "toy.json").write_text("{}")
    with pytest.raises(UserError, match="does not say how features are computed"):
        open_features(folder / "toy.json", "cpu")
