"""Benchmark of the data path: decoding, encoding and random reads, against the rate of training.

Files are generated, so nothing is needed. Page-cached rows are read once before they are measured.
The sparse file has the size of a real one but takes no disk: 2,048 of its rows, spread over all of
it, are read from the page cache, and then random rows of which the kernel makes each when it is
first read.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import cpu_seconds, write_record
from benchmarks.sparse import write_sparse
from vrpo.config.data import DataOptions
from vrpo.config.networks import EncoderOptions, TokenizerOptions
from vrpo.data.arrays import ArrayWriter
from vrpo.data.quantisation import STORED_TYPES
from vrpo.data.shards import StoredArrays, open_arrays
from vrpo.models.checkpoints import save_network
from vrpo.models.timm_networks import create_network
from vrpo.models.tokenizer import build_vae, vae_arguments
from vrpo.prepare.features import encode_features
from vrpo.prepare.images import write_images
from vrpo.prepare.latents import encode_latents
from vrpo.seeds import numpy_generator

NEEDED = {"SiT-XL/2": 700, "SiT-B/2": 2600}  # images/s of one GPU
BATCH = 256
SIDE, LATENT, TOKENS = 256, (4, 32, 32), (256, 768)
CACHED_ROWS = 2048  # 0.4 GB of int8 tokens
SECONDS = 4.0  # of each measurement of reads
TOKENIZER = TokenizerOptions(block_channels=[16, 32, 32, 32], batch_size=8, storage="float16")
ENCODER = EncoderOptions(
    architecture="test_vit",
    weights="trained",
    arguments={"patch_size": 16, "embed_dim": 192, "depth": 6, "num_heads": 3},
    image_size=SIDE,
    batch_size=16,
)

Row = dict[str, Any]


def bench_data(
    images: int,
    gigabytes: float,
    device: torch.device,
    folder: Path | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure and return `rows`, what training needs, and the machine.

    A row is {what, images_per_second, cpu_ms_per_image, bytes_per_image}.

    Args:
        images: decoded and encoded; some hundred.
        gigabytes: size of the sparse file.
        device: where networks run.
        folder: where files are generated (on the disk that is to be measured); None: the system's
            temporary one.
        output: file (.json) that gets the same, or None.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        rows += _stages(place, images, device)
        cached = _cached_moments(place / "moments.h5")
        rows.append(_reads("read float16 moments, page-cached", cached))
        for storage in reversed(STORED_TYPES):
            cached = _cached(place / f"{storage}.h5", storage)
            rows.append(_reads(f"read {storage} tokens, page-cached", cached))
            (place / f"{storage}.h5").unlink()
        sparse = _sparse(place / "sparse.h5", gigabytes)
        order = numpy_generator("bench-spread").permutation(sparse.shape("tokens")[0])
        spread = order[:CACHED_ROWS]
        _touch(sparse, spread)
        rows.append(_reads(f"the same, of a file of {gigabytes:g} GB", sparse, spread))
        rows.append(_reads("the same, each row read for the first time", sparse))
    results = {
        "rows": rows,
        "needed": NEEDED,
        "batch": BATCH,
        "images": images,
        "device": str(device),
    }
    results |= {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
    }
    write_record(output, results)
    return results


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    needed = results["needed"]
    columns = "".join(f"{'x ' + name:>12}" for name in needed)
    lines = [f"{'':42}{'images/s':>10}{'CPU ms':>9}{'bytes':>11}{columns}"]
    for row in results["rows"]:
        rate = row["images_per_second"]
        ratios = "".join(f"{rate / least:12.2f}" for least in needed.values())
        lines.append(
            f"{row['what']:42}{rate:10.0f}{row['cpu_ms_per_image']:9.3f}"
            f"{row['bytes_per_image']:11,}{ratios}"
        )
    rates = ", ".join(f"{name} {rate}" for name, rate in needed.items())
    lines.append(
        f"batch {results['batch']}, {results['cpus']} CPUs, {results['device']}; "
        f"one GPU's training needs images/s: {rates}"
    )
    return "\n".join(lines)


def _stages(place: Path, images: int, device: torch.device) -> Iterator[Row]:
    """Decoding, and encoding by a small VAE and a small ViT: whole stages, from file to file."""
    size = _write_jpegs(place / "jpeg", images)
    source = DataOptions(source="folder", root=str(place / "jpeg"), resolution=SIDE, num_classes=1)
    with _clocked(f"decode JPEG of {SIDE + 64} x {SIDE}, one process", images, size) as row:
        write_images(source, place / "images.h5")
    yield row
    arguments = vae_arguments(TOKENIZER, SIDE)
    description = {"kind": "tokenizer", "arguments": arguments, "scale": 1.0}
    save_network(place / "vae.safetensors", build_vae(arguments).state_dict(), description)
    widths, size = "-".join(map(str, TOKENIZER.block_channels)), 2 * 2 * int(np.prod(LATENT)) + 8
    inputs = place / "images.h5", place / "vae.safetensors", place / "latents.h5"
    with _clocked(f"encode latents, VAE {widths}", images, size) as row:
        encode_latents(TOKENIZER, *inputs, device)
    yield row
    _save_encoder(place / "vit.safetensors")
    width = ENCODER.arguments["embed_dim"]
    inputs = place / "images.h5", place / "vit.safetensors", place / "features.h5"
    size = (SIDE // 16) ** 2 * (width + 2)
    with _clocked(f"encode features, ViT of width {width}, int8", images, size) as row:
        encode_features(ENCODER, "vit", *inputs, device)
    yield row


@contextmanager
def _clocked(what: str, images: int, bytes_per_image: int) -> Iterator[Row]:
    row: Row = {"what": what, "bytes_per_image": bytes_per_image}
    start, cpu = time.perf_counter(), cpu_seconds()
    yield row
    row["images_per_second"] = images / (time.perf_counter() - start)
    row["cpu_ms_per_image"] = 1e3 * (cpu_seconds() - cpu) / images


def _reads(what: str, arrays: StoredArrays, among: np.ndarray | None = None) -> Row:
    """Random batches (of the rows `among`), read as in training: into the same memory each time."""
    names = arrays.keys()
    count = arrays.shape(names[0])[0] if among is None else len(among)
    buffers = {
        name: np.empty((BATCH, *arrays.shape(name)[1:]), arrays.dtype(name)) for name in names
    }
    random = numpy_generator("bench-reads")

    def read() -> None:
        indices = random.integers(0, count, BATCH)
        indices = indices if among is None else among[indices]
        for name in names:
            arrays.rows(name, indices, buffers[name])

    read()
    batches, start, cpu = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - start < SECONDS:
        read()
        batches += 1
    rate, spent = batches * BATCH / (time.perf_counter() - start), cpu_seconds() - cpu
    size = sum(buffer.nbytes for buffer in buffers.values()) // BATCH
    return {
        "what": what,
        "images_per_second": rate,
        "cpu_ms_per_image": 1e3 * spent / (batches * BATCH),
        "bytes_per_image": size,
    }


def _shapes(count: int, storage: str) -> dict[str, tuple[tuple[int, ...], str]]:
    scale = {} if storage == "float16" else {"scale": ((count, TOKENS[0]), "float16")}
    return {"tokens": ((count, *TOKENS), STORED_TYPES[storage]), **scale}


def _cached(path: Path, storage: str) -> StoredArrays:
    return _written(path, _shapes(CACHED_ROWS, storage))


def _cached_moments(path: Path) -> StoredArrays:
    return _written(path, dict.fromkeys(("mean", "std"), ((8 * CACHED_ROWS, *LATENT), "float16")))


def _written(path: Path, shapes: dict[str, tuple[tuple[int, ...], str]]) -> StoredArrays:
    random = numpy_generator("bench-rows")
    with ArrayWriter(path, shapes, {}) as writer:
        for rows in writer.batches(128):
            size = rows.stop - rows.start
            content = {
                name: random.bytes(size * int(np.prod(shape[1:])) * np.dtype(kind).itemsize)
                for name, (shape, kind) in shapes.items()
            }
            writer.write(
                rows.start,
                {
                    name: np.frombuffer(content[name], kind).reshape(size, *shape[1:])
                    for name, (shape, kind) in shapes.items()
                },
            )
        writer.finish()
    arrays = open_arrays(path)
    _touch(arrays, np.arange(arrays.shape(arrays.keys()[0])[0]))
    return arrays


def _touch(arrays: StoredArrays, indices: np.ndarray) -> None:
    """Read rows once, so that they are in the page cache."""
    names = arrays.keys()
    for start in range(0, len(indices), BATCH):
        for name in names:
            arrays.rows(name, indices[start : start + BATCH])


def _sparse(path: Path, gigabytes: float) -> StoredArrays:
    row = int(np.prod(TOKENS)) + 2 * TOKENS[0]
    return open_arrays(
        write_sparse(path, _shapes(max(BATCH, int(gigabytes * 1e9 / row)), "int8"), {})
    )


def _write_jpegs(folder: Path, count: int) -> int:
    """Images of photographs' roughness in one class folder; returns their mean size in bytes."""
    (folder / "class").mkdir(parents=True)
    random, total = numpy_generator("bench-jpeg"), 0
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (40, 32, 3), dtype=np.uint8)).resize(
            (SIDE + 64, SIDE), Image.Resampling.BICUBIC
        )
        grain = random.normal(0, 8, (SIDE, SIDE + 64, 1))
        path = folder / "class" / f"{number:06d}.JPEG"
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(
            path, quality=92
        )
        total += path.stat().st_size
    return total // count


def _save_encoder(path: Path) -> None:
    network = create_network(ENCODER, 10)
    description = {
        "kind": "classifier",
        "architecture": ENCODER.architecture,
        "arguments": ENCODER.arguments,
        "image_size": SIDE,
        "num_classes": 10,
    }
    save_network(path, network.state_dict(), description)
