"""Options of every stage: typed, each with its default, unit and one line of documentation.

The JSON schema and docs/options.md are generated from these classes (`python -m vrpo docs`); nothing here imports torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


def option(default: Any = ..., doc: str = "", unit: str | None = None, **constraints: Any) -> Any:
    """A field with its documentation and unit; `constraints` are pydantic's (`ge`, `gt`, `le`, `min_length`, ...)."""
    extra = {"unit": unit} if unit else None
    if callable(default):
        return Field(default_factory=default, description=doc, json_schema_extra=extra, **constraints)
    return Field(default, description=doc, json_schema_extra=extra, **constraints)


class Options(BaseModel):
    """Base of all options: unknown names are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataOptions(Options):
    """Where images come from."""

    source: Literal["digits", "folder"] = option(
        "digits", "`digits`: scikit-learn's handwritten digits, inside the package; `folder`: one folder per class, sorted by name"
    )
    root: str | None = option(None, "folder of the training images (`source: folder`), e.g. `/data/imagenet/train`")
    resolution: int = option(32, "side of the square training images, after ADM's centre crop", "pixels", ge=8)
    num_classes: int = option(10, "number of classes the source must have", ge=1)
    workers: int = option(0, "worker processes that decode images; 0 decodes in the main process", ge=0)

    @model_validator(mode="after")
    def _root_for_folder(self) -> DataOptions:
        if self.source == "folder" and not self.root:
            raise ValueError("`root` must name the folder of training images when `source` is `folder`")
        return self


class FitOptions(Options):
    """How one of the miniature's own networks is trained (Adam, cosine decay to zero)."""

    steps: int = option(500, "optimiser steps", "steps", ge=1)
    batch_size: int = option(64, "samples in a step", "samples", ge=1)
    learning_rate: float = option(1e-3, "peak learning rate of Adam", gt=0)
    seed: int = option(0, "seed of initial weights and data order")


class TokenizerOptions(Options):
    """The VAE between images and latents (diffusers AutoencoderKL)."""

    weights: str = option("trained", "`trained`: fit a small one on the images; else a hub name such as `stabilityai/sd-vae-ft-ema`, or a local folder")
    scale: float | None = option(
        None,
        "latents are multiplied by this (0.18215 for Stable Diffusion's VAE); null: a pretrained VAE's own factor, or 1 / standard deviation, measured on the training images",
    )
    latent_channels: int = option(4, "channels of the latent", ge=1)
    block_channels: list[int] = option(lambda: [32, 64, 64], "widths of a trained tokenizer's levels; each but the last halves the resolution", min_length=1)
    kl_weight: float = option(1e-4, "weight of the KL term when trained", ge=0)
    batch_size: int = option(64, "images encoded at once", "images", ge=1)
    storage: Literal["float32", "float16"] = option("float32", "type of the stored latent moments")
    training: FitOptions = option(FitOptions, "how a trained tokenizer is fitted")


class NetworkOptions(Options):
    """A timm network, as a visual encoder or as the miniature's evaluation network."""

    architecture: str = option(..., "timm model name, e.g. `vit_base_patch14_dinov2.lvd142m`")
    weights: str = option("timm", "`timm`: the pretrained weights of that name; `trained`: fit on the images; else a local .safetensors file")
    arguments: dict[str, Any] = option(dict, "further keyword arguments of `timm.create_model`")
    image_size: int = option(224, "side of the image fed to the network (REPA feeds DINOv2 224 for 256)", "pixels", ge=8)
    training: FitOptions = option(FitOptions, "how a trained network is fitted, as a classifier")


class EncoderOptions(NetworkOptions):
    """A visual encoder whose patch tokens are the alignment targets."""

    storage: Literal["int8", "float16"] = option("int8", "type of the cached tokens; int8 keeps one float16 scale per token")
    attention: list[int] = option(
        list, "blocks (counted from 1) whose queries and keys are cached too, for HASTE's attention maps; each takes twice the room of the tokens", "blocks"
    )
    batch_size: int = option(64, "images encoded at once", "images", ge=1)


