"""Fitting the miniature's visual encoder and evaluation network: timm classifiers of the images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrpo.data.batches import sample_indices
from vrpo.data.kinds import IMAGES
from vrpo.data.shards import StoredArrays, open_arrays
from vrpo.models.checkpoints import save_network
from vrpo.models.timm_networks import NetworkInput, create_network, normalisation
from vrpo.prepare.fitting import fit, initial_weights
from vrpo.prepare.pixels import augment, image_batch
from vrpo.seeds import torch_generator

if TYPE_CHECKING:
    from vrpo.config.networks import NetworkOptions

log = logging.getLogger(__name__)
HELD_OUT_EVERY = 10  # every tenth image is left out of the training and measures the accuracy


def fit_classifier(
    options: NetworkOptions, images: Path | str, output: Path | str, device: torch.device | str
) -> None:
    """Train `options.architecture` from scratch on the images' classes; write its weights.

    Their description holds `architecture`, `arguments`, `image_size`, `num_classes`, `mean`, `std`
    and the held-out `accuracy`.

    Raises:
        UserError: the images are missing, or timm cannot build the network.
    """
    data = open_arrays(images, IMAGES)
    count, num_classes = data.shape("images")[0], int(data.attributes["classes"])
    seed, batch_size = options.training.seed, options.training.batch_size
    with initial_weights("classifier-weights", options.architecture, seed):
        network = create_network(options, num_classes).to(device)
    prepare = NetworkInput(options.image_size, *normalisation(network))
    kept = np.flatnonzero(np.arange(count) % HELD_OUT_EVERY)
    labels = torch.from_numpy(data.rows("labels", slice(None))).to(device)

    def loss_of_step(step: int) -> Tensor:
        indices = kept[sample_indices(len(kept), batch_size, seed, step)]
        pixels = image_batch(data, indices, device)
        batch = augment(pixels, torch_generator("augmentation", seed, step))
        wanted = labels[torch.from_numpy(indices).to(device)]
        return F.cross_entropy(network(prepare(batch)), wanted)

    fit(network, options.training, loss_of_step, options.architecture)
    accuracy = _held_out_accuracy(network, prepare, data, labels, batch_size, device)
    log.info(
        "%s: held-out accuracy %.2f%% (every %dth image, not trained on)",
        options.architecture,
        100 * accuracy,
        HELD_OUT_EVERY,
    )
    description = {
        "kind": "classifier",
        "architecture": options.architecture,
        "arguments": options.arguments,
        "image_size": options.image_size,
        "num_classes": num_classes,
        "mean": prepare.mean,
        "std": prepare.std,
        "accuracy": round(accuracy, 6),
        "images": data.attributes["fingerprint"],
        "training": options.training.model_dump(mode="json"),
    }
    save_network(output, network.state_dict(), description)


@torch.inference_mode()
def _held_out_accuracy(
    network: nn.Module,
    prepare: NetworkInput,
    data: StoredArrays,
    labels: Tensor,
    batch_size: int,
    device: torch.device | str,
) -> float:
    held_out = np.arange(0, len(labels), HELD_OUT_EVERY)
    right = 0
    for start in range(0, len(held_out), batch_size):
        indices = held_out[start : start + batch_size]
        predicted = network(prepare(image_batch(data, indices, device))).argmax(dim=1)
        right += int((predicted == labels[torch.from_numpy(indices).to(device)]).sum())
    return right / len(held_out)
