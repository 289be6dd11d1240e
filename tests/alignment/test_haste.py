"""HASTE against its own code (tests/golden) and plain loops.

Also from the encoder's blocks through the cache into a training.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vrpo.alignment.base import AlignmentContext
from vrpo.alignment.haste import HASTE, attention_cross_entropy
from vrpo.alignment.registry import build_alignment
from vrpo.config import RunConfig, parse_experiment
from vrpo.config.alignments import HASTEOptions
from vrpo.config.messages import validate
from vrpo.config.networks import EncoderOptions
from vrpo.config.reading import read_yaml
from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.models.encoder import VisualEncoder
from vrpo.models.timm_networks import create_network
from vrpo.models.transformer import build_transformer
from vrpo.prepare.features import encode_features
from vrpo.training.run import train

from tests.fixtures import golden
from tests.fixtures.alignment import batch
from tests.fixtures.training import COUNT, LATENT, Toy

VALUES = golden.load("alignment")
VIT = EncoderOptions(
    architecture="test_vit",
    weights="timm",
    arguments={"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2},
    image_size=32,
    attention=[1, 3],
)


def golden_attention() -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Queries and keys: the network's of four blocks of sixteen heads, the encoder's of twelve."""
    own = [
        (golden.draw(100 + i, 1, 16, 256, 4).requires_grad_(), golden.draw(110 + i, 1, 16, 256, 4))
        for i in range(4)
    ]
    target = [
        torch.stack(
            [2 * golden.draw(120 + i, 1, 12, 256, 4), golden.draw(130 + i, 1, 12, 256, 4)], dim=1
        )
        for i in range(4)
    ]
    return own, torch.stack(target, dim=1)  # (1, 4, 2, 12, 256, 4)


