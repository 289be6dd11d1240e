"""An alignment loss tried on random values, so that its mistakes show before the first job."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vrpo.alignment.base import (
    Alignment,
    AlignmentBatch,
    AlignmentContext,
    GlobalTargets,
    checked_result,
)
from vrpo.config.alignments import AnyAlignment
from vrpo.errors import UserError

FEW = 4  # rollouts
Inputs = dict[str, list[Tensor]]


def try_loss(
    loss_class: type[Alignment],
    options: AnyAlignment,
    context: AlignmentContext,
    *,
    tokens: int,
    depth: int,
    precision: str,
    batch: int,
) -> list[str] | None:
    """Build a loss, and run it forward and backward as one step of a training does.

    Args:
        loss_class: of the loss.
        options: of the loss.
        context: of its run, without critics.
        tokens: hidden tokens N of the network.
        depth: blocks of the network.
        precision: `training.precision`.
        batch: rollouts of the run's micro-batch, with which a loss is tried that fails with a few.

    Returns:
        What of the network the loss has a gradient for, of `hidden tokens`, `error` and `x0_hat`;
        None: it was only built, because it reads attention.

    Raises:
        UserError: it fails, or returns what the trainer cannot use.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        with _told_in_one_line(loss_class):
            alignment = loss_class(options, context)
        last = max((*alignment.hidden_after, *alignment.attention_of), default=0)
        if last > depth:
            raise UserError(
                f"{loss_class.__name__}: takes block {last}, but the network has {depth} blocks; "
                "correct `hidden_after` or `attention_of`"
            )
        if alignment.attention_of:
            return None
        try:
            trained = _try_step(alignment, FEW, tokens, precision)
        except UserError:  # it may need whole groups of rollouts
            trained = _try_step(alignment, batch, tokens, precision)
    _require_gradients(alignment)
    return trained


def _try_step(alignment: Alignment, rollouts: int, tokens: int, precision: str) -> list[str]:
    """Run one step; returns what it has a gradient for."""
    batch, inputs = _random_batch(alignment, rollouts, tokens)
    alignment.zero_grad(set_to_none=True)
    with _told_in_one_line(type(alignment)):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = checked_result(alignment, alignment(batch)).loss
        if loss.requires_grad:
            loss.backward()
        alignment.finish_step(lambda values: values, torch.tensor(True))
    return [
        name
        for name, values in inputs.items()
        if any(value.grad is not None and bool(value.grad.any()) for value in values)
    ]


def _require_gradients(alignment: Alignment) -> None:
    for name, parameter in alignment.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise UserError(
                f"{type(alignment).__name__}: its parameter `{name}` has no gradient, which a "
                "training on several GPUs needs; use it in the loss, multiplied by 0 while it has "
                "no part, or delete it, e.g. by deriving from `Alignment`, without projectors"
            )


def _random_batch(
    alignment: Alignment, rollouts: int, tokens: int
) -> tuple[AlignmentBatch, Inputs]:
    """A micro-batch, half of the global one, and those of its tensors that the network gives."""
    context = alignment.context

    def leaf(*shape: int) -> Tensor:
        return torch.randn(rollouts, *shape).requires_grad_()

    inputs: Inputs = {
        "hidden tokens": [leaf(tokens, context.width) for _ in alignment.hidden_after],
        "error": [leaf()],
        "x0_hat": [leaf(*context.latent_shape)],
    }
    everywhere = {name: torch.randn(2 * rollouts, *shape) for name, shape in context.tokens.items()}
    places = torch.arange(rollouts, 2 * rollouts)
    targets = GlobalTargets(everywhere, torch.arange(2 * rollouts), places)
    return AlignmentBatch(
        hidden=inputs["hidden tokens"],
        tokens={name: values[places] for name, values in everywhere.items()},
        noise_level=torch.rand(rollouts),
        error=inputs["error"][0],
        x0=torch.randn(rollouts, *context.latent_shape),
        x0_hat=lambda: inputs["x0_hat"][0],
        step=torch.tensor(0),
        global_targets=targets if alignment.needs_global_targets else None,
    ), inputs


@contextlib.contextmanager
def _told_in_one_line(loss_class: type[Alignment]) -> Iterator[None]:
    """Turn whatever a loss raises into a `UserError` that names a line of the loss's own file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        module, place = loss_class.__module__, ""
        for frame, line in traceback.walk_tb(error.__traceback__):  # the last one is the cause
            if frame.f_globals.get("__name__") == module:
                place = f", {Path(frame.f_code.co_filename).name} line {line}"
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"{loss_class.__name__}: fails on random values of the run's shapes "
            f"({type(error).__name__}: {text}{place}); correct it"
        ) from error
