"""The papers' networks and alignments by name, without any config file: what is measured here is what `config/imagenet256.yaml` trains."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from vrpo.alignment.base import Alignment
from vrpo.alignment.repa import REPA
from vrpo.alignment.vrpo import FORWARD, VRPO
from vrpo.errors import UserError
from vrpo.models.critic import LatentCritic
from vrpo.models.flops import critic_flops, projector_flops, transformer_flops
from vrpo.models.transformer import DiffusionTransformer, build_transformer
from vrpo.processes.process import Process, build_process
from vrpo.seeds import derive_seed
from vrpo.training.objective import Objective

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}  # depth, width, heads (DiT, table 1)
PROCESSES = {
    "SiT": SimpleNamespace(kind="interpolant", path="linear", time="uniform"),
    "DiT": SimpleNamespace(kind="ddpm", betas="linear", steps=1000, loss_weight_limit=1.0),
}
LATENT = (4, 32, 32)
ENCODER, TOKENS = "dinov2-b", (256, 768)
CLASSES = 1000
PROJECTOR_WIDTH = 2048
CONSTANT = SimpleNamespace(kind="constant", start=0, end=None, final=0.0)


def _rewards(**pathwise: float) -> SimpleNamespace:
    """Rewards with the given pathwise weights, none of which scores."""
    taken = {name: SimpleNamespace(score=0.0, pathwise=pathwise.get(name, 0.0), schedule=CONSTANT) for name in FORWARD}
    return SimpleNamespace(**taken, agreement=SimpleNamespace(score=0.0))


COMMON: dict[str, Any] = {"weight": 0.5, "projector_width": PROJECTOR_WIDTH, "weight_schedule": CONSTANT, "measure_agreement": False}
VRPO_ARGUMENTS: dict[str, Any] = COMMON | {
    "rewards": _rewards(fidelity=0.05),
    "eta": 0.0,
    "eta_schedule": CONSTANT,
    "beta": 1.0,
    "kappa": 1.0,
    "old_policy": "none",
    "clip": 0.2,
    "grouping": "noise_level",
    "group_size": 8,
    "max_advantage": 3.0,
    "noise_bins": 20,
    "statistics_decay": 0.99,
    "sigma_floor": 0.0,
    "least_rollouts": 0,
    "spatial": None,
}
ALIGNMENTS = ("none", "repa", "vrpo", "vrpo-perceptual")  # the last has the perceptual reward in place of the fidelity reward, and so the latent critic


@dataclass(frozen=True)
class PaperModel:
    """A network of the papers on latents of images of 256x256."""

    name: str
    process: SimpleNamespace
    options: SimpleNamespace
    critic: tuple[int, int]
    """Width and depth of the latent critic."""

    @property
    def aligned_after(self) -> int:
        """The block that REPA aligns: 8, for S and B 4 (REPA, appendix and its repository's issues 5 and 12)."""
        return 4 if self.options.depth == SIZES["B"][0] else 8

    def build_process(self) -> Process:
        """SiT's or DiT's."""
        return build_process(self.process)

    def build_network(self) -> DiffusionTransformer:
        """With random weights, the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("bench", self.name))
            network = build_transformer(self.options, LATENT, self.build_process().prediction_channels(LATENT[0]))
            with torch.no_grad():  # gates and output begin at zero: an untrained network would be easier arithmetic
                for parameter in network.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.01)
        return network

    def build_objective(self, alignment: str, precision: str, device: torch.device) -> Objective:
        """Network and one of `ALIGNMENTS`.

        Raises:
            UserError: there is no such alignment.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("bench-alignment", self.name))
            return Objective(self.build_network(), self._alignment(alignment, device), self.build_process(), precision)

    def flops(self, alignment: str) -> dict[str, float]:
        """Of one training image, forward and backward: network, projector, and critic (twice forward, once backward to its input)."""
        tokens = (LATENT[1] // self.options.patch_size) ** 2
        size = {"depth": self.options.depth, "width": self.options.width, "patch_size": self.options.patch_size}
        network = transformer_flops(**size, side=LATENT[1], channels=LATENT[0], out_channels=self.build_process().prediction_channels(LATENT[0]))
        counted = {"network": 3 * network, "projector": 0.0, "critic": 0.0}
        if alignment != "none":
            sizes = {"width_in": self.options.width, "width_hidden": PROJECTOR_WIDTH, "width_out": TOKENS[1]}
            counted["projector"] = 3 * projector_flops(tokens=tokens, **sizes)
        if alignment == "vrpo-perceptual":
            counted["critic"] = 3 * critic_flops(latent_shape=LATENT, tokens=TOKENS, width=self.critic[0], depth=self.critic[1])
        return counted

    def _alignment(self, kind: str, device: torch.device) -> Alignment:
        shape = {"width": self.options.width, "token_widths": {ENCODER: TOKENS[1]}, "depth": self.aligned_after}
        if kind == "none":
            return Alignment()
        if kind == "repa":
            return REPA(**COMMON, **shape)
        if kind == "vrpo":
            return VRPO(**VRPO_ARGUMENTS, **shape, critics={})
        if kind == "vrpo-perceptual":
            width, depth = self.critic
            critic = LatentCritic(LATENT, TOKENS, width, depth).to(device).eval().requires_grad_(False)
            return VRPO(**{**VRPO_ARGUMENTS, "rewards": _rewards(perceptual=0.05)}, **shape, critics={ENCODER: critic})
        raise UserError(f"--alignment: `{kind}` is none of {', '.join(ALIGNMENTS)}")


def paper_model(name: str, critic: tuple[int, int] = (128, 4)) -> PaperModel:
    """The model that papers print as e.g. `SiT-XL/2`.

    Raises:
        UserError: there is no such model.
    """
    family, _, size = name.partition("-")
    letters, _, patch = size.partition("/")
    if family not in PROCESSES or letters not in SIZES or not patch.isdigit() or int(patch) < 1 or LATENT[1] % int(patch):
        raise UserError(f"--model: `{name}` is none of SiT or DiT in {', '.join(SIZES)} with patch 1, 2, 4 or 8; write it as SiT-XL/2")
    depth, width, heads = SIZES[letters]
    options = SimpleNamespace(name=name, depth=depth, width=width, heads=heads, patch_size=int(patch), num_classes=CLASSES)
    return PaperModel(name, PROCESSES[family], options, critic)