class CriticOptions(Options):
    """The latent perceptual critic: a small convolutional network from latents to encoder tokens, distilled once per encoder."""

    width: int = option(64, "channels of its convolutions", ge=1)
    depth: int = option(2, "residual blocks", ge=0)
    training: FitOptions = option(FitOptions, "how it is distilled from the cached features")


class ModelSize(Options):
    """A transformer's size beside the papers' S, B, L and XL."""

    depth: int = option(..., "transformer blocks", ge=1)
    width: int = option(..., "channels of a token; a multiple of `heads` and of 4", ge=4)
    heads: int = option(..., "attention heads", ge=1)

    @model_validator(mode="after")
    def _divisible(self) -> ModelSize:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"`width` {self.width} must be a multiple of `heads` ({self.heads}) and of 4")
        return self


class CustomSize(ModelSize):
    """A network of one's own in the place of the transformer (docs/extending.md)."""

    backbone: str = option(..., "`module:Class` in a module beside the Snakefile", pattern=r"^[\w.]+:\w+$")
    arguments: dict[str, Any] = option(dict, "further keyword arguments of the class")


AnySize = Annotated[
    Annotated[ModelSize, Tag("transformer")] | Annotated[CustomSize, Tag("custom")],
    Discriminator(lambda size: "custom" if isinstance(size, CustomSize) or (isinstance(size, dict) and "backbone" in size) else "transformer"),
]


class InterpolantOptions(Options):
    """SiT: a stochastic interpolant with velocity prediction (arXiv:2401.08740)."""

    kind: Literal["interpolant"] = option(..., "SiT's process")
    path: Literal["linear", "cosine"] = option("linear", "`linear`: x_t = (1-t) x_0 + t eps; `cosine`: GVP, cos and sin of pi t / 2")
    time: Literal["uniform", "logit-normal", "lognormal"] = option("uniform", "distribution of the training times")


class DDPMOptions(Options):
    """DiT: denoising diffusion with epsilon prediction and learned range variance (arXiv:2212.09748)."""

    kind: Literal["ddpm"] = option(..., "DiT's process")
    betas: Literal["linear", "cosine"] = option("linear", "noise schedule")
    steps: int = option(1000, "discrete noise levels", "levels", ge=2)


ProcessOptions = Annotated[InterpolantOptions | DDPMOptions, Field(discriminator="kind")]


class NoAlignment(Options):
    """Plain SiT or DiT: the denoising loss alone."""

    kind: Literal["none"] = option(..., "no alignment")


class AlignmentOptions(Options):
    """What all alignments share."""

    encoders: list[str] = option(..., "encoders (keys of `encoders`) whose tokens are the targets; several are averaged, as in REPA", min_length=1)
    depth: int = option(8, "hidden tokens are taken after this block; REPA: 8, for B 4 (arXiv:2410.06940, section 4 and appendix)", "blocks", ge=1)
    weight: float = option(0.5, "lambda, the weight of alignment beside the denoising loss; REPA: 0.5", ge=0)


class ProjectedOptions(AlignmentOptions):
    """Alignments whose projector is REPA's MLP."""

    projector_width: int = option(2048, "hidden width of the projector's three-layer MLP; REPA: 2048", ge=1)


class REPAOptions(ProjectedOptions):
    """REPA: the mean negative cosine between projected hidden tokens and encoder tokens (arXiv:2410.06940, eq. 6)."""

    kind: Literal["repa"] = option(..., "static alignment")


class RewardOptions(Options):
    """One reward's part in VRPO."""

    score: float = option(0.0, "weight in the reward whose group-relative advantage weighs the alignment (score estimator)", ge=0)
    pathwise: float = option(0.0, "weight of its standardised value in the loss, with gradient (pathwise estimator); not multiplied by lambda", ge=0)


class RewardsOptions(Options):
    """VRPO's rewards (docs/method.md, table of rewards)."""

    fidelity: RewardOptions = option(RewardOptions, "minus the denoising error of the rollout")
    perceptual: RewardOptions = option(RewardOptions, "cosine between the critic's tokens of the estimated and of the true clean latent")
    semantic: RewardOptions = option(RewardOptions, "cosine between projected hidden tokens and encoder tokens")


