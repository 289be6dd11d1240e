"""Scores against torch-fidelity's on the same images, and their arithmetic at the papers' size.

Each measurement runs in a process of its own, so that its peak memory is its own. Images are
random, and so are Inception's weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import write_record
from benchmarks.weights import write_random_inception
from vrpo.config.scoring import EvaluationOptions
from vrpo.metrics.distances.frechet import frechet_distance
from vrpo.metrics.distances.neighbours import precision_recall
from vrpo.metrics.evaluate import evaluate
from vrpo.metrics.statistics import FeatureStatistics, Gaussian
from vrpo.seeds import numpy_generator, torch_generator

ROOT = Path(__file__).parents[1]
SIDE = 64  # pixels; Inception sees 299 whatever it is
BATCH = 50
FEATURES, REFERENCES, DIM = 50_000, 10_000, 2_048


def bench_metrics(
    images: int, threads: int, at_scale: bool, output: Path | None = None
) -> dict[str, Any]:
    """Measure and return {name: {seconds, cpu_seconds, peak_mb, scores}}, and write it to `output`.

    Args:
        images: in each of the two compared sets; some hundred.
        threads: CPU threads of each measurement.
        at_scale: also FID of 50,000 random features, and their precision and recall against
            10,000.
        output: file to write, or None.
    """
    results: dict[str, Any] = {
        "images": images,
        "threads": threads,
        "load_before": list(os.getloadavg()),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, seed in (("samples", 0), ("reference", 1)):
            _write_images(folder / part, images, seed)
        write_random_inception(
            folder / "inception.pth",
            numpy_generator("bench", 2).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8),
        )
        contenders = ["vrpo", "torch-fidelity", *(["fid", "precision-recall"] if at_scale else [])]
        for contender in contenders:
            run = subprocess.run(
                [sys.executable, "-m", "benchmarks.metrics", contender, str(folder), str(threads)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            results[contender] = json.loads(run.stdout.splitlines()[-1])
    write_record(output, results)
    return results


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    images, load = results["images"], results["load_before"][0]
    head = f"{images} + {images} images, {results['threads']} threads, load before {load:.1f}"
    rows = [f"{'':18}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}"]
    for name, row in results.items():
        if isinstance(row, dict):
            rows.append(
                f"{name:18}{row['seconds']:10.1f}{row['cpu_seconds']:10.1f}{row['peak_mb']:10.0f}"
            )
    return "\n".join([head, *rows])


def _ours(folder: Path) -> dict[str, float]:
    options = EvaluationOptions(network="inception", batch_size=BATCH)
    return evaluate(
        options,
        folder / "samples",
        folder / "reference",
        folder / "inception.pth",
        None,
        "cpu",
        force_sfid=True,
    )["scores"]


def _torch_fidelity(folder: Path) -> dict[str, float]:
    from torch_fidelity import calculate_metrics

    return calculate_metrics(
        input1=str(folder / "samples"),
        input2=str(folder / "reference"),
        cuda=False,
        batch_size=BATCH,
        isc=True,
        fid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_layer_prc="2048",
        feature_extractor_weights_path=str(folder / "inception.pth"),
        cache=False,
        verbose=False,
    )


def _fid(folder: Path) -> dict[str, float]:
    reference = _gaussian(_features(REFERENCES, 0))  # of few, it is not what is measured
    samples = _features(FEATURES, 1)
    start, cpu_start = time.perf_counter(), time.process_time()
    distance = frechet_distance(_gaussian(samples), reference)
    return {
        "fid": distance,
        "samples_seconds": time.perf_counter() - start,
        "samples_cpu_seconds": time.process_time() - cpu_start,
    }


def _gaussian(features: torch.Tensor) -> Gaussian:
    statistics = FeatureStatistics(DIM)
    for rows in features.split(BATCH):
        statistics.update(rows)
    return statistics.gaussian()


def _precision_recall(folder: Path) -> dict[str, float]:
    found = precision_recall(_features(REFERENCES, 0), _features(FEATURES, 1))
    return {"precision": found.precision, "recall": found.recall}


CONTENDERS: dict[str, Callable[[Path], dict[str, float]]] = {
    "vrpo": _ours,
    "torch-fidelity": _torch_fidelity,
    "fid": _fid,
    "precision-recall": _precision_recall,
}


def _features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch_generator("bench-features", seed)).relu_()


def _write_images(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    rng = numpy_generator("bench", seed)
    for number in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
            folder / f"{number:05d}.png"
        )


def main() -> None:
    """One measurement, in this process: its JSON is the last line of the output."""
    contender, folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    start, cpu_start = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        scores = CONTENDERS[contender](Path(folder))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak, "scores": scores}))


if __name__ == "__main__":
    main()
