import pytest
import torch

from vrpo.config.networks import TokenizerOptions
from vrpo.errors import UserError
from vrpo.models.checkpoints import save_network
from vrpo.models.digest import state_sha256
from vrpo.models.tokenizer import Tokenizer, build_vae, load_tokenizer, vae_arguments

OPTIONS = TokenizerOptions(block_channels=[8, 16], latent_channels=4)


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_vae(vae_arguments(OPTIONS, 16)).eval().requires_grad_(False)


def images(count=3, side=16):
    return torch.randint(
        0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)


def test_latents_are_scaled_moments(vae):
    tokenizer, x = Tokenizer(vae, scale=0.5, shift=0.1), images()
    mean, std = tokenizer.encode(x)
    posterior = vae.encode(x.float() / 127.5 - 1).latent_dist
    assert mean.shape == std.shape == (3, 4, 8, 8)
    torch.testing.assert_close(mean, (posterior.mean - 0.1) * 0.5)
    torch.testing.assert_close(std, posterior.std * 0.5)
    torch.testing.assert_close(tokenizer.decode(mean), vae.decode(posterior.mean).sample)
    assert tokenizer.decode(mean).shape == (3, 3, 16, 16)
    assert tokenizer.downsampling == 2


def test_trained_file(vae, tmp_path):
    path = tmp_path / "tokenizer.safetensors"
    save_network(
        path,
        vae.state_dict(),
        {"kind": "tokenizer", "arguments": vae_arguments(OPTIONS, 16), "scale": 0.7},
    )
    before = torch.random.get_rng_state()
    tokenizer = load_tokenizer(OPTIONS, path, "cpu")
    assert torch.equal(
        torch.random.get_rng_state(), before
    )  # loading draws nothing from the global generator
    assert (
        tokenizer.scale == 0.7
        and not tokenizer.training
        and not any(p.requires_grad for p in tokenizer.parameters())
    )
    assert tokenizer.sha256 == state_sha256(vae)
    torch.testing.assert_close(
        tokenizer.encode(images())[0], Tokenizer(vae, 0.7).encode(images())[0], rtol=0, atol=0
    )
    assert (
        load_tokenizer(OPTIONS.model_copy(update={"scale": 0.18215}), path, "cpu").scale == 0.18215
    )


def test_pretrained_local_folder(vae, tmp_path):
    vae.save_pretrained(tmp_path / "sd-vae")
    options = TokenizerOptions(weights=str(tmp_path / "sd-vae"))
    tokenizer = load_tokenizer(options, None, "cpu")
    assert tokenizer.scale == pytest.approx(0.18215)  # Stable Diffusion's, diffusers' default
    assert tokenizer.sha256 == state_sha256(vae)
    assert load_tokenizer(options.model_copy(update={"scale": 2.0}), None, "cpu").scale == 2.0


def test_missing_and_wrong_weights(vae, tmp_path):
    with pytest.raises(UserError, match="--weights"):
        load_tokenizer(OPTIONS, None, "cpu")
    with pytest.raises(UserError, match="no such file"):
        load_tokenizer(OPTIONS, tmp_path / "none.safetensors", "cpu")
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors") as error:
        load_tokenizer(TokenizerOptions(weights=str(tmp_path / "nowhere")), None, "cpu")
    assert "\n" not in str(error.value) and "huggingface.co" not in str(error.value).split("(")[0]
    path = tmp_path / "other.safetensors"
    save_network(path, {"a": torch.zeros(1)}, {"kind": "critic"})
    with pytest.raises(UserError, match="holds a critic, not a tokenizer"):
        load_tokenizer(OPTIONS, path, "cpu")
    state = vae.state_dict()
    state.pop("quant_conv.bias")
    save_network(
        path, state, {"kind": "tokenizer", "arguments": vae_arguments(OPTIONS, 16), "scale": 1.0}
    )
    with pytest.raises(UserError, match=r"quant_conv\.bias"):
        load_tokenizer(OPTIONS, path, "cpu")


def test_group_norm_fits_any_widths():
    for widths in ([6, 12], [10, 20, 20], [16]):
        vae_options = TokenizerOptions(block_channels=widths)
        build_vae(vae_arguments(vae_options, 16))