class VRPOOptions(ProjectedOptions):
    """VRPO: generative representation policy optimisation (arXiv:2606.00583, abstract; docs/method.md)."""

    kind: Literal["vrpo"] = option(..., "reward-guided alignment")
    rewards: RewardsOptions = option(RewardsOptions, "weights of the rewards")
    eta: float = option(0.1, "weight of the policy term", ge=0)
    beta: float = option(1.0, "weight of the KL anchor to the encoder's representation; eta 0 and beta 1 without pathwise rewards is REPA", ge=0)
    kappa: float = option(1.0, "concentration of the representation policy: log pi(y|s) = kappa * mean_n cos(mu_n, y_n) + const", gt=0)
    old_policy: Literal["none", "ema"] = option(
        "none", "policy that the ratio compares with: `none` is one on-policy step (rho = 1), `ema` the averaged network"
    )
    clip: float = option(0.2, "epsilon of the clipped surrogate", gt=0, lt=1)
    grouping: Literal["noise_level", "image"] = option("noise_level", "groups are `group_size` rollouts of similar noise level, or of the same image")
    group_size: int = option(8, "G, rollouts in a group; divides the batch", "rollouts", ge=2)
    max_advantage: float = option(3.0, "advantages are clipped to plus or minus this", gt=0)
    noise_bins: int = option(20, "bins over the noise level in which rewards are standardised", ge=1)
    statistics_decay: float = option(0.99, "decay per step of the running mean and variance of each reward", ge=0, lt=1)

    @model_validator(mode="after")
    def _something_to_do(self) -> VRPOOptions:
        rewards = [self.rewards.fidelity, self.rewards.perceptual, self.rewards.semantic]
        if self.eta > 0 and not any(reward.score for reward in rewards):
            raise ValueError("all `rewards.*.score` weights are zero while `eta` > 0; give one reward a `score` weight or set `eta: 0`")
        if self.beta == 0 and self.eta == 0 and not any(reward.pathwise for reward in rewards):
            raise ValueError("`beta`, `eta` and all `rewards.*.pathwise` weights are zero, nothing is aligned; use `kind: none` for that")
        return self

    @property
    def needs_critic(self) -> bool:
        """Whether the perceptual reward, and so the latent critic, is used."""
        return self.rewards.perceptual.score > 0 or self.rewards.perceptual.pathwise > 0


class IREPAOptions(AlignmentOptions):
    """iREPA: a convolutional projector and spatially normalised targets (arXiv:2512.10794)."""

    kind: Literal["irepa"] = option(..., "alignment of spatial structure")
    weight: float = option(1.0, "lambda, the weight of alignment beside the denoising loss; iREPA's code: 1", ge=0)
    kernel_size: Literal[1, 3, 5, 7] = option(3, "side of the projector's convolution; the paper: 3, its latent diffusion code: 1")
    gamma: float = option(0.6, "share of the tokens' mean over the image that is taken off the targets; iREPA's latent diffusion code: 0.6", ge=0, le=1)


class HASTEOptions(ProjectedOptions):
    """HASTE: REPA and attention distillation, both stopped at one step (arXiv:2505.16792)."""

    kind: Literal["haste"] = option(..., "alignment of tokens and attention maps, with a stop")
    attention_weight: float = option(0.5, "weight of the cross-entropy between attention maps; HASTE's code: 0.5", ge=0)
    attention_blocks: list[int] = option(
        lambda: [5, 6, 7, 8],
        "blocks whose attention maps are aligned, in ascending order, one for each of `encoders.<e>.attention`; HASTE: 5 to 8 of XL with 9 to 12 of DINOv2-B",
        "blocks",
        min_length=1,
    )
    stop_step: int = option(250_000, "from this step on nothing is aligned; HASTE: 250,000 for XL", "steps", ge=0)

    @model_validator(mode="after")
    def _ascending(self) -> HASTEOptions:
        if list(self.attention_blocks) != sorted(set(self.attention_blocks)) or self.attention_blocks[0] < 1:
            raise ValueError(f"`attention_blocks` {self.attention_blocks} must be positive and ascending")
        return self


