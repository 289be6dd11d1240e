"""One pass of images through a feature network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrpo.metrics.inputs import Images
from vrpo.metrics.networks.protocol import FeatureNetwork
from vrpo.metrics.statistics import FeatureStatistics


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of images, float32 on the CPU, and the statistics of all of them."""

    pool: Tensor  # [n, D], of the kept images
    logits: Tensor | None  # [n, K]; None: the network does not classify
    pool_statistics: FeatureStatistics
    spatial_statistics: FeatureStatistics | None


def extract(
    network: FeatureNetwork,
    images: Images,
    batch_size: int,
    keep: np.ndarray | None = None,
    title: str = "features",
) -> FeatureSet:
    """Features of `images`, in one pass.

    Args:
        network: the feature network.
        images: N images.
        batch_size: images at once.
        keep: ascending indices of images whose features are kept, None: all. Statistics are of all.
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
            pixels = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
            features = network.features(torch.from_numpy(pixels))
            if pool is None:
                pool = torch.empty(len(kept), features.pool.shape[1])
                pool_statistics = FeatureStatistics(features.pool.shape[1])
                if features.logits is not None:
                    logits = torch.empty(len(kept), features.logits.shape[1])
                if features.spatial is not None:
                    spatial_statistics = FeatureStatistics(features.spatial.shape[1])
            pool_statistics.update(features.pool)
            if spatial_statistics is not None:
                spatial_statistics.update(features.spatial)
            here = kept[(kept >= start) & (kept < start + len(batch))] - start
            pool[row : row + len(here)] = features.pool[here]
            if logits is not None:
                logits[row : row + len(here)] = features.logits[here]
            row += len(here)
            start += len(batch)
            bar.update(len(batch))
    return FeatureSet(pool, logits, pool_statistics, spatial_statistics)
