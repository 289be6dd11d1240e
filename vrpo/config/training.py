"""Options of the training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vrpo.config.base import Options, option

Decay = Annotated[float, Field(ge=0, lt=1)]


WITHOUT_EFFECT = ("training.latents", "training.attention", "training.activation_checkpointing")
"""Options that change speed and memory but, up to rounding, no result: training resumes anyway."""

KEPT_STATES = 2
"""Resume states that are kept of each training."""


class TrainingOptions(Options):
    """The training of a diffusion transformer; equal for every run of an experiment."""

    batch_size: int = option(
        256, "GLOBAL batch of a step, over all GPUs and accumulation steps", "samples", ge=1
    )
    accumulation: int = option(
        1, "micro-batches of a step on each GPU; changes memory, not results", ge=1
    )
    learning_rate: float = option(1e-4, "constant learning rate of AdamW", gt=0)
    adam_betas: tuple[Decay, Decay] = option((0.9, 0.999), "AdamW's decay rates")
    weight_decay: float = option(0.0, "AdamW's weight decay", ge=0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this global norm", gt=0)
    ema_decay: float = option(
        0.9999, "decay per step of the averaged weights, which milestones hold", ge=0, lt=1
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
        True, "TensorFloat-32 for fp32 on a GPU: the critic, and the network with `precision: fp32`"
    )
    attention: Literal["auto", "flash", "cudnn", "efficient", "math"] = option(
        "auto", "PyTorch's attention kernel on a GPU; `auto`: the fastest, measured at the start"
    )
    activation_checkpointing: bool = option(
        False, "recompute activations in the backward pass: a quarter slower, much less memory"
    )
    latents: Literal["auto", "resident", "mapped"] = option(
        "auto",
        "`resident`: all in the GPU's memory; `mapped`: read for each step; "
        "`auto`: resident if they take at most a quarter of the memory",
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
