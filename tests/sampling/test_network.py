"""The network as the samplers call it."""

import pytest
from torch import nn

from vrpo.config.resolved import ModelOptions
from vrpo.models.transformer import build_transformer
from vrpo.sampling import network
from vrpo.sampling.network import SamplingNetwork


class Custom(nn.Module):
    """A network of a custom class, in which a compiled graph may break."""

    null_label = 10


@pytest.mark.parametrize("custom", [False, True])
def test_only_a_custom_network_may_break_the_graph(
    custom: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(network.torch, "compile", lambda *_, **how: asked.append(how))
    size = ModelOptions(name="x", depth=1, width=8, heads=1, patch_size=2, num_classes=10)
    SamplingNetwork(Custom() if custom else build_transformer(size, (4, 4, 4), 4), compiled=True)
    assert asked == [{"fullgraph": not custom, "dynamic": False}]