def build(**changes: object) -> HASTE:
    options = {
        "kind": "haste",
        "encoders": ["a"],
        "depth": 1,
        "projector_width": 8,
        "attention_blocks": [1, 2, 3, 4],
        "stop_step": 10,
    }
    context = AlignmentContext((4, 32, 32), 6, {"a": (256, 6)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_alignment(HASTEOptions(**{**options, **changes}), context)


def offered(alignment: HASTE, step: int) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient at the queries of the first block."""
    own, target = golden_attention()
    given = batch(golden.draw(141, 1, 256, 6), a=golden.draw(140, 1, 256, 6))
    given.attention, given.encoder_attention, given.step = own, {"a": target}, torch.tensor(step)
    loss = alignment(given).loss
    return loss, torch.autograd.grad(loss, own[0][0])[0]


def test_attention_loss_and_gradient_equal_the_original() -> None:
    own, target = golden_attention()
    loss = torch.stack(
        [attention_cross_entropy(q, k, *target[:, i].unbind(1)) for i, (q, k) in enumerate(own)]
    ).mean()
    torch.testing.assert_close(loss, VALUES["haste_attention"], rtol=1e-6, atol=0)
    gradients = torch.stack(
        [gradient[0, ::5, ::64] for gradient in torch.autograd.grad(loss, [q for q, _ in own])]
    )
    torch.testing.assert_close(gradients, VALUES["haste_gradient"], rtol=0, atol=1e-9)


def test_both_terms_are_weighted_and_stop_together() -> None:
    alignment = build(weight=0.5, attention_weight=0.25)
    alignment.projectors[0] = torch.nn.Identity()
    loss, gradient = offered(alignment, 9)
    torch.testing.assert_close(
        loss, 0.5 * VALUES["haste_projection"] + 0.25 * VALUES["haste_attention"], rtol=1e-6, atol=0
    )
    assert gradient.abs().max() > 0
    loss, gradient = offered(alignment, 10)
    assert loss == 0 and not gradient.any()


def test_cross_entropy_is_the_plain_loop_and_least_where_the_maps_are_equal() -> None:
    q, k, target_q, target_k = (golden.draw(seed, 2, 3, 5, 4) for seed in range(4))
    total = 0.0
    for b in range(2):
        for h in range(3):
            for n in range(5):
                own = torch.tensor(
                    [float(q[b, h, n] @ k[b, h, m]) / 2 for m in range(5)], dtype=torch.float64
                )
                want = torch.tensor(
                    [float(target_q[b, h, n] @ target_k[b, h, m]) / 2 for m in range(5)],
                    dtype=torch.float64,
                ).softmax(0)
                total -= float(want @ own.log_softmax(0))
    assert attention_cross_entropy(q, k, target_q, target_k).item() == pytest.approx(
        total / 30, rel=1e-6
    )
    assert attention_cross_entropy(
        target_q, target_k, target_q, target_k
    ) < attention_cross_entropy(q, k, target_q, target_k)


def test_the_network_gives_queries_and_keys_of_the_blocks_asked_for() -> None:
    network = golden.fill(build_transformer(golden.MODEL, golden.LATENT, 4))
    x, t = golden.draw(1, 2, *golden.LATENT), torch.tensor([0.2, 0.7])
    prediction, hidden, attention = network.traced(
        x, t, golden.LABELS, hidden_after=(2,), attention_of=(1, 3)
    )
    plain, plain_hidden = network(x, t, golden.LABELS, hidden_after=(2,))
    assert torch.equal(prediction, plain) and torch.equal(hidden[0], plain_hidden[0])
    assert [tuple(part.shape) for pair in attention for part in pair] == [(2, 4, 16, 12)] * 4


def test_cached_queries_and_keys_give_the_encoders_own_attention() -> None:
    network = create_network(VIT, 0).eval()
    encoder = VisualEncoder(network, 32, VIT.attention)
    images = torch.randint(
        0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        cached = encoder.attention(images)
        assert cached.shape == (2, 2, 2, 2, 16, 16)
        layer = network.blocks[2].attn
        x = network.pos_drop(network._pos_embed(network.patch_embed(encoder.input(images))))
        x = network.blocks[2].norm1(network.blocks[1](network.blocks[0](network.norm_pre(x))))
        queries, keys, _ = layer.qkv(x).reshape(2, 17, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
    logits = (queries * layer.scale) @ keys.transpose(-2, -1)
    torch.testing.assert_close(
        cached[:, 1, 0] @ cached[:, 1, 1].transpose(-2, -1) / math.sqrt(16),
        logits[..., 1:, 1:],
        rtol=1e-5,
        atol=1e-5,
    )


def test_attention_that_cannot_be_cached_is_refused() -> None:
    with pytest.raises(UserError, match="names block 4, VisionTransformer has blocks 1 to 3"):
        VisualEncoder(create_network(VIT, 0), 32, [4])
    rotary = EncoderOptions(
        architecture="vit_small_patch16_dinov3",
        arguments={"depth": 1, "embed_dim": 48, "num_heads": 2},
        image_size=32,
    )
    with pytest.raises(UserError, match="not plain"):
        VisualEncoder(create_network(rotary, 0), 32, [1])


@pytest.mark.parametrize("storage", ["int8", "float16"])
def test_the_cache_holds_attention_beside_tokens(tmp_path, monkeypatch, storage: str) -> None:
    encoder = VisualEncoder(create_network(VIT, 0).eval(), 32, VIT.attention)
    monkeypatch.setattr("vrpo.prepare.features.load_encoder", lambda *_: encoder)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with ArrayWriter(
        tmp_path / "images.h5",
        {"images": (pixels.shape, "uint8"), "labels": ((5,), "int64")},
        {"fingerprint": "toy", "resolution": 32, "classes": 10},
    ) as writer:
        writer.write(0, {"images": pixels, "labels": np.zeros(5, dtype=np.int64)})
        writer.finish()
    with ArrayWriter(
        tmp_path / "latents.h5",
        {
            "mean": ((5, 4, 4, 4), "float32"),
            "std": ((5, 4, 4, 4), "float32"),
            "labels": ((5,), "int64"),
        },
        {"images": "toy"},
    ) as writer:
        writer.write(
            0,
            {
                "mean": np.zeros((5, 4, 4, 4), np.float32),
                "std": np.zeros((5, 4, 4, 4), np.float32),
                "labels": np.zeros(5, dtype=np.int64),
            },
        )
        writer.finish()
    options = VIT.model_copy(update={"storage": storage, "batch_size": 2})
    encode_features(options, "vit", tmp_path / "images.h5", None, tmp_path / "vit.h5", "cpu")
    assert Arrays(tmp_path / "vit.h5").attributes["attention"] == [1, 3]
    data = TrainingData(tmp_path / "latents.h5", {"vit": tmp_path / "vit.h5"})
    assert data.gather(np.array([3])).attention == {}
    read = data.gather(np.array([3, 0]), attention=True).attention["vit"]
    with torch.no_grad():
        exact = encoder.attention(torch.from_numpy(pixels[[3, 0]]).permute(0, 3, 1, 2))
    torch.testing.assert_close(read, exact, rtol=0, atol=0.02 * float(exact.abs().max()))


def haste_toy(folder, stop_step: int) -> tuple[Toy, RunConfig, dict[str, object]]:
    toy = Toy(folder)
    features = folder / "attended.h5"
    generator = np.random.default_rng(1)
    shapes = {
        "tokens": ((COUNT, 4, 8), "float16"),
        "attention": ((COUNT, 1, 2, 2, 4, 4), "float16"),
    }
    with ArrayWriter(features, shapes, {"images": "toy"}) as writer:
        writer.write(
            0,
            {
                name: generator.standard_normal(shape).astype(np.float16)
                for name, (shape, _) in shapes.items()
            },
        )
        writer.finish()
    content = toy.config("repa").model_dump(mode="json")
    del content["alignment"]["weight_schedule"]  # HASTE has a stop of its own
    content["alignment"] |= {"kind": "haste", "attention_blocks": [2], "stop_step": stop_step}
    config = validate(RunConfig, content, "toy")
    return toy, config, {"latents": toy.latents, "features": {"toy": features}, "critics": {}}


def test_a_training_stops_aligning_at_its_step(tmp_path) -> None:
    _, config, inputs = haste_toy(tmp_path, stop_step=2)
    train(
        config,
        **inputs,
        milestone=4,
        output=tmp_path / "run" / "step0000004.safetensors",
        device="cpu",
        log_every=1,
    )
    rows = np.genfromtxt(tmp_path / "run" / "train.csv", delimiter=",", names=True)
    assert rows["active"].tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(rows["loss"][2:], rows["denoising"][2:])
    np.testing.assert_allclose(
        rows["loss"][:2],
        (rows["denoising"] + 0.5 * rows["attention"] + 0.5 * rows["alignment"])[:2],
        rtol=1e-5,
    )
    assert LATENT == (4, 4, 4)


def test_features_without_attention_are_refused(tmp_path) -> None:
    toy, config, inputs = haste_toy(tmp_path, stop_step=2)
    with pytest.raises(
        UserError,
        match=r"holds the attention of 0 blocks, .* reads 1; name them in `encoders.toy.attention`",
    ):
        train(
            config,
            **{**inputs, "features": {"toy": toy.features}},
            milestone=1,
            output=tmp_path / "run" / "a.safetensors",
            device="cpu",
        )


def test_configs_that_do_not_fit_are_refused() -> None:
    content = read_yaml("config/mini.yaml")
    content["alignments"]["haste"] = {
        "kind": "haste",
        "encoders": ["vit"],
        "depth": 2,
        "attention_blocks": [2, 3],
    }
    with pytest.raises(
        UserError,
        match=r"attention_blocks: .* name as many of its blocks in `encoders.vit.attention`",
    ):
        parse_experiment(content, "mini")
    content["encoders"]["vit"]["attention"] = [3, 4]
    content["runs"]["sit-haste"] = {"model": "mini/2", "process": "sit", "alignment": "haste"}
    parse_experiment(content, "mini")
    content["alignments"]["haste"]["attention_blocks"] = [2, 5]
    with pytest.raises(
        UserError, match=r"takes block 5, .* lower `alignments.haste.attention_blocks`"
    ):
        parse_experiment(content, "mini")
