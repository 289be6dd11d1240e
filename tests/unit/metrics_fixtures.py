"""Small stand-ins that the tests of scores share: images, a randomly drawn classifier, an Inception with random weights that has sensible features."""

import numpy as np
import torch
from torch import nn

from benchmarks.weights import write_random_inception
from vrpo.config.scoring import EvaluationOptions
from vrpo.data.arrays import ArrayWriter
from vrpo.models.checkpoints import save_network
from vrpo.models.encoder import create_network

OPTIONS = EvaluationOptions.model_validate(
    {
        "network": "trained",
        "trained": {
            "architecture": "test_resnet",
            "weights": "trained",
            "arguments": {"channels": [16, 16, 16, 16]},
            "image_size": 32,
        },
        "reference_images": 150,
        "split_size": 100,
        "batch_size": 32,
    }
)
ATTRIBUTES = {
    "run": "sit-repa",
    "seed": 0,
    "step": 500,
    "milestone_sha256": "ab" * 32,
    "sampler": {
        "kind": "sde",
        "steps": 250,
        "guidance": {"scale": 1.8, "interval": [0.0, 0.7], "channels": None},
        "labels": "random",
        "rounding": "truncate",
        "seed": 0,
    },
    "tokenizer": {"weights": "stabilityai/sd-vae-ft-ema", "sha256": "cd" * 32},
    "versions": {"torch": "2.11"},
}


def make_images(count, side=32, seed=0):
    """Smooth random colour fields, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 4, 4))).float()
    fields = nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return fields.permute(0, 2, 3, 1).round().clamp(0, 255).byte().numpy()


def write_h5(path, images, attributes):
    with ArrayWriter(path, {"images": (images.shape, images.dtype)}, attributes) as writer:
        writer.write(0, {"images": images})
        writer.finish()
    return path


def write_classifier(path, options=OPTIONS.trained, seed=0):
    """A classifier file as `fit_classifier` writes it, with drawn weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_network(options, 10)
    description = {
        "kind": "classifier",
        "architecture": options.architecture,
        "arguments": options.arguments,
        "num_classes": 10,
        "image_size": options.image_size,
    }
    save_network(path, network.state_dict(), description)
    return path


def write_inception(path, seed=0):
    """Random Inception weights, calibrated on the fixture's images."""
    return write_random_inception(path, make_images(6, 64, 9), seed)
