import pytest
import torch

from vrpo.errors import UserError
from vrpo.models.checkpoints import save_network
from vrpo.models.critic import LatentCritic, load_critic


@pytest.mark.parametrize(
    ("latent_shape", "tokens"),
    [
        ((4, 8, 8), (16, 96)),
        ((4, 32, 32), (256, 768)),
        ((4, 8, 8), (64, 5)),
        ((4, 8, 8), (9, 5)),
        ((16, 4, 4), (64, 5)),
    ],
)
def test_shapes_and_unit_length(latent_shape, tokens):
    critic = LatentCritic(latent_shape, tokens, width=16, depth=1)
    out = critic(torch.randn(2, *latent_shape, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (2, *tokens)
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(2, tokens[0]))


def test_tokens_lie_where_the_latent_does():
    critic = LatentCritic((4, 8, 8), (16, 6), width=8, depth=0)
    latents = torch.randn(
        1, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    critic.head[0] = torch.nn.Identity()  # its statistics span the whole image
    critic(latents)[0, 4 * 1 + 2].sum().backward()  # token of row 1, column 2
    touched = latents.grad[0].abs().sum(dim=0) > 0
    rows, columns = touched.nonzero().unbind(dim=1)
    assert set(rows.tolist()) <= {1, 2, 3, 4} and set(columns.tolist()) <= {3, 4, 5, 6}


def test_gradient_is_smooth():
    torch.manual_seed(0)
    critic = LatentCritic((2, 4, 4), (4, 8), width=8, depth=1).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def tokens(x):  # the critic's forward without its cast to fp32
        y = critic.down(critic.stem(x))
        for block in critic.blocks:
            y = block(y)
        return torch.nn.functional.normalize(critic.head(y).flatten(2).transpose(1, 2), dim=-1)

    assert torch.autograd.gradcheck(tokens, (x,))
    assert torch.autograd.gradgradcheck(tokens, (x,))


def test_fp32_under_autocast():
    critic = LatentCritic((4, 8, 8), (16, 6), width=8, depth=1)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = critic(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, critic(x), rtol=0, atol=0)


def test_file(tmp_path):
    critic = LatentCritic((4, 8, 8), (16, 6), width=8, depth=1)
    path = tmp_path / "critic.safetensors"
    description = {
        "kind": "critic",
        "latent_shape": [4, 8, 8],
        "tokens": [16, 6],
        "width": 8,
        "depth": 1,
        "latents": "a",
        "features": "b",
    }
    save_network(path, critic.state_dict(), description)
    loaded = load_critic(path, "cpu")
    assert (
        loaded.latent_shape == (4, 8, 8)
        and loaded.tokens == (16, 6)
        and loaded.description == description
    )
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    torch.testing.assert_close(loaded(x), critic(x))
    loaded(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="15 tokens are no square grid"):
        LatentCritic((4, 8, 8), (15, 6), width=8, depth=1)
    path = tmp_path / "other.safetensors"
    save_network(path, {"a": torch.zeros(1)}, {"kind": "tokenizer"})
    with pytest.raises(UserError, match="holds a tokenizer, not a critic"):
        load_critic(path, "cpu")
    with pytest.raises(UserError, match="no such file"):
        load_critic(tmp_path / "none.safetensors", "cpu")
