"""Small HDF5 files of each stage."""

import numpy as np

from vrpo.data.arrays import ArrayWriter

N = 10
RANDOM = np.random.default_rng(0)
PICTURES = {
    "images": RANDOM.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8),
    "labels": np.arange(N) % 2,
}
MOMENTS = {name: RANDOM.normal(size=(N, 4, 2, 2)).astype(np.float32) for name in ("mean", "std")}
TOKENS = {
    "tokens": RANDOM.integers(-127, 128, (N, 4, 6), dtype=np.int8),
    "scale": np.full((N, 4), 0.02, np.float16),
    "error": np.zeros((N, 2), np.float32),
}
CONTENT = {
    "images": (
        PICTURES,
        {"name": "folder x", "count": N, "classes": 2, "fingerprint": "f" * 64, "resolution": 8},
    ),
    "latents": (
        {**MOMENTS, "labels": PICTURES["labels"]},
        {"images": "f" * 64, "scale": 0.5, "batch_size": 4},
    ),
    "features": (
        TOKENS,
        {
            "images": "f" * 64,
            "encoder": "vit",
            "storage": "int8",
            "error": {"mean": 0.1, "worst": 0.2},
        },
    ),
    "samples": (PICTURES, {"sampler": "ode", "steps": 4, "seed": 0}),
}


def write(path, arrays, attributes):
    with ArrayWriter(
        path, {name: (values.shape, values.dtype) for name, values in arrays.items()}, attributes
    ) as writer:
        for rows in writer.batches(4):
            writer.write(rows.start, {name: values[rows] for name, values in arrays.items()})
        writer.finish()
    return path


def write_all(folder):
    """A file of each stage in `folder`."""
    for name, content in CONTENT.items():
        write(folder / f"{name}.h5", *content)
    return folder
