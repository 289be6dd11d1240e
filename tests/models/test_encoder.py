import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vrpo.config.networks import EncoderOptions
from vrpo.errors import UserError
from vrpo.models.checkpoints import save_network
from vrpo.models.encoder import VisualEncoder, load_encoder
from vrpo.models.timm_networks import NetworkInput, create_network, load_classifier

VIT = EncoderOptions(
    architecture="test_vit",
    weights="trained",
    arguments={"patch_size": 8, "embed_dim": 32, "depth": 2},
    image_size=32,
)


def images(count=3, side=32):
    return torch.randint(
        0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)


def saved(options, path, num_classes=10, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_network(options, num_classes).eval()
    description = {
        "kind": "classifier",
        "architecture": options.architecture,
        "arguments": options.arguments,
        "image_size": options.image_size,
    }
    save_network(path, network.state_dict(), {**description, "num_classes": num_classes, **changes})
    return network


def test_input_is_resized_and_normalised():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    x = images().float() / 255
    shift, width = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(NetworkInput(32, mean, std)(images()), (x - shift) / width)
    small = F.interpolate(x, (16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(NetworkInput(16, mean, std)(images()), (small - shift) / width)


def test_trained_encoder(tmp_path):
    path = tmp_path / "encoder.safetensors"
    network = saved(VIT, path)
    before = torch.random.get_rng_state()
    encoder = load_encoder(VIT, path, "cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    tokens = encoder.tokens(images())
    assert tokens.shape == (3, 16, 32) and tokens.dtype == torch.float32
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    with torch.inference_mode():
        everything = network.forward_features((images().float() / 255 - 0.5) / 0.5)
    assert everything.shape[1] == 17  # the class token is the first
    torch.testing.assert_close(tokens, everything[:, 1:])
    together, class_token = encoder.with_class_token(images())
    assert torch.equal(together, tokens)
    torch.testing.assert_close(class_token, everything[:, 0])
    torch.testing.assert_close(
        tokens.mean(-1), torch.zeros(3, 16), atol=1e-5, rtol=0
    )  # a layer norm is the last thing
    assert load_classifier(VIT, path)(encoder.input(images())).shape == (3, 10)


@pytest.mark.parametrize(
    ("architecture", "arguments", "prefix"),
    [
        ("test_vit", {}, 1),
        ("test_vit", {"class_token": False, "global_pool": "avg", "fc_norm": False}, 0),
        ("test_vit3", {}, None),
        ("vit_small_patch14_reg4_dinov2.lvd142m", {"depth": 1, "embed_dim": 48, "num_heads": 2}, 5),
    ],
)
def test_prefix_tokens_are_left_out(architecture, arguments, prefix):
    patch = 14 if "patch14" in architecture else 16
    options = EncoderOptions(architecture=architecture, arguments=arguments, image_size=4 * patch)
    encoder = VisualEncoder(create_network(options, 0).eval(), options.image_size)
    assert prefix is None or encoder.prefix == prefix
    assert encoder.tokens(images(2, 64)).shape[:2] == (2, 16)
    if encoder.network.cls_token is not None:  # test_vit3 has registers alone
        together, class_token = encoder.with_class_token(images(2, 64))
        assert together.shape[1] == 16 and class_token.shape == (2, together.shape[2])
    else:
        with pytest.raises(UserError, match="has no class token; set `class_token: false`"):
            VisualEncoder(encoder.network, options.image_size, class_token=True)


def test_local_safetensors_with_another_grid(tmp_path):
    arguments = {"embed_dim": 32, "depth": 2}
    original = timm.create_model("test_vit", img_size=64, num_classes=10, **arguments)
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in original.state_dict().items()}, path)
    options = EncoderOptions(
        architecture="test_vit", weights=str(path), arguments=arguments, image_size=64
    )
    encoder = load_encoder(options, None, "cpu")
    torch.testing.assert_close(encoder.network.pos_embed, original.pos_embed.detach())
    torch.testing.assert_close(encoder.network.norm.weight, original.norm.weight.detach())
    larger = load_encoder(options.model_copy(update={"image_size": 96}), None, "cpu")
    assert larger.network.pos_embed.shape[1] == 36 + 1  # resampled
    assert larger.tokens(images(1, 96)).shape == (1, 36, 32)


def test_convolutional_networks_take_no_image_size(tmp_path):
    options = EncoderOptions(architecture="test_resnet", weights="trained", image_size=32)
    saved(options, tmp_path / "net.safetensors")
    assert load_classifier(options, tmp_path / "net.safetensors")(
        torch.zeros(1, 3, 32, 32)
    ).shape == (1, 10)
    with pytest.raises(UserError, match="no patch tokens"):
        load_encoder(options, tmp_path / "net.safetensors", "cpu").tokens(images())


def test_bad_options(tmp_path):
    def load(**changes):
        load_encoder(VIT.model_copy(update=changes), None, "cpu")

    with pytest.raises(UserError, match=r"no network `test_vitt`; did you mean `test_vit"):
        load(architecture="test_vitt", weights="timm")
    with pytest.raises(
        UserError,
        match=(
            r"no network `vit_base_patch14_dinov2.lvd999m`; did you mean "
            r"`vit_base_patch14_dinov2.lvd142m`"
        ),
    ):
        load(architecture="vit_base_patch14_dinov2.lvd999m", weights="timm")
    with pytest.raises(UserError, match=r"arguments: .*wings"):
        create_network(VIT.model_copy(update={"arguments": {"wings": 2}}), 0)
    with pytest.raises(
        UserError, match=r"image_size: 30 is no multiple of the patch 8 .*24 would fit"
    ):
        create_network(VIT.model_copy(update={"image_size": 30}), 0)
    with pytest.raises(UserError, match="--weights"):
        load()
    with pytest.raises(
        UserError, match=r"model\.safetensors` of https://huggingface\.co/timm/test_vit"
    ):
        load(weights="nowhere.safetensors")
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        load(weights="weights.pth")


def test_weights_of_another_network(tmp_path):
    path = tmp_path / "encoder.safetensors"
    saved(VIT, path)
    with pytest.raises(UserError, match="image_size 32 instead of 64"):
        load_encoder(VIT.model_copy(update={"image_size": 64}), path, "cpu")
    with pytest.raises(UserError, match=r"does not fit|safetensors"):
        load_encoder(
            VIT.model_copy(
                update={"weights": str(path), "architecture": "test_vit2", "arguments": {}}
            ),
            None,
            "cpu",
        )
    save_network(path, {"a": torch.zeros(1)}, {"kind": "critic"})
    with pytest.raises(UserError, match="holds a critic, not a classifier"):
        load_encoder(VIT, path, "cpu")


def test_no_network_says_what_to_fetch(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr(timm, "create_model", offline)
    options = EncoderOptions(architecture="vit_base_patch14_dinov2.lvd142m")
    with pytest.raises(
        UserError,
        match=r"fetch `model\.safetensors` of https://huggingface\.co/timm/vit_base_patch14_dinov2\.lvd142m",
    ) as error:
        load_encoder(options, None, "cpu")
    assert "\n" not in str(error.value)
