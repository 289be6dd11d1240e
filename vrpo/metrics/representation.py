"""Quality of a diffusion transformer's hidden features by block and noise level.

As in REPA, figures 2 and 3: each image's latent is drawn from its posterior and noised to a level.
The network sees it under the null class, because its own class would reveal the answer. The
hidden tokens after a block are averaged. The scores of these features are the accuracy of a
linear probe, and the CKNNA with each encoder's averaged tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrpo import __version__
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.files import sha256, write_text
from vrpo.metrics.cknna import cknna, nearest
from vrpo.metrics.exact import full_precision
from vrpo.metrics.probe import probe_accuracy
from vrpo.models.checkpoints import load_milestone
from vrpo.models.normalisation import check_normalisation, recorded_normalisation
from vrpo.models.online import open_features
from vrpo.processes.process import Process
from vrpo.processes.registry import described_process
from vrpo.sampling.noised import noised_images
from vrpo.seeds import numpy_generator, torch_generator

if TYPE_CHECKING:
    from vrpo.config.scoring import RepresentationOptions
    from vrpo.models.transformer import DiffusionTransformer


def measure_representation(
    options: RepresentationOptions,
    milestone: Path,
    latents: Path,
    features: Mapping[str, Path],
    output: Path,
    device: torch.device | str,
) -> dict[str, Any]:
    """Measure the blocks of `milestone` and write the record to `output`.

    Equal inputs give equal bytes on the CPU.

    Args:
        options: images, noise levels, blocks, neighbours and the probe.
        milestone: averaged weights of a run, ours or imported.
        latents: folder of the latents, or one .h5 file.
        features: file of each encoder's tokens.
        output: .json.
        device: where the network runs.

    Returns:
        `rows`, for each noise level and block `probe_accuracy` and `cknna` {encoder: value};
        `encoders`, the probe of each encoder; `protocol`; `provenance`.

    Raises:
        UserError: files are missing or of different images, the latents do not fit the network, a
            block does not exist, or there are too few images.
    """
    device = torch.device(device)
    network, description = load_milestone(milestone, device)
    process = described_process(description).to(device)
    opened = {name: open_features(path, device) for name, path in features.items()}
    data = TrainingData(latents, opened)
    shape, trained = list(data.latent_shape), list(description["latent_shape"])
    if shape != trained:
        raise UserError(
            f"{latents}: latents of shape {shape}, the milestone was trained on {trained}"
        )
    normalisation = recorded_normalisation(data.latents.attributes)
    if normalisation is not None:
        check_normalisation(description, normalisation, milestone, str(latents))
    encoders_of_run = (description.get("alignment") or {}).get("encoders", [])
    of_token = encoders_of_run[0] if encoders_of_run else ""
    blocks = _blocks(options.blocks, len(network.blocks))
    chosen = _chosen(data.count, options.images)
    test = _test_rows(len(chosen), options.test_fraction)
    labels = torch.from_numpy(data.labels[chosen])
    tokens = _encoder_features(data, chosen, options.batch_size)
    arranged = {encoder: nearest(rows, options.neighbours) for encoder, rows in tokens.items()}

    def probe(rows: Tensor) -> float:
        rows, classes = rows.to(device), labels.to(device)
        fit, held = (rows[~test], classes[~test]), (rows[test], classes[test])
        return probe_accuracy(*fit, *held, options.weight_decay, options.probe_steps)

    def scores(block: int, hidden: Tensor) -> dict[str, Any]:
        if not torch.isfinite(hidden).all():
            raise UserError(
                f"{milestone}: hidden tokens after block {block} are not finite; "
                "the training diverged, lower its learning rate"
            )
        own = nearest(hidden.to(device), options.neighbours)
        alignment = {encoder: cknna(own, other) for encoder, other in arranged.items()}
        return {"block": block, "probe_accuracy": probe(hidden), "cknna": alignment}

    measured = []
    total = len(options.noise_levels) * len(blocks)
    with full_precision(), tqdm(total=total, desc="representation", unit="block") as bar:
        for level in options.noise_levels:
            features_of = _hidden(
                network, process, data, chosen, level, blocks, options.batch_size, of_token
            )
            for block, hidden in features_of.items():
                measured.append({"noise_level": level, **scores(block, hidden)})
                bar.update()
        encoders = {encoder: probe(rows) for encoder, rows in tokens.items()}
    record = {
        **{key: description.get(key) for key in ("run", "seed", "step")},
        "rows": measured,
        "encoders": encoders,
        "protocol": {
            "images": len(chosen),
            "of": data.count,
            "test_images": int(test.sum()),
            "neighbours": options.neighbours,
            "label": "null",
            "pooling": "mean of tokens",
            "probe": {
                "kind": "logistic regression, L-BFGS",
                "weight_decay": options.weight_decay,
                "steps": options.probe_steps,
            },
        },
        "provenance": {
            "milestone_sha256": sha256(milestone),
            "latents": data.latents.attributes,
            "features": {encoder: arrays.attributes for encoder, arrays in data.features.items()},
            "versions": {"vrpo": __version__, "torch": torch.__version__.split("+")[0]},
        },
    }
    write_text(output, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return record


@torch.inference_mode()
def _hidden(
    network: DiffusionTransformer,
    process: Process,
    data: TrainingData,
    chosen: np.ndarray,
    level: float,
    blocks: list[int],
    batch_size: int,
    encoder: str,
) -> dict[int, Tensor]:
    """Features [N, width] on the CPU after each block, of the images `chosen` noised to `level`.

    A network that denoises a class token gets that of `encoder`, noised likewise.
    """
    device, joint = next(network.parameters()).device, getattr(network, "joint", None)
    parts: list[list[Tensor]] = []
    for indices in _batches(chosen, batch_size):
        batch = data.gather(indices)
        t = process.at_level(level, len(indices)).to(device)
        token = data.class_tokens(encoder, indices) if joint is not None else None
        draw = functools.partial(_draws, indices)
        x_t = noised_images(batch, token, process, joint, t, draw)
        null = torch.full((len(indices),), network.null_label, device=device)
        _, hidden = network(x_t.float(), process.network_time(t), null, hidden_after=tuple(blocks))
        patches = [tokens[:, joint is not None :] for tokens in hidden]
        parts.append([tokens.float().mean(1).cpu() for tokens in patches])
    return dict(zip(blocks, map(torch.cat, zip(*parts, strict=True)), strict=True))


def _draws(indices: np.ndarray, shape: tuple[int, ...], *purpose: str) -> Tensor:
    """Draws [B, 2, *shape] of images, the same at all levels and for all networks."""
    generators = [torch_generator("representation", *purpose, int(index)) for index in indices]
    return torch.stack([torch.randn(2, *shape, generator=each) for each in generators])


def _encoder_features(data: TrainingData, chosen: np.ndarray, batch_size: int) -> dict[str, Tensor]:
    """Averaged tokens [N, D] of each encoder."""
    parts = [
        {encoder: tokens.mean(1) for encoder, tokens in data.gather(indices).tokens.items()}
        for indices in _batches(chosen, batch_size)
    ]
    return {encoder: torch.cat([part[encoder] for part in parts]) for encoder in data.features}


def _batches(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _chosen(count: int, wanted: int) -> np.ndarray:
    """Ascending indices of `wanted` of `count` images, always the same ones."""
    return np.sort(numpy_generator("representation-images").permutation(count)[:wanted])


def _test_rows(count: int, fraction: float) -> Tensor:
    """Mask [N] bool of the images that the probe is not fitted on."""
    held = round(count * fraction)
    if not 0 < held < count:
        raise UserError(
            f"representation.test_fraction: {fraction} of {count} images leaves none to fit or to "
            "test the probe; change it or take more images"
        )
    test = torch.zeros(count, dtype=torch.bool)
    test[torch.from_numpy(numpy_generator("representation-test").permutation(count)[:held])] = True
    return test


def _blocks(wanted: list[int] | None, depth: int) -> list[int]:
    blocks = sorted(set(wanted)) if wanted else list(range(1, depth + 1))
    if blocks[0] < 1 or blocks[-1] > depth:
        raise UserError(
            f"representation.blocks: {wanted}, but this network has blocks 1 to {depth}; "
            "leave it out to measure all"
        )
    return blocks
