"""The feature networks: Inception and the miniature's classifier.

Inception's three outputs against a manual forward pass, and its file of weights.
"""

import urllib.error

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from vrpo.config.scoring import EvaluationOptions
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.metrics.networks.inception import SHA256, URL, InceptionNetwork
from vrpo.metrics.networks.loading import load_network
from vrpo.models.timm_networks import load_classifier

from tests.fixtures.metrics import OPTIONS, make_images, write_classifier, write_inception

INCEPTION = EvaluationOptions(network="inception")


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    return write_inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(scope="module")
def inception(inception_file):
    return load_network(INCEPTION, inception_file, "cpu")


@pytest.fixture(scope="module")
def batch():
    return torch.from_numpy(make_images(3, 48, 1)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def features(inception, batch):
    return inception.features(batch)


def conv(state, name, x, **kwargs):
    """Convolution, batch norm with TensorFlow's epsilon, ReLU."""
    bn = {
        part: state[f"{name}.bn.{part}"]
        for part in ("running_mean", "running_var", "weight", "bias")
    }
    return F.relu(F.batch_norm(F.conv2d(x, state[f"{name}.conv.weight"], **kwargs), **bn, eps=1e-3))


def manual_mixed_6d(network, state, images):
    """ADM's `mixed_6/conv`: the 1x1 branch of the block that follows Mixed_6c."""
    x = interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(299, 299), align_corners=False
    )
    x = (x - 128) / 128
    x = conv(state, "Conv2d_1a_3x3", x, stride=2)
    x = conv(state, "Conv2d_2a_3x3", x)
    x = F.max_pool2d(conv(state, "Conv2d_2b_3x3", x, padding=1), 3, 2)
    x = conv(state, "Conv2d_4a_3x3", conv(state, "Conv2d_3b_1x1", x))
    x = F.max_pool2d(x, 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c"):
        x = getattr(network, name)(x)
    return conv(state, "Mixed_6d.branch1x1", x)


def test_spatial_layer_shape_and_order(features, inception_file, batch):
    state = torch.load(inception_file, weights_only=True)
    network = FeatureExtractorInceptionV3(
        "manual", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_file)
    )
    with torch.no_grad():
        branch = manual_mixed_6d(network, state, batch)
        pool, logits = network(batch)
    assert branch.shape == (3, 192, 17, 17)
    nhwc = branch.permute(0, 2, 3, 1)[..., :7].reshape(3, -1)
    assert features.spatial.shape == (3, 2023)
    torch.testing.assert_close(features.spatial, nhwc, rtol=1e-4, atol=3e-4)
    assert not torch.allclose(features.spatial, branch[:, :7].reshape(3, -1), atol=1e-2), (
        "NCHW order must be told apart"
    )
    torch.testing.assert_close(features.pool, pool, rtol=1e-4, atol=3e-4)
    torch.testing.assert_close(features.logits, logits, rtol=1e-3, atol=1e-3)


def test_pool_and_logits(features, inception_file):
    state = torch.load(inception_file, weights_only=True)
    assert features.pool.shape == (3, 2048)
    assert features.logits.shape == (3, 1008)
    assert 0.05 < features.pool.mean() < 5, (
        "the random network must give features of a sensible size"
    )
    assert features.pool.std(0).mean() > 1e-3
    torch.testing.assert_close(
        features.logits, features.pool @ state["fc.weight"].T, rtol=1e-4, atol=1e-4
    )


def test_one_pass_leaves_nothing_behind(inception, batch, features):
    again = inception.features(batch)
    assert torch.equal(again.spatial, features.spatial)
    assert inception._spatial == []


def test_weights_are_recorded_and_foreign_ones_said(inception, inception_file):
    assert inception.sha256 == inception.describe()["sha256"] == sha256(inception_file)
    assert inception.sha256 in inception.warnings[0]
    assert SHA256 in inception.warnings[0]


def test_safetensors_and_no_global_randomness(inception_file, tmp_path, batch, features):
    save_file(torch.load(inception_file, weights_only=True), tmp_path / "weights.safetensors")
    before = torch.get_rng_state()
    extractor = InceptionNetwork(tmp_path / "weights.safetensors", "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(extractor.features(batch).pool, features.pool)


def test_missing_weights_say_what_to_fetch(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"absent.pth does not exist; fetch {URL}"):
        load_network(INCEPTION, tmp_path / "absent.pth", "cpu")

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=f"fetch {URL} elsewhere and put it at {tmp_path}"):
        load_network(INCEPTION, None, "cpu")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a pickle")
    with pytest.raises(UserError, match=r"weights\.pth: not a file of weights"):
        load_network(INCEPTION, path, "cpu")
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match="not the weights of this Inception"):
        load_network(INCEPTION, path, "cpu")


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS.trained,
        OPTIONS.trained.model_copy(
            update={"architecture": "test_vit", "arguments": {"patch_size": 8}}
        ),
    ],
)
def test_trained_network(options, tmp_path):
    weights = write_classifier(tmp_path / "classifier.safetensors", options)
    evaluation = OPTIONS.model_copy(update={"trained": options})
    before = torch.get_rng_state()
    extractor = load_network(evaluation, weights, "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.from_numpy(make_images(5)).permute(0, 3, 1, 2)
    features = extractor.features(images)

    network = load_classifier(options, weights)
    mean, std = (
        torch.tensor(network.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std")
    )
    with torch.no_grad():
        x = (images / 255 - mean) / std
        expected = network(x)
        maps = network.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(
        features.logits + network.get_classifier().bias, expected, rtol=1e-4, atol=1e-5
    )
    middle = maps[len(maps) // 2][:, :7]
    torch.testing.assert_close(features.spatial, middle.permute(0, 2, 3, 1).reshape(5, -1))
    assert features.spatial.shape == (5, 7 * 16)
    assert len(np.unique(features.pool.numpy(), axis=0)) == 5


def test_trained_network_of_another_architecture(tmp_path):
    weights = write_classifier(tmp_path / "classifier.safetensors")
    other = OPTIONS.trained.model_copy(update={"arguments": {"channels": [32, 32, 32, 32]}})
    with pytest.raises(UserError, match="channels"):
        load_network(OPTIONS.model_copy(update={"trained": other}), weights, "cpu")
    with pytest.raises(UserError, match="set it to `trained`"):
        load_network(
            OPTIONS.model_copy(
                update={"trained": OPTIONS.trained.model_copy(update={"weights": "timm"})}
            ),
            weights,
            "cpu",
        )
