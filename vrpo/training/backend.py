"""How PyTorch computes on this machine: TensorFloat-32, attention's kernel, and their record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vrpo.models.attention import choose_attention
from vrpo.models.transformer import DiffusionTransformer
from vrpo.runtime.distributed import Ranks
from vrpo.runtime.machine import processor
from vrpo.runtime.precision import use_tf32

if TYPE_CHECKING:
    from vrpo.config.training import TrainingOptions
    from vrpo.training.objective import Objective


def configure_backend(
    options: TrainingOptions, objective: Objective, ranks: Ranks
) -> dict[str, Any]:
    """Set TF32 and the attention kernel, before anything is compiled; returns what is used.

    Raises:
        UserError: the attention kernel that is asked for cannot compute this network.
    """
    use_tf32(options.tf32, ranks.device)
    network, attention = objective.network, "the network's own"
    if isinstance(network, DiffusionTransformer):
        batch = options.batch_size // (ranks.world * options.accumulation)
        heads = network.blocks[0].attn.heads
        shape = (batch, heads, network.grid**2, network.blocks[0].attn.proj.in_features // heads)
        kind = torch.bfloat16 if options.precision == "bf16" else torch.float32
        attention = choose_attention(
            options.attention, shape, kind, ranks.device, agree=ranks.all_reduce
        )
    on_gpu = ranks.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else processor(),
        "ranks": ranks.world,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": options.precision,
        "tf32": options.tf32 if on_gpu else None,
        "attention": attention,
        "compiled": options.compile,
        "activation_checkpointing": options.activation_checkpointing,
    }
