"""Linear probe: accuracy of a linear classifier on frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def probe_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    weight_decay: float = 1e-4,
    steps: int = 100,
) -> float:
    """Accuracy on `test` [M, D] of multinomial logistic regression, fitted on `train` [N, D].

    Features are standardised by the training rows. The fit is L-BFGS from zero in float64, so that
    nothing is random and equal features give equal accuracy.

    Args:
        train: features [N, D].
        train_labels: classes [N] int64.
        test: features [M, D].
        test_labels: classes [M] int64.
        weight_decay: adds weight_decay / 2 |W|^2 to the mean cross-entropy.
        steps: of L-BFGS, at most.
    """
    mean, std = train.double().mean(0), train.double().std(0).clamp(min=1e-12)
    train, test = ((rows.double() - mean) / std for rows in (train, test))
    classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    weight = train.new_zeros(train.shape[1], classes, requires_grad=True)  # float64
    bias = train.new_zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=steps,
        tolerance_grad=1e-6,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(train @ weight + bias, train_labels)
        value = value + weight_decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    with torch.no_grad():
        chosen = (test @ weight + bias).argmax(1)
    return float((chosen == test_labels).double().mean())
