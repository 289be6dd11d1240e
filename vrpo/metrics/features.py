"""One pass of images through a feature network: everything that all scores need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrpo.metrics.inputs import Images
from vrpo.metrics.statistics import FeatureStatistics


class Features(NamedTuple):
    """Features of one batch, float32 on the CPU."""

    pool: Tensor  # [B, D], what classifies
    logits: Tensor  # [B, K], without bias
    spatial: Tensor | None  # [B, S], seven channels of a middle layer, in NHWC order


class Extractor(Protocol):
    """A frozen network that gives `Features`."""

    sha256: str
    warnings: list[str]

    def features(self, images: Tensor) -> Features:
        """Features of uint8 `images` [B, 3, H, W]."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the network is, JSON-able; two extractors with equal descriptions give equal features."""
        ...


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of images, float32 on the CPU, and the statistics of all of them."""

    pool: Tensor  # [n, D], of the kept images
    logits: Tensor  # [n, K]
    pool_statistics: FeatureStatistics
    spatial_statistics: FeatureStatistics | None


def extract(extractor: Extractor, images: Images, batch_size: int, keep: np.ndarray | None = None, title: str = "features") -> FeatureSet:
    """Features of `images`, in one pass.

    Args:
        extractor: the network.
        images: N images.
        batch_size: images at once.
        keep: ascending indices of the images whose features are kept (statistics are of all); None keeps all.
        title: of the progress bar.

    Raises:
        UserError: NaN or infinite features.
    """
    kept = np.arange(images.count) if keep is None else np.asarray(keep)
    row = 0
    pool = logits = pool_statistics = spatial_statistics = None
    with tqdm(total=images.count, desc=title, unit="image") as bar:
        start = 0
        for batch in images.batches(batch_size):
            features = extractor.features(torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))))
            if pool is None:
                pool = torch.empty(len(kept), features.pool.shape[1])
                logits = torch.empty(len(kept), features.logits.shape[1])
                pool_statistics = FeatureStatistics(features.pool.shape[1])
                spatial_statistics = None if features.spatial is None else FeatureStatistics(features.spatial.shape[1])
            pool_statistics.update(features.pool)
            if spatial_statistics is not None:
                spatial_statistics.update(features.spatial)
            here = kept[(kept >= start) & (kept < start + len(batch))] - start
            pool[row : row + len(here)] = features.pool[here]
            logits[row : row + len(here)] = features.logits[here]
            row += len(here)
            start += len(batch)
            bar.update(len(batch))
    return FeatureSet(pool, logits, pool_statistics, spatial_statistics)