class CustomOptions(ProjectedOptions):
    """An alignment loss of one's own, in a module beside the Snakefile (README, "Adding an alignment loss")."""

    kind: Literal["custom"] = option(..., "a loss of one's own")
    loss: str = option(..., "`module:Class`, a subclass of `vrpo.alignment.base.ProjectedAlignment`", pattern=r"^[\w.]+:\w+$")
    arguments: dict[str, Any] = option(dict, "further keyword arguments of the class")


AnyAlignment = Annotated[NoAlignment | REPAOptions | VRPOOptions | IREPAOptions | HASTEOptions | CustomOptions, Field(discriminator="kind")]


class TrainingOptions(Options):
    """The training of a diffusion transformer; equal for every run of an experiment."""

    batch_size: int = option(256, "GLOBAL batch: rollouts in an optimiser step over all GPUs and accumulation steps", "samples", ge=1)
    accumulation: int = option(1, "micro-batches that a step is split into on each GPU; changes memory, not results", ge=1)
    learning_rate: float = option(1e-4, "constant learning rate of AdamW", gt=0)
    adam_betas: tuple[float, float] = option((0.9, 0.999), "AdamW's decay rates")
    weight_decay: float = option(0.0, "AdamW's weight decay", ge=0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this global norm", gt=0)
    ema_decay: float = option(0.9999, "decay per step of the averaged weights, which are what milestones hold", ge=0, lt=1)
    label_dropout: float = option(0.1, "probability of the null class, for classifier-free guidance", ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = option("fp32", "autocast type of the network; losses, cosines and master weights are always fp32")
    compile: bool = option(False, "`torch.compile` the network and loss (needs a C++ compiler on CPU)")


class RunOptions(Options):
    """One row of the comparison."""

    model: str = option(..., "size and patch, e.g. `XL/2`, `B/4`; sizes are S, B, L, XL and those under `sizes`")
    process: str = option(..., "a key of `processes`")
    alignment: str = option(..., "a key of `alignments`")
    seeds: list[int] | None = option(None, "seeds of this run; null: the experiment's")
    milestones: list[int] | None = option(None, "milestones of this run; null: the experiment's", "steps")


CHECKPOINT_PROCESS = {"dit": "ddpm", "sit": "interpolant", "repa": "interpolant"}


class CheckpointOptions(Options):
    """Weights of the official DiT, SiT or REPA code: sampled and scored as a run's, and shown beside the runs."""

    file: str = option(..., "the `.pt` file, e.g. `weights/SiT-XL-2-256.pt`")
    family: Literal["dit", "sit", "repa"] = option(..., "whose code wrote it; DiT's are sampled as `ddpm`, the others as `interpolant`")
    model: str = option(..., "size and patch, e.g. `XL/2`, as in `runs`")
    weights: Literal["ema", "model"] = option("ema", "averaged or plain weights, where the file has both")
    step: int = option(0, "training steps, for tables; 0: unknown", "steps", ge=0)
    seed: int = option(0, "training seed, for tables", ge=0)


class GuidanceOptions(Options):
    """Classifier-free guidance."""

    scale: float = option(1.0, "guidance scale; 1 is none", ge=0)
    interval: tuple[float, float] = option((0.0, 1.0), "noise levels (0 is clean, 1 is noise) on which guidance acts")
    channels: int | None = option(None, "guide only the first so many latent channels (DiT and SiT: 3); null: all (REPA)", ge=1)

    @model_validator(mode="after")
    def _inside(self) -> GuidanceOptions:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance `interval` [{low}, {high}] must lie within [0, 1], low first")
        return self


FT_EMA = "stabilityai/sd-vae-ft-ema"
SAMPLER_PROCESS = {"ode-euler": "interpolant", "ode-heun": "interpolant", "ode-dopri5": "interpolant", "sde": "interpolant", "ddpm": "ddpm", "ddim": "ddpm"}


PRESETS: dict[str, dict[str, Any]] = {
    "repa": {"kind": "sde", "steps": 250, "images": 50_000, "labels": "random", "rounding": "truncate", "guidance": {"channels": None}, "decoder": FT_EMA},
    "sit": {"kind": "sde", "steps": 250, "images": 50_000, "labels": "random", "rounding": "round", "guidance": {"channels": 3}, "decoder": FT_EMA},
    "dit": {"kind": "ddpm", "steps": 250, "images": 50_000, "labels": "random", "rounding": "round", "guidance": {"channels": 3}, "decoder": FT_EMA},
}  # sihyun-yu/REPA, generate.py with the flags of its README; willisma/SiT and facebookresearch/DiT, sample_ddp.py and `forward_with_cfg`
PRESETS["balanced"] = {**PRESETS["repa"], "labels": "balanced"}


class SamplerOptions(Options):
    """How images are sampled from a milestone, and how many. What is given beside `preset` wins over it."""

    preset: Literal["repa", "sit", "dit", "balanced"] | None = option(
        None,
        "a paper's protocol: sets `kind`, `steps`, `images`, `labels`, `rounding`, `guidance.channels` and `decoder` (docs/evaluation.md); no guidance until "
        "`guidance.scale` is given; `balanced` is `repa` with balanced labels; null: none",
    )
    kind: Literal["ode-euler", "ode-heun", "ode-dopri5", "sde", "ddpm", "ddim"] = option(
        ..., "`ode-*` and `sde` (Euler-Maruyama, REPA's schedule) are for interpolants, `ddpm` and `ddim` (respaced) for DDPM"
    )
    steps: int = option(250, "sampling steps; `ode-dopri5` chooses its own", "steps", ge=1)
    rtol: float = option(1e-3, "relative tolerance of a step of `ode-dopri5`; SiT: 1e-3", gt=0)
    atol: float = option(1e-6, "absolute tolerance of a step of `ode-dopri5`; SiT: 1e-6", gt=0)
    guidance: GuidanceOptions = option(GuidanceOptions, "classifier-free guidance")
    images: int = option(50_000, "images to sample", "images", ge=1)
    labels: Literal["random", "balanced"] = option("random", "`random`: uniform per image (DiT, SiT, REPA); `balanced`: equal counts, about 0.1 FID lower")
    rounding: Literal["truncate", "round"] = option("truncate", "to uint8: `truncate` 255x (REPA) or `round` 127.5x + 128 (DiT, SiT)")
    seed: int = option(0, "base of the seeds per image; runs with equal seed share noise and labels")
    batch_size: int = option(
        64,
        "images sampled at once on a GPU; the CPU always takes 64, as its kernels round differently for other shapes. The images do not depend on it",
        "images",
        ge=1,
    )
    decoder: str | None = option(
        None, "VAE whose decoder makes the images, e.g. `stabilityai/sd-vae-ft-mse`, whose latents are those of `-ema`; null: the tokenizer's own"
    )
    milestones: Literal["all", "last"] = option("all", "sample at every milestone, or only at a run's last")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        """Fill in what the preset says and `content` does not."""
        preset = PRESETS.get(content.get("preset") or "") if isinstance(content, dict) else None
        if preset is None:
            return content
        given = content.get("guidance") or {}
        return {**preset, **content, "guidance": {**preset["guidance"], **given} if isinstance(given, dict) else given}


class EvaluationOptions(Options):
    """What is measured, with which network, against which reference."""

    network: Literal["inception", "trained"] = option(
        "trained", "`inception`: torch-fidelity's TensorFlow port, as in the papers; `trained`: the miniature's own"
    )
    inception_weights: str | None = option(None, "local file of the Inception weights (pt_inception-2015-12-05-6726825d.pth); null: torch-fidelity's download")
    trained: NetworkOptions | None = option(None, "architecture and training of the miniature's evaluation network")
    extra_networks: dict[str, NetworkOptions] = option(
        dict, "further feature spaces by name, each giving the score `fd_<name>` on a timm ViT's class token; `dinov2` with ViT-L/14 is EDM2's FD-DINOv2"
    )
    reference: str | None = option(None, "ADM's reference .npz (`mu`, `sigma`, `mu_s`, `sigma_s`, `arr_0`); null: computed from the training images")
    reference_images: int = option(10_000, "reference images for precision and recall, drawn with seed 0", "images", ge=1)
    split_size: int = option(5_000, "images in a chunk of the Inception score; ADM: 5,000", "images", ge=1)
    neighbours: int = option(3, "k of precision and recall", ge=1)
    distances: Literal["fp32", "adm_fp16"] = option("fp32", "precision of nearest-neighbour distances; `adm_fp16` is what ADM's evaluator does")
    batch_size: int = option(64, "images evaluated at once", "images", ge=1)

    @model_validator(mode="after")
    def _network_described(self) -> EvaluationOptions:
        if self.network == "trained" and self.trained is None:
            raise ValueError("`evaluation.trained` must describe the network when `evaluation.network` is `trained`")
        return self


class RepresentationOptions(Options):
    """How the hidden representations of each run's last milestone are measured: linear probe and CKNNA, over blocks and noise levels."""

    images: int = option(10_000, "images, drawn with seed 0, or all if there are fewer; REPA's CKNNA is over 10,000", "images", ge=1)
    noise_levels: list[float] = option(lambda: [0.25, 0.5, 0.75], "noise levels (0 is clean, 1 is noise) of the network's input", min_length=1)
    blocks: list[int] | None = option(None, "blocks, counted from 1; null: all", min_length=1)
    encoders: list[str] | None = option(None, "encoders (keys of `encoders`) that CKNNA compares with; null: all")
    neighbours: int = option(10, "k of CKNNA; REPA: 10", ge=2)
    test_fraction: float = option(0.2, "share of the images that the probe is tested on and not fitted on", gt=0, lt=1)
    weight_decay: float = option(1e-4, "L2 penalty of the probe's weights", ge=0)
    probe_steps: int = option(100, "L-BFGS steps of the probe's fit", "steps", ge=1)
    batch_size: int = option(64, "images in the network at once", "images", ge=1)

    @model_validator(mode="after")
    def _levels(self) -> RepresentationOptions:
        if not all(0 < level < 1 for level in self.noise_levels) or self.noise_levels != sorted(set(self.noise_levels)):
            raise ValueError(f"`noise_levels` {self.noise_levels} must be ascending and between 0 and 1")
        return self


ADM_PROTOCOL = EvaluationOptions(network="inception", distances="adm_fp16")  # what printed numbers come from (arXiv:2105.05233)


class ResourceOptions(Options):
    """What each job asks for; on SLURM these become the job's request."""

    device: Literal["auto", "cpu", "cuda"] = option("auto", "`auto`: the GPU if there is one")
    gpus: int = option(1, "GPUs of a training job; 0 where there are none", ge=0)
    threads: int = option(1, "CPU threads of a job; CPU results are bitwise reproducible for a fixed number", ge=1)
    memory_mb: int = option(4_000, "memory of a job", "MB", ge=1)
    runtime_minutes: int = option(240, "time limit of a job; trainings save their state before it and go on in the next try", "minutes", ge=1)
    save_minutes: float = option(10.0, "minutes between saved training states: what an accident costs at most", "minutes", gt=0)
    log_every: int = option(100, "steps averaged in a row of train.csv", "steps", ge=1)
    max_skipped: int = option(10, "non-finite steps in a row after which a training stops", "steps", ge=0)


class ReportOptions(Options):
    """What figures and tables show."""

    title: str = option("None, REPA and VRPO on SiT and DiT", "headline of the report")
    metric_space: str = option("", "which feature space the scores live in; stands beside every score")
    grid_images: int = option(10, "images of each run in the grid of samples", "images", ge=1)
    published: str | None = option(None, "CSV of published numbers shown beside ours; null: none")
