"""The loop that fits the miniature's own networks: Adam, a short warm-up, cosine decay to zero."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vrpo.errors import UserError
from vrpo.models.weights import check_finite
from vrpo.seeds import derive_seed

if TYPE_CHECKING:
    from vrpo.config.networks import FitOptions

WARMUP = 0.05  # part of the steps


@contextlib.contextmanager
def initial_weights(*key: str | int) -> Iterator[None]:
    """Seed by `key` the initial weights of networks built inside; the global generator is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(*key))
        yield


def fit(
    network: nn.Module, options: FitOptions, loss_of_step: Callable[[int], Tensor], name: str
) -> None:
    """Train `network` in place for `options.steps` steps.

    Args:
        network: left in evaluation mode.
        options: steps, peak learning rate.
        loss_of_step: scalar loss of step 0, 1, ...; a pure function of the step and the weights.
        name: shown in the progress bar.

    Raises:
        UserError: the loss, or at the end a weight, is not finite.
    """
    remedy = f"lower `training.learning_rate` ({options.learning_rate})"
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
    with tqdm(range(options.steps), desc=name, unit="step", mininterval=1.0) as steps:
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * schedule(step, options.steps)
            loss = loss_of_step(step)
            if not math.isfinite(value := loss.item()):
                raise UserError(f"{name}: the loss is {value} at step {step}; {remedy}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps.set_postfix(loss=f"{value:.4f}", refresh=False)
    check_finite(network.state_dict(), name, f"the last steps diverged, {remedy}")
    network.eval()


def schedule(step: int, steps: int) -> float:
    """Learning rate of `step` as a part of its peak: linear warm-up, then cosine decay to zero."""
    warm = min(1.0, (step + 1) / max(1.0, WARMUP * steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))
