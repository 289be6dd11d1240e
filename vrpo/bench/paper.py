"""The papers' networks and alignments by name, as `config/imagenet256.yaml` trains them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vrpo.alignment.base import AlignmentContext
from vrpo.alignment.registry import build_alignment
from vrpo.config.alignments import AnyAlignment, NoAlignment, REPAOptions, VRPOOptions
from vrpo.config.processes import DDPMOptions, InterpolantOptions, ProcessOptions
from vrpo.config.resolved import PAPER_SIZES, ModelOptions
from vrpo.config.training import TrainingOptions
from vrpo.errors import UserError
from vrpo.models.critic import LatentCritic
from vrpo.models.flops import critic_flops, projector_flops, transformer_flops
from vrpo.models.transformer import DiffusionTransformer, build_transformer
from vrpo.processes.process import Process
from vrpo.processes.registry import build_process
from vrpo.seeds import derive_seed
from vrpo.training.objective import Objective

PROCESSES: dict[str, ProcessOptions] = {
    "SiT": InterpolantOptions(kind="interpolant"),
    "DiT": DDPMOptions(kind="ddpm"),
}
LATENT = (4, 32, 32)
ENCODER, TOKENS = "dinov2-b", (256, 768)
CLASSES = 1000
ALIGNMENTS = ("none", "repa", "vrpo", "vrpo-perceptual")
"""The last has the perceptual reward in place of the fidelity reward, and so the latent critic."""


@dataclass(frozen=True)
class PaperModel:
    """A network of the papers on latents of images of 256x256."""

    name: str
    process: ProcessOptions
    options: ModelOptions
    critic: tuple[int, int]
    """Width and depth of the latent critic."""

    @property
    def aligned_after(self) -> int:
        """The block that REPA aligns: 8, for S and B 4 (REPA's repository, issues 5 and 12)."""
        return 4 if self.options.depth == PAPER_SIZES["B"].depth else 8

    def alignment(self, name: str) -> AnyAlignment:
        """Options of one of `ALIGNMENTS`.

        Raises:
            UserError: there is no such alignment.
        """
        if name == "none":
            return NoAlignment(kind="none")
        shared = {"encoders": [ENCODER], "depth": self.aligned_after}
        if name == "repa":
            return REPAOptions(kind="repa", **shared)
        if name == "vrpo":
            return VRPOOptions(kind="vrpo", **shared)
        if name == "vrpo-perceptual":
            return VRPOOptions(kind="vrpo", **shared, rewards={"perceptual": {"pathwise": 0.05}})
        raise UserError(
            f"--alignment: `{name}` is none of {', '.join(ALIGNMENTS)}; name one or more of them"
        )

    def build_process(self) -> Process:
        """SiT's or DiT's."""
        return build_process(self.process)

    def build_network(self) -> DiffusionTransformer:
        """With random weights, the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("bench", self.name))
            network = build_transformer(
                self.options, LATENT, self.build_process().prediction_channels(LATENT[0])
            )
            with (
                torch.no_grad()
            ):  # gates and output begin at zero: an untrained network would be easier arithmetic
                for parameter in network.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.01)
        return network

    def build_objective(
        self, alignment: str, training: TrainingOptions, device: torch.device
    ) -> Objective:
        """Network and one of `ALIGNMENTS`.

        Raises:
            UserError: there is no such alignment.
        """
        options = self.alignment(alignment)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("bench-alignment", self.name))
            network, critics = self.build_network(), {}
            if options.needs_critic:
                critic = LatentCritic(LATENT, TOKENS, *self.critic).to(device)
                critics = {ENCODER: critic.eval().requires_grad_(False)}
            tokens = dict.fromkeys(options.encoders, TOKENS)
            context = AlignmentContext(LATENT, self.options.width, tokens, critics)
            built = build_alignment(options, context)
        return Objective(network, built, self.build_process(), training)

    def flops(self, alignment: str) -> dict[str, float]:
        """Of one training image, forward and backward: network, projector, and critic.

        The critic runs twice forward and once backward to its input.
        """
        tokens = (LATENT[1] // self.options.patch_size) ** 2
        model, options = self.options, self.alignment(alignment)
        size = {"depth": model.depth, "width": model.width, "patch_size": model.patch_size}
        channels = {
            "channels": LATENT[0],
            "out_channels": self.build_process().prediction_channels(LATENT[0]),
        }
        network = transformer_flops(**size, **channels, side=LATENT[1])
        counted = {"network": 3 * network, "projector": 0.0, "critic": 0.0}
        if options.encoders:
            sizes = {
                "width_in": model.width,
                "width_hidden": options.projector_width,
                "width_out": TOKENS[1],
            }
            counted["projector"] = 3 * projector_flops(tokens=tokens, **sizes)
        if options.needs_critic:
            width, depth = self.critic
            critic = critic_flops(latent_shape=LATENT, tokens=TOKENS, width=width, depth=depth)
            counted["critic"] = 3 * critic
        return counted


def paper_model(name: str, critic: tuple[int, int] = (128, 4)) -> PaperModel:
    """The model that papers print as e.g. `SiT-XL/2`.

    Raises:
        UserError: there is no such model.
    """
    family, _, size = name.partition("-")
    letters, _, patch = size.partition("/")
    if (
        family not in PROCESSES
        or letters not in PAPER_SIZES
        or not patch.isdigit()
        or int(patch) < 1
        or LATENT[1] % int(patch)
    ):
        raise UserError(
            f"--model: `{name}` is none of SiT or DiT in {', '.join(PAPER_SIZES)} with patch 1, 2, 4 or 8; write it as SiT-XL/2"
        )
    size = PAPER_SIZES[letters].model_dump()
    options = ModelOptions(name=name, **size, patch_size=int(patch), num_classes=CLASSES)
    return PaperModel(name, PROCESSES[family], options, critic)
