"""The loss of one micro-batch: the process's denoising loss and an alignment, introduced to each other here."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor, nn

from vrpo.alignment.agreement import Gate
from vrpo.alignment.base import Alignment, AlignmentBatch
from vrpo.errors import UserError
from vrpo.models.transformer import DiffusionTransformer
from vrpo.processes.process import Process

log = logging.getLogger(__name__)


class Objective(nn.Module):
    """A network and its alignment under one process; its parameters are what is trained and averaged."""

    def __init__(self, network: DiffusionTransformer, alignment: Alignment, process: Process, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        """`precision` is the autocast type of network and projectors; losses and cosines are fp32 always.

        Raises:
            UserError: the alignment calls a method that a network of one's own does not have.
        """
        super().__init__()
        called = {"hidden": alignment.needs_old_policy, "traced": bool(alignment.attention_of) or alignment.needs_gate}
        for method, needed in called.items():
            if needed and not hasattr(network, method):
                raise UserError(
                    f"{type(network).__name__}: has no method `{method}`, which the alignment {type(alignment).__name__} calls as its options are; "
                    "add it as in vrpo/models/transformer.py, or choose an alignment that does without"
                )
        self.network, self.alignment, self.process = network, alignment, process
        self.precision = precision
        self.gated = alignment.gate() is not None and hasattr(network, "traced")
        if alignment.gate() is not None and not self.gated:
            log.warning("%s has no method `traced`: the agreement of gradients is not measured", type(network).__name__)

    def forward(
        self,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        labels: Tensor,
        tokens: dict[str, Tensor],
        old_cosine: Tensor | None = None,
        encoder_attention: dict[str, Tensor] | None = None,
        step: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a mean over the micro-batch) and metrics.

        Args:
            x0: clean latents [B,C,H,W].
            noise: standard normal [B,C,H,W].
            t: times of the process [B].
            labels: classes [B], dropped ones already replaced by the null class.
            tokens: encoder tokens [B,N,D] by encoder.
            old_cosine: the averaged network's cosines [B], where the alignment needs them.
            encoder_attention: queries and keys [B,L,2,heads,N,D/heads] by encoder, where the alignment needs them.
            step: optimiser steps done so far, int64 scalar.
        """
        process = self.process
        x_t = process.corrupt(x0, noise, t)
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            gate = self.alignment.gate() if self.gated and torch.is_grad_enabled() else None
            prediction, hidden, attention = self._predict(x_t, process.network_time(t), labels, gate)
            prediction = prediction.float()
            denoising, error = process.losses(prediction, x0, noise, x_t, t)  # (B), (B)
            batch = AlignmentBatch(
                hidden=hidden,
                tokens=tokens,
                noise_level=process.noise_level(t),
                error=error,
                x0=x0,
                x0_hat=lambda: process.x0_hat(prediction, x_t, t),
                old_cosine=old_cosine,
                attention=attention,
                encoder_attention=encoder_attention or {},
                step=step,
            )
            aligned = self.alignment(batch)
        loss = denoising.mean() + aligned.loss
        if gate is not None:
            loss = loss + gate.tell(noise_level=batch.noise_level, **aligned.told)
        return loss, {"loss": loss.detach(), "denoising": denoising.detach().mean(), **aligned.metrics}

    def _predict(self, x_t: Tensor, t: Tensor, labels: Tensor, gate: Gate | None) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Prediction, hidden tokens, queries and keys: only an alignment that wants a gate or the last needs a network that has them."""
        alignment = self.alignment
        if alignment.attention_of or gate is not None:
            return self.network.traced(x_t, t, labels, hidden_after=alignment.hidden_after, attention_of=alignment.attention_of, gate=gate)
        return *self.network(x_t, t, labels, hidden_after=alignment.hidden_after), []

    @torch.no_grad()
    def cosine(self, x0: Tensor, noise: Tensor, t: Tensor, labels: Tensor, tokens: dict[str, Tensor]) -> Tensor:
        """The alignment's cosines [B] alone, from the first blocks of the network: the old policy's log-probability."""
        x_t = self.process.corrupt(x0, noise, t)
        (depth,) = self.alignment.hidden_after
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            hidden = self.network.hidden(x_t, self.process.network_time(t), labels, after=depth)
            return self.alignment.cosine(hidden, tokens)
