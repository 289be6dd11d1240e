"""Options of every stage: typed, each with its default, unit and one line of documentation.

The JSON schema and docs/options.md are generated from these classes (`python -m vrpo docs`); nothing here imports torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vrpo.config.base import Ascending, Options, Place, Positive, Seeds, Text, WorkflowPlace, option


class DataOptions(Options):
    """Where images come from."""

    source: Literal["digits", "folder", "ilsvrc", "zip", "webdataset", "parquet"] = option(
        "digits",
        "`digits`: scikit-learn's handwritten digits, inside the package; `folder`: one folder per class, sorted by name; `ilsvrc`: ImageNet as ILSVRC "
        "ships it; `zip`: class folders in a .zip; `webdataset`: tar shards of key.jpg and key.cls; `parquet`: Hugging Face's files (docs/data.md)",
    )
    root: Place | None = option(
        None,
        "folder or file of the training images (all sources but `digits`), e.g. `/data/imagenet/train`",
    )
    class_index: Place | None = option(
        None,
        "file that fixes the order and names of the classes, e.g. `imagenet_class_index.json`; null: sorted by name, or the numbers that the source has",
    )
    resolution: int = option(
        32, "side of the square training images, after ADM's centre crop", "pixels", ge=8
    )
    num_classes: int = option(10, "number of classes the source must have", ge=1)
    skip_unreadable: bool = option(
        False,
        "leave images that cannot be read out of everything; false: their list ends the stage with an error",
    )
    workers: int = option(
        0, "worker processes that decode images; 0 decodes in the main process", ge=0
    )
    shards: int = option(
        1,
        "files that images, latents and features are each cut into, written by independent jobs",
        ge=1,
        le=10_000,
    )

    @model_validator(mode="after")
    def _root_for_files(self) -> DataOptions:
        if self.source != "digits" and not self.root:
            raise ValueError(
                f"`root` must name the folder or file of training images when `source` is `{self.source}`"
            )
        return self


class FitOptions(Options):
    """How one of the pipeline's own networks is trained (Adam, cosine decay to zero)."""

    steps: int = option(500, "optimiser steps", "steps", ge=1)
    batch_size: int = option(64, "samples in a step", "samples", ge=1)
    learning_rate: float = option(1e-3, "peak learning rate of Adam", gt=0)
    seed: int = option(0, "seed of initial weights and data order")


class TokenizerOptions(Options):
    """The VAE between images and latents (diffusers AutoencoderKL)."""

    weights: Place = option(
        "trained",
        "`trained`: fit a small one on the images; else a hub name such as `stabilityai/sd-vae-ft-ema`, or a local folder",
    )
    scale: float | None = option(
        None,
        "latents are multiplied by this (0.18215 for Stable Diffusion's VAE), after a pretrained VAE's own shift, or after its own mean and standard "
        "deviation of each channel (docs/data.md); null: a pretrained VAE's `scaling_factor`, or 1 / measured standard deviation",
        gt=0,
    )
    latent_channels: int = option(4, "channels of the latent", ge=1)
    block_channels: list[Positive] = option(
        lambda: [32, 64, 64],
        "widths of a trained tokenizer's levels; all but the last halve the resolution",
        min_length=1,
    )
    kl_weight: float = option(1e-4, "weight of the KL term when trained", ge=0)
    batch_size: int = option(64, "images encoded at once", "images", ge=1)
    storage: Literal["float32", "float16"] = option("float32", "type of the stored latent moments")
    training: FitOptions = option(FitOptions, "how a trained tokenizer is fitted")


class NetworkOptions(Options):
    """A timm network, as a visual encoder or as an evaluation network."""

    architecture: Text = option(..., "timm model name, e.g. `vit_base_patch14_dinov2.lvd142m`")
    weights: Place = option(
        "timm",
        "`timm`: the pretrained weights of that name; `trained`: fit on the images; else a local .safetensors file",
    )
    arguments: dict[str, Any] = option(dict, "further keyword arguments of `timm.create_model`")
    image_size: int = option(
        224, "side of the image fed to the network (REPA feeds DINOv2 224 for 256)", "pixels", ge=8
    )
    training: FitOptions = option(FitOptions, "how a trained network is fitted, as a classifier")


