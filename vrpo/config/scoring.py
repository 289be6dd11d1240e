"""Options of sampling, scores and representation quality."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from vrpo.config.base import Distinct, Names, Options, Place, Rows, option
from vrpo.config.guidance import AnyGuidance, GuidanceOptions, with_preset
from vrpo.config.networks import NetworkOptions, SpaceOptions
from vrpo.errors import UserError

SAMPLER_PROCESS = {
    "ode-euler": "interpolant",
    "ode-heun": "interpolant",
    "ode-dopri5": "interpolant",
    "sde": "interpolant",
    "ddpm": "ddpm",
    "ddim": "ddpm",
}
PAPERS: dict[str, Any] = {
    "steps": 250,
    "images": 50_000,
    "labels": "random",
    "decoder": "stabilityai/sd-vae-ft-ema",
    "precision": "tf32",
}
# sihyun-yu/REPA: generate.py with the flags of its README; willisma/SiT and facebookresearch/DiT:
# sample_ddp.py and `forward_with_cfg`
PRESETS: dict[str, dict[str, Any]] = {
    "repa": {**PAPERS, "kind": "sde", "rounding": "truncate", "guidance": {"channels": None}},
    "sit": {**PAPERS, "kind": "sde", "rounding": "round", "guidance": {"channels": 3}},
    "dit": {**PAPERS, "kind": "ddpm", "rounding": "round", "guidance": {"channels": 3}},
}
PRESETS["balanced"] = {**PRESETS["repa"], "labels": "balanced"}


class SamplerOptions(Options):
    """How images are sampled from a milestone, and how many; options override their `preset`."""

    preset: Literal["repa", "sit", "dit", "balanced"] | None = option(
        None,
        "a paper's protocol (docs/evaluation.md), without guidance until `guidance.scale` is "
        "given; `balanced`: `repa` with balanced labels; null: none",
    )
    kind: Literal["ode-euler", "ode-heun", "ode-dopri5", "sde", "ddpm", "ddim"] = option(
        ...,
        "interpolants: `ode-*`, `sde` (Euler-Maruyama, REPA's schedule); "
        "DDPM: `ddpm`, `ddim` (respaced)",
    )
    steps: int = option(250, "sampling steps; `ode-dopri5` chooses its own", "steps", ge=1)
    rtol: float = option(1e-3, "relative tolerance of a step of `ode-dopri5`; SiT: 1e-3", gt=0)
    atol: float = option(1e-6, "absolute tolerance of a step of `ode-dopri5`; SiT: 1e-6", gt=0)
    guidance: AnyGuidance = option(
        GuidanceOptions, "guidance: classifier-free where no `kind` is given"
    )
    images: int = option(50_000, "images to sample", "images", ge=1)
    labels: Literal["random", "balanced"] = option(
        "random",
        "`random`: uniform (DiT, SiT, REPA); `balanced`: equal counts, about 0.1 FID lower",
    )
    rounding: Literal["truncate", "round"] = option(
        "truncate", "to uint8: `truncate` 255x (REPA) or `round` 127.5x + 128 (DiT, SiT)"
    )
    seed: int = option(
        0, "base of the seeds per image; runs with equal seed share noise and labels"
    )
    batch_size: int = option(
        64,
        "images sampled at once on a GPU (64 on a CPU); they do not depend on it",
        "images",
        ge=1,
    )
    precision: Literal["fp32", "tf32", "bf16"] = option(
        "fp32",
        "type of matrix products; `tf32`: on a GPU, decoder too, as DiT, SiT and REPA; "
        "`bf16`: autocast, faster",
    )
    compile: bool = option(False, "`torch.compile` the network; images agree up to rounding")
    decoder: Place | None = option(
        None,
        "VAE that decodes the latents, e.g. `stabilityai/sd-vae-ft-mse` for those of `-ema`; "
        "null: the tokenizer",
    )
    milestones: Literal["all", "last"] = option(
        "all", "sample at every milestone, or only at a run's last"
    )

    def serves(self, process: str, projected: bool) -> bool:
        """Whether it serves runs of a process; guidance by representation needs a projector."""
        return SAMPLER_PROCESS[self.kind] == process and (projected or not self.guidance.rewarded)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        """Fill in what the preset says and `content` does not."""
        name = content.get("preset") if isinstance(content, dict) else None
        if not isinstance(name, str) or name not in PRESETS:
            return content
        preset, guidance = PRESETS[name], content.get("guidance") or {}
        if isinstance(guidance, dict):
            guidance = with_preset(preset["guidance"], guidance)
        return {**preset, **content, "guidance": guidance}


class EvaluationOptions(Options):
    """Scores, their network and their reference."""

    network: Literal["inception", "trained"] = option(
        "trained",
        "`inception`: torch-fidelity's port, as in the papers; `trained`: fitted on the images",
    )
    inception_weights: Place | None = option(
        None, "local pt_inception-2015-12-05-6726825d.pth; null: torch-fidelity's download"
    )
    trained: NetworkOptions | None = option(
        None, "architecture and training of the network that is fitted on the images"
    )
    extra_networks: Rows[SpaceOptions] = option(
        dict,
        "further feature spaces by name, for the scores `fd_<name>`, `kd_<name>`, `cmmd_<name>`: "
        "pooled features of a timm network (`dinov2` with ViT-L/14: EDM2's FD-DINOv2), or, with "
        "`weights: trained`, the input of a fitted network's last layer",
    )
    validation_fid: float | None = option(
        None,
        "FID of held-out real images, by which FDr divides; null: FID is no part of FDr",
        gt=0,
    )
    reference: Place | None = option(
        None,
        "reference, as `evaluate` takes it, e.g. ADM's .npz (docs/evaluation.md); "
        "null: the training images",
    )
    reference_images: int = option(
        10_000, "reference images for precision and recall, drawn with seed 0", "images", ge=1
    )
    split_size: int = option(
        5_000, "images in a chunk of the Inception score; ADM: 5,000", "images", ge=1
    )
    neighbours: int = option(3, "k of precision and recall", ge=1)
    distances: Literal["fp32", "adm_fp16"] = option(
        "fp32", "precision of nearest-neighbour distances; `adm_fp16` is what ADM's evaluator does"
    )
    batch_size: int = option(64, "images evaluated at once", "images", ge=1)

    @model_validator(mode="after")
    def _network_described(self) -> EvaluationOptions:
        if self.network == "trained" and self.trained is None:
            raise ValueError(
                "`evaluation.trained` must describe the network "
                "when `evaluation.network` is `trained`; add it"
            )
        if "s" in self.extra_networks:  # `mu_s` of a reference is the mean of sFID's features
            raise ValueError(
                "`extra_networks.s`: references keep sFID's statistics under `s`; "
                "choose another name"
            )
        return self

    def network_of(self, section: str) -> NetworkOptions:
        """The network that is fitted under the name `section`: `trained`, or `extra_networks.NAME`.

        Raises:
            UserError: there is none.
        """
        networks = {"trained": self.trained} if self.trained else {}
        extra = {f"extra_networks.{name}": network for name, network in self.extra_networks.items()}
        fitted = {name: net for name, net in (networks | extra).items() if net.weights == "trained"}
        if section not in fitted:
            raise UserError(
                f"--section {section}: no network of this name is fitted on the images; "
                f"known: {', '.join(['encoder', *fitted])}"
            )
        return fitted[section]


class RepresentationOptions(Options):
    """Linear probe and CKNNA of each run's last milestone, over blocks and noise levels."""

    images: int = option(
        10_000, "images at most, drawn with seed 0; REPA's CKNNA: 10,000", "images", ge=1
    )
    noise_levels: list[float] = option(
        lambda: [0.25, 0.5, 0.75],
        "noise levels (0 is clean, 1 is noise) of the network's input",
        min_length=1,
    )
    blocks: Distinct | None = option(None, "blocks, counted from 1; null: all", min_length=1)
    encoders: Names | None = option(
        None, "encoders (keys of `encoders`) that CKNNA compares with; null: all"
    )
    neighbours: int = option(10, "k of CKNNA; REPA: 10", ge=2)
    test_fraction: float = option(
        0.2, "share of the images that test the probe and do not fit it", gt=0, lt=1
    )
    weight_decay: float = option(1e-4, "L2 penalty of the probe's weights", ge=0)
    probe_steps: int = option(100, "L-BFGS steps of the probe's fit", "steps", ge=1)
    batch_size: int = option(64, "images in the network at once", "images", ge=1)

    @model_validator(mode="after")
    def _levels(self) -> RepresentationOptions:
        levels = self.noise_levels
        if levels != sorted(set(levels)) or not all(0 < level < 1 for level in levels):
            raise ValueError(
                f"`noise_levels` {levels} must be ascending and between 0 and 1; correct them"
            )
        return self


ADM_PROTOCOL = EvaluationOptions(network="inception", distances="adm_fp16")
"""Protocol of published numbers (arXiv:2105.05233)."""
