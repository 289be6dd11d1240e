"""How PyTorch computes a training: TensorFloat-32, attention's kernel, compilation, ranks."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vrpo.errors import UserError
from vrpo.models.attention import choose_attention
from vrpo.models.transformer import DiffusionTransformer
from vrpo.runtime.distributed import Ranks
from vrpo.runtime.machine import processor
from vrpo.runtime.precision import use_tf32

if TYPE_CHECKING:
    from vrpo.config.training import TrainingOptions
    from vrpo.training.objective import Objective

_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_NEW = "forward_sync_buffers"  # `broadcast_buffers` in earlier versions of torch
BUFFERS_STAY = {_NEW if _NEW in _OPTIONS else "broadcast_buffers": False}
"""Option of `DistributedDataParallel`: each rank has its own sums until the step ends."""


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


def loss_function(objective: Objective, options: TrainingOptions, ranks: Ranks) -> nn.Module:
    """`objective` as the options have it: with activation checkpointing, compiled, on all ranks.

    Raises:
        UserError: the network has no activation checkpointing, and the options ask for it.
    """
    network = objective.network
    if options.activation_checkpointing:
        if not hasattr(network, "activation_checkpointing"):
            raise UserError(
                f"training.activation_checkpointing: {type(network).__name__} does not know it; "
                "set it to false"
            )
        network.activation_checkpointing = True
    function: nn.Module = objective
    if options.compile:  # one graph, static shapes; a custom network may break the graph
        function = torch.compile(
            objective, fullgraph=isinstance(network, DiffusionTransformer), dynamic=False
        )
    if ranks.world > 1:
        function = DistributedDataParallel(function, **BUFFERS_STAY, gradient_as_bucket_view=True)
    return function
