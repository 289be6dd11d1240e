"""Latents and features of no image, as large as those of ImageNet at 256x256: the arithmetic does not know the difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vrpo.bench.paper import CLASSES, ENCODER, LATENT, TOKENS
from vrpo.data.arrays import ArrayWriter
from vrpo.data.batches import TrainingData
from vrpo.seeds import numpy_generator

ROWS = 256


def write_training_data(folder: Path, count: int) -> TrainingData:
    """Write moments (float16) and tokens (int8 with a scale each) of `count` samples, and open them."""
    generator = numpy_generator("bench-data")
    latents = {
        "mean": ((count, *LATENT), "float16"),
        "std": ((count, *LATENT), "float16"),
        "labels": ((count,), "int64"),
    }
    features = {"tokens": ((count, *TOKENS), "int8"), "scale": ((count, TOKENS[0]), "float16")}
    images = {"images": "synthetic"}
    with (
        ArrayWriter(folder / "latents.h5", latents, images) as first,
        ArrayWriter(folder / "features.h5", features, {**images, "storage": "int8"}) as second,
    ):
        for rows in first.batches(ROWS):
            size = rows.stop - rows.start
            mean = generator.standard_normal((size, *LATENT), dtype=np.float32).astype(np.float16)
            first.write(
                rows.start,
                {
                    "mean": mean,
                    "std": np.full_like(mean, 0.1),
                    "labels": generator.integers(0, CLASSES, size),
                },
            )
            tokens = generator.integers(-127, 128, (size, *TOKENS), dtype=np.int8)
            second.write(
                rows.start,
                {"tokens": tokens, "scale": np.full((size, TOKENS[0]), 0.02, dtype=np.float16)},
            )
        first.finish()
        second.finish()
    return TrainingData(folder / "latents.h5", {ENCODER: folder / "features.h5"})
