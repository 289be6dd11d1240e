"""The loss of one micro-batch: a process's denoising loss and an alignment, combined here."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor, nn

from vrpo.alignment.base import Alignment, AlignmentBatch, GlobalTargets, checked_result
from vrpo.config.training import TrainingOptions
from vrpo.errors import UserError
from vrpo.models.transformer import DiffusionTransformer
from vrpo.processes.process import Process

log = logging.getLogger(__name__)


class Objective(nn.Module):
    """A network and its alignment under a process; its parameters are trained and averaged.

    `options.precision` is the autocast type of network and projectors; losses and cosines are
    always fp32.
    """

    def __init__(
        self,
        network: DiffusionTransformer,
        alignment: Alignment,
        process: Process,
        options: TrainingOptions,
    ) -> None:
        """See the class.

        Raises:
            UserError: the alignment calls a method that a custom network does not have.
        """
        super().__init__()
        wanted, attention = alignment.options, bool(alignment.attention_of)
        averaged = wanted.needs_old_policy or wanted.cleaner_target is not None
        for method, needed in (("hidden", averaged), ("traced", attention)):
            if needed and not hasattr(network, method):
                raise UserError(
                    f"{type(network).__name__}: has no method `{method}`, which the alignment "
                    f"{type(alignment).__name__} calls as its options are; add it as in "
                    "vrpo/models/transformer.py, or choose an alignment that does without"
                )
        self.network, self.alignment, self.process = network, alignment, process
        self.options, self.joint = options, getattr(network, "joint", None)
        self.measured = alignment.agreement is not None and hasattr(network, "traced")
        if alignment.agreement is not None and not self.measured:
            kind = type(network).__name__
            log.warning("%s has no method `traced`: the agreement is not measured", kind)

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
        global_targets: GlobalTargets | None = None,
        cleaner_hidden: Tensor | None = None,
        token_noise: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a mean over the micro-batch) and metrics.

        Args:
            x0: clean latents [B,C,H,W].
            noise: standard normal [B,C,H,W].
            t: times of the process [B].
            labels: classes [B], dropped ones already replaced by the null class.
            tokens: encoder tokens [B,N,D] by encoder; [B,1+N,D] where the network denoises a
                class token, the first.
            old_cosine: the averaged network's cosines [B], where the alignment needs them.
            encoder_attention: queries and keys [B,L,2,heads,N,D/heads] by encoder, where needed.
            step: optimizer steps done so far, int64 scalar.
            global_targets: encoder tokens of the global batch, where the alignment needs them.
            cleaner_hidden: the averaged network's `cleaner_hidden` [B,N,W], where the alignment
                needs it.
            token_noise: standard normal [B,D], where the network denoises a class token.
        """
        process, token_error = self.process, None
        x_t = given = process.corrupt(x0, noise, t)
        if self.joint is not None:
            (encoder,) = self.alignment.options.encoders
            token = tokens[encoder][:, 0]  # (B, D)
            given = self.joint.noised(x_t, token, token_noise, t, process.corrupt)
        noise_level = process.noise_level(t)
        with self._autocast(x0):
            times = process.network_time(t)
            prediction, hidden, attention = self._predict(given, times, labels, noise_level)
            prediction = prediction.float()
            if self.joint is not None:
                prediction, of_token = self.joint.split_prediction(prediction)
                of_token, token, added = (
                    values[..., None, None] for values in (of_token, token, token_noise)
                )
                token_error = process.error(of_token, token, added, t)
            denoising, error = process.losses(prediction, x0, noise, x_t, t)  # (B), (B)
            batch = AlignmentBatch(
                hidden=hidden,
                tokens=tokens,
                noise_level=noise_level,
                error=error,
                x0=x0,
                x0_hat=lambda: process.x0_hat(prediction, x_t, t),
                old_cosine=old_cosine,
                cleaner_hidden=cleaner_hidden,
                attention=attention,
                encoder_attention=encoder_attention or {},
                step=step,
                global_targets=global_targets,
                class_token_error=token_error,
            )
            aligned = checked_result(self.alignment, self.alignment(batch))
        loss = denoising.mean() + aligned.loss
        metrics = {"loss": loss.detach(), "denoising": denoising.detach().mean()}
        return loss, {**metrics, **aligned.metrics}

    def _predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor, noise_level: Tensor
    ) -> tuple[Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Prediction, hidden tokens, and queries and keys, for which a network needs `traced`."""
        alignment, gate = self.alignment, None
        if self.measured and torch.is_grad_enabled():
            gate = functools.partial(alignment.agreement, noise_level=noise_level)
        if alignment.attention_of or gate is not None:
            blocks = (alignment.hidden_after, alignment.attention_of)
            return self.network.traced(x_t, t, labels, *blocks, gate=gate)
        return *self.network(x_t, t, labels, hidden_after=alignment.hidden_after), []

    @torch.no_grad()
    def cosine(
        self, x0: Tensor, noise: Tensor, t: Tensor, labels: Tensor, tokens: dict[str, Tensor]
    ) -> Tensor:
        """The alignment's cosines [B], from the first blocks: the old policy's log-probability."""
        (depth,) = self.alignment.hidden_after
        with self._autocast(x0):
            hidden = self._hidden(x0, noise, t, labels, depth)
            return self.alignment.cosine(hidden, tokens)

    @torch.no_grad()
    def cleaner_hidden(
        self, x0: Tensor, noise: Tensor, t: Tensor, labels: Tensor, gap: Tensor
    ) -> Tensor:
        """The alignment's targets [B,N,W]: hidden tokens at noise levels lower by `gap` [B]."""
        t = self.process.with_less_noise(t, gap)
        with self._autocast(x0):
            depth = self.alignment.options.cleaner_target.depth
            return self._hidden(x0, noise, t, labels, depth)

    def _hidden(self, x0: Tensor, noise: Tensor, t: Tensor, labels: Tensor, depth: int) -> Tensor:
        """Hidden tokens [B,N,W] after block `depth`; later blocks do not run."""
        x_t = self.process.corrupt(x0, noise, t)
        return self.network.hidden(x_t, self.process.network_time(t), labels, after=depth)

    def _autocast(self, x: Tensor) -> torch.autocast:
        half = self.options.precision == "bf16"
        return torch.autocast(x.device.type, torch.bfloat16, enabled=half)