class EncoderOptions(NetworkOptions):
    """A visual encoder whose patch tokens are the alignment targets."""

    features: Literal["cached", "online"] = option(
        "cached",
        "`cached`: tokens of all images are stored once; `online`: computed from the images in every step, for those without the disk",
    )
    storage: Literal["int8", "float8", "float16"] = option(
        "int8",
        "type of the cached tokens; int8 and float8 (e4m3) keep one float16 scale per token; their errors are in docs/data.md",
    )
    attention: Ascending = option(
        list,
        "blocks, counted from 1, ascending, whose queries and keys are cached, for HASTE's attention maps; each takes twice the room of the tokens",
        "blocks",
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
            raise ValueError(
                f"`width` {self.width} must be a multiple of `heads` ({self.heads}) and of 4"
            )
        return self


class CustomSize(ModelSize):
    """A custom network in place of the transformer (docs/extending.md)."""

    backbone: str = option(
        ..., "`module:Class` in a module beside the Snakefile", pattern=r"^[\w.]+:\w+$"
    )
    arguments: dict[str, Any] = option(dict, "further keyword arguments of the class")


AnySize = Annotated[
    Annotated[ModelSize, Tag("transformer")] | Annotated[CustomSize, Tag("custom")],
    Discriminator(
        lambda size: (
            "custom"
            if isinstance(size, CustomSize) or (isinstance(size, dict) and "backbone" in size)
            else "transformer"
        )
    ),
]


class InterpolantOptions(Options):
    """SiT: a stochastic interpolant with velocity prediction (arXiv:2401.08740)."""

    kind: Literal["interpolant"] = option(..., "SiT's process")
    path: Literal["linear", "cosine"] = option(
        "linear", "`linear`: x_t = (1-t) x_0 + t eps; `cosine`: GVP, cos and sin of pi t / 2"
    )
    time: Literal["uniform", "logit-normal", "lognormal"] = option(
        "uniform", "distribution of the training times"
    )


class DDPMOptions(Options):
    """DiT: denoising diffusion with epsilon prediction and learned range variance (arXiv:2212.09748)."""

    kind: Literal["ddpm"] = option(..., "DiT's process")
    betas: Literal["linear", "cosine"] = option("linear", "noise schedule")
    steps: int = option(1000, "discrete noise levels", "levels", ge=2)
    loss_weight_limit: float = option(
        1.0,
        "the noise's squared error is weighted by 1 / alpha_bar, which makes it the velocity's (arXiv:2202.00512), at most by this; 1: DiT's own loss",
        ge=1,
    )


ProcessOptions = Annotated[InterpolantOptions | DDPMOptions, Field(discriminator="kind")]


Decay = Annotated[float, Field(ge=0, lt=1)]


class TrainingOptions(Options):
    """The training of a diffusion transformer; equal for every run of an experiment."""

    batch_size: int = option(
        256,
        "GLOBAL batch: rollouts in an optimiser step over all GPUs and accumulation steps",
        "samples",
        ge=1,
    )
    accumulation: int = option(
        1, "micro-batches that a step is split into on each GPU; changes memory, not results", ge=1
    )
    learning_rate: float = option(1e-4, "constant learning rate of AdamW", gt=0)
    adam_betas: tuple[Decay, Decay] = option((0.9, 0.999), "AdamW's decay rates")
    weight_decay: float = option(0.0, "AdamW's weight decay", ge=0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this global norm", gt=0)
    ema_decay: float = option(
        0.9999, "decay per step of the averaged weights, which are what milestones hold", ge=0, lt=1
    )
    label_dropout: float = option(
        0.1, "probability of the null class, for classifier-free guidance", ge=0, lt=1
    )
    precision: Literal["fp32", "bf16"] = option(
        "fp32", "autocast type of the network; losses, cosines and master weights are always fp32"
    )
    compile: bool = option(
        False, "`torch.compile` the network and loss (needs a C++ compiler on CPU)"
    )
    tf32: bool = option(
        True,
        "TensorFloat-32 for what a GPU computes in fp32: the critic, and with `precision: fp32` the network; no effect on a CPU",
    )
    attention: Literal["auto", "flash", "cudnn", "efficient", "math"] = option(
        "auto",
        "PyTorch's attention kernel on a GPU; `auto`: the fastest in a measurement at the start, which the log shows",
    )
    activation_checkpointing: bool = option(
        False,
        "compute the blocks' activations again in the backward pass: a quarter slower, a fraction of the memory",
    )
    latents: Literal["auto", "resident", "mapped"] = option(
        "auto",
        "`resident`: all latents lie in the GPU's memory; `mapped`: they are read for each step; `auto`: resident if they take at most a quarter of it",
    )

    def micro_batch(self, gpus: int, group: int = 1) -> int:
        """Samples that each of `gpus` GPUs (0: the CPU) holds at a time, in whole groups.

        Raises:
            ValueError: the batch cannot be cut so; without the option's name.
        """
        parts = max(gpus, 1) * self.accumulation
        size, rest = divmod(self.batch_size, parts)
        if rest:
            raise ValueError(
                f"the global batch {self.batch_size} is not divisible by {max(gpus, 1)} GPUs or "
                f"ranks x {self.accumulation} accumulation steps; "
                f"choose a multiple of {parts * group}"
            )
        if size % group:
            raise ValueError(
                f"groups of {group} rollouts do not divide the {size} samples that one GPU or rank "
                f"holds at a time (global batch {self.batch_size}); choose a batch that is a "
                f"multiple of {parts * group}, or groups of a divisor of {size}"
            )
        return size


class RunOptions(Options):
    """One row of the comparison."""

    model: str = option(
        ..., "size and patch, e.g. `XL/2`, `B/4`; sizes are S, B, L, XL and those under `sizes`"
    )
    process: str = option(..., "a key of `processes`")
    alignment: str = option(..., "a key of `alignments`")
    seeds: Seeds | None = option(None, "seeds of this run; null: the experiment's", min_length=1)
    milestones: Ascending | None = option(
        None, "milestones of this run; null: the experiment's", "steps", min_length=1
    )


FAMILIES = {
    "dit": "DiT",
    "sit": "SiT",
    "repa": "REPA",
    "irepa": "iREPA",
    "haste": "HASTE",
}  # official code, as papers call it
CHECKPOINT_PROCESS = {family: "ddpm" if family == "dit" else "interpolant" for family in FAMILIES}


class CheckpointOptions(Options):
    """Weights of the official DiT, SiT, REPA, iREPA or HASTE code: sampled and scored as a run's, and shown beside the runs."""

    file: WorkflowPlace = option(
        ..., "the `.pt` or `.safetensors` file, e.g. `weights/SiT-XL-2-256.pt`"
    )
    family: Literal["dit", "sit", "repa", "irepa", "haste"] = option(
        ..., "whose code wrote it; DiT's are sampled as `ddpm`, the others as `interpolant`"
    )
    model: str = option(..., "size and patch, e.g. `XL/2`, as in `runs`")
    weights: Literal["ema", "model"] = option(
        "ema", "averaged or plain weights, where the file has both"
    )
    step: int = option(0, "training steps, for tables; 0: unknown", "steps", ge=0)
    seed: int = option(0, "training seed, for tables", ge=0)


class ResourceOptions(Options):
    """What each job computes on. Requests to a queue are in the profile (profiles/slurm)."""

    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "`auto`: a GPU if there is one; `cuda`: never the CPU instead"
    )
    threads: int = option(
        1, "CPU threads of a job; they decide the last bits of results on a CPU", ge=1
    )
    save_minutes: float = option(
        10.0,
        "time between saved training states, which is all that a kill can cost",
        "minutes",
        gt=0,
    )
    log_every: int = option(100, "steps averaged in a row of train.csv", "steps", ge=1)
    max_skipped: int = option(
        10, "non-finite steps in a row after which a training stops", "steps", ge=0
    )


class ReportOptions(Options):
    """Contents of figures and tables."""

    title: str | None = option(
        None, "headline of the report; null: what is compared, on which images"
    )
    metric_space: str | None = option(
        None,
        "which feature space the scores live in; stands beside every score; null: as data and evaluation say",
    )
    grid_images: int = option(10, "images of each run in the grid of samples", "images", ge=1)
    published: WorkflowPlace | None = option(
        None, "CSV of published numbers of ImageNet at 256x256, shown beside ours; null: none"
    )
