"""An alignment loss tried on random values, so that its mistakes show before the first job."""

from __future__ import annotations

import traceback
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
from vrpo.models.backbones import import_class

ROLLOUTS = 4  # of one micro-batch
Inputs = dict[str, list[Tensor]]


def try_loss(
    options: AnyAlignment,
    context: AlignmentContext,
    *,
    tokens: int,
    depth: int,
    precision: str,
    batch: int = ROLLOUTS,
) -> list[str] | None:
    """Build a loss, and run it forward and backward as one step of a training does.

    Args:
        options: of the loss.
        context: of its run, without critics.
        tokens: hidden tokens N of the network.
        depth: blocks of the network.
        precision: `training.precision`.
        batch: rollouts of the run's micro-batch, tried where a few of them fail.

    Returns:
        What of the network the loss has a gradient for, of `hidden tokens`, `error` and `x0_hat`;
        None: it was only built, because it reads attention.

    Raises:
        UserError: it cannot be imported, fails, or returns what the trainer cannot use.
    """
    settings = {"tokens": tokens, "depth": depth, "precision": precision}
    try:
        return _try_with(ROLLOUTS, options, context, **settings)
    except UserError:
        if batch == ROLLOUTS:
            raise
        return _try_with(batch, options, context, **settings)


def _try_with(
    rollouts: int,
    options: AnyAlignment,
    context: AlignmentContext,
    *,
    tokens: int,
    depth: int,
    precision: str,
) -> list[str] | None:
    loss_class = import_class(options.loss, Alignment, "alignments")
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        try:
            alignment = loss_class(options, context)
            last = max((*alignment.hidden_after, *alignment.attention_of), default=0)
            if last > depth:
                raise UserError(
                    f"{loss_class.__name__}: takes block {last}, but the network has {depth} "
                    "blocks; correct `hidden_after` or `attention_of`"
                )
            if alignment.attention_of:
                return None
            batch, inputs = _random_batch(alignment, rollouts, tokens)
            with half:
                loss = checked_result(alignment, alignment(batch)).loss
            if loss.requires_grad:
                loss.backward()
            alignment.finish_step(lambda values: values, torch.tensor(True))
        except UserError:
            raise
        except Exception as error:  # whatever a custom loss raises
            raise UserError(_failure(loss_class, error)) from error
    return [
        name
        for name, values in inputs.items()
        if any(value.grad is not None and bool(value.grad.any()) for value in values)
    ]


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


def _failure(loss_class: type[Alignment], error: Exception) -> str:
    """What went wrong, and the last line of the loss's own file that was reached."""
    module = loss_class.__module__
    frames = traceback.walk_tb(error.__traceback__)
    own = [(frame, line) for frame, line in frames if frame.f_globals.get("__name__") == module]
    text = " ".join(str(error).split())[:200]
    place = ""
    if own:
        frame, line = own[-1]
        place = f", {Path(frame.f_code.co_filename).name} line {line}"
    return (
        f"{loss_class.__name__}: fails on random values of the run's shapes "
        f"({type(error).__name__}: {text}{place}); correct it"
    )
