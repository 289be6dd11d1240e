"""Further feature spaces (`evaluation.extra_networks`): the class token of a pretrained vision transformer, or a network fitted on the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrpo.errors import UserError
from vrpo.metrics.inputs import Images
from vrpo.metrics.statistics import FeatureStatistics
from vrpo.metrics.tokens import ClassTokenExtractor
from vrpo.metrics.trained import TrainedExtractor

if TYPE_CHECKING:
    from vrpo.config.options import NetworkOptions
    from vrpo.config.scoring import EvaluationOptions


class FeatureSpace(Protocol):
    """One vector of features an image."""

    sha256: str

    def features(self, images: Tensor) -> Tensor:
        """Features [B, D] float32 on the CPU of uint8 `images` [B, 3, H, W]."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the network is."""
        ...


class PooledFeatures:
    """What enters the last layer of a classifier that was fitted on the images."""

    def __init__(self, classifier: TrainedExtractor) -> None:
        self._classifier, self.sha256 = classifier, classifier.sha256

    def features(self, images: Tensor) -> Tensor:
        """See `FeatureSpace`."""
        return self._classifier.features(images).pool

    def describe(self) -> dict[str, Any]:
        """See `FeatureSpace`."""
        return self._classifier.describe()


def feature_spaces(options: EvaluationOptions, weights: Mapping[str, Path], device: torch.device | str) -> Iterator[tuple[str, FeatureSpace]]:
    """The networks of `options.extra_networks`, by name, each loaded when its turn comes.

    Args:
        options: the evaluation's.
        weights: file of each network with `weights: trained`.
        device: where they run.

    Raises:
        UserError: weights are missing, unfit, or of a network that there is not.
    """
    if stray := sorted({*weights} - {*options.extra_networks}):
        raise UserError(f"--extra-weights {stray[0]}: there is none in evaluation.extra_networks; known: {', '.join(options.extra_networks) or 'none'}")
    for name, network in options.extra_networks.items():
        yield name, _feature_space(name, network, weights.get(name), device)


def space_statistics(space: FeatureSpace, images: Images, batch_size: int, title: str) -> FeatureStatistics:
    """Statistics of the features of `images`, in one pass.

    Raises:
        UserError: NaN or infinite features.
    """
    statistics = None
    with tqdm(total=images.count, desc=title, unit="image") as bar:
        for batch in images.batches(batch_size):
            rows = space.features(torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))))
            statistics = statistics or FeatureStatistics(rows.shape[1])
            statistics.update(rows)
            bar.update(len(batch))
    return statistics


def _feature_space(name: str, options: NetworkOptions, weights: Path | None, device: torch.device | str) -> FeatureSpace:
    where = f"evaluation.extra_networks.{name}"
    if options.weights != "trained":
        return ClassTokenExtractor(name, options, device)
    if weights is None:
        raise UserError(
            f"{where}: `weights: trained`, and no file of them; fit it (`fit-classifier --section extra_networks.{name}`) and give --extra-weights {name}=FILE"
        )
    return PooledFeatures(TrainedExtractor(options, weights, device, where))
