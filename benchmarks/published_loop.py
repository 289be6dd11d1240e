"""A step of REPA's published trainer, rewritten, to be timed beside ours on the same network.

After train.py, loss.py and dataset.py of github.com/sihyun-yu/REPA: single files for each sample,
a loop over samples in the projection loss, eager modules, AdamW not fused, averaging tensor by
tensor, three values read from the device each step. Three things are lighter than there: the
encoder does not run in the loop (its tokens are in files), the transformer is ours (the same
arithmetic in fewer operations), and nothing is drawn or uploaded.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.experiment import latent_shape, token_shape
from vrpo.config.experiment import ExperimentConfig
from vrpo.seeds import numpy_generator
from vrpo.training.objective import Objective

# The published trainer's values, whatever the config says.
SCALE = 0.18215
DECAY = 0.9999
DROPPED = 0.1
WEIGHT = 0.5


def write_single_files(config: ExperimentConfig, encoder: str, folder: Path, count: int) -> None:
    """Write a PNG, the latent's moments and the encoder's tokens of each sample, and the labels.

    Images are as smooth as photographs, so that they compress alike.
    """
    generator = numpy_generator("bench-files")
    side, (channels, *grid) = config.data.resolution, latent_shape(config)
    tokens = token_shape(config, encoder)
    for name in ("images", "latents", "features"):
        (folder / name).mkdir()
    labels = {}
    for number in range(count):
        name = f"{number:06d}"
        coarse = generator.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        resized = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        smooth = np.asarray(resized, dtype=np.int16)
        image = (smooth + generator.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        moments = generator.standard_normal((1, 2 * channels, *grid), dtype=np.float32)
        np.save(folder / "latents" / f"{name}.npy", moments)
        features = generator.standard_normal(tokens, dtype=np.float32)
        np.save(folder / "features" / f"{name}.npy", features)
        labels[f"{name}.npy"] = int(generator.integers(0, config.data.num_classes))
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")


class SingleFiles(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Image, moments, tokens and label of a sample, each opened when it is its turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        self.names = sorted(self.labels)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        name = self.names[index]
        with Image.open((self.folder / "images" / name).with_suffix(".png")) as file:
            image = np.array(file).transpose(2, 0, 1)
        moments = np.load(self.folder / "latents" / name)
        tokens = np.load(self.folder / "features" / name)
        return (
            torch.from_numpy(image),
            torch.from_numpy(moments),
            torch.from_numpy(tokens),
            torch.tensor(self.labels[name]),
        )


class PublishedLoop:
    """REPA on the linear path, trained as published; `step` is one step."""

    def __init__(
        self,
        objective: Objective,
        folder: Path,
        *,
        batch_size: int,
        precision: str,
        workers: int,
        device: torch.device,
    ) -> None:
        """Prepare a training.

        Args:
            objective: a network and REPA, to be trained by this loop alone.
            folder: of `write_single_files`.
            batch_size: samples in a step.
            precision: `fp32` or `bf16` (there: `--mixed-precision no` or `bf16`).
            workers: processes that read.
            device: where.
        """
        objective = objective.to(device)
        self.device, self.precision = device, precision
        self.depth = objective.alignment.options.depth
        self.network = objective.network.train()
        self.projector = objective.alignment.projectors[0]
        self.model = nn.ModuleDict({"network": self.network, "projector": self.projector})
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, eps=1e-8
        )
        self.loader = DataLoader(
            SingleFiles(folder),
            batch_size=batch_size,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            drop_last=True,
        )
        self.batches = self._endless()
        self.logged: dict[str, float] = {}

    def step(self) -> None:
        """Read, forward, backward, update, average, report."""
        image, moments, tokens, labels = (tensor.to(self.device) for tensor in next(self.batches))
        image.float()  # the encoder would see it
        with torch.no_grad():
            mean, std = moments.squeeze(1).chunk(2, dim=1)
            x = (mean + std * torch.randn_like(mean)) * SCALE
        dropped = torch.rand(len(labels), device=self.device) < DROPPED
        labels = torch.where(dropped, self.network.null_label, labels)
        denoising, projection = self._losses(x, labels, [tokens])
        denoising = denoising.mean()
        (denoising + WEIGHT * projection).backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        self.logged = {
            "loss": denoising.detach().item(),
            "projection": projection.detach().item(),
            "grad_norm": grad_norm.detach().item(),
        }

    def _losses(self, x: Tensor, labels: Tensor, encoded: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Denoising loss [B] and projection loss, the latter sample by sample."""
        t = torch.rand(len(x), 1, 1, 1).to(x.device)
        noise = torch.randn_like(x)
        noised, target = (1 - t) * x + t * noise, noise - x
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output, hidden = self.network(noised, t.flatten(), labels, hidden_after=(self.depth,))
            projected = [self.projector(hidden[0])]
        output, projected = output.float(), [tokens.float() for tokens in projected]
        denoising = ((output - target) ** 2).mean(dim=(1, 2, 3))
        projection = torch.zeros((), device=x.device)
        for of_encoder, of_network in zip(encoded, projected, strict=True):
            for wanted, given in zip(of_encoder, of_network, strict=True):
                given = F.normalize(given, dim=-1)
                wanted = F.normalize(wanted, dim=-1)
                projection = projection + (-(wanted * given).sum(dim=-1)).mean()
        return denoising, projection / (len(encoded) * len(x))

    @torch.no_grad()
    def _average(self) -> None:
        averages = dict(self.ema.named_parameters())
        for name, parameter in self.model.named_parameters():
            averages[name].mul_(DECAY).add_(parameter.data, alpha=1 - DECAY)

    def _endless(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        while True:
            yield from self.loader
