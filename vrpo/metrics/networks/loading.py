"""The networks that a config names: the main one, and those of further feature spaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vrpo.errors import UserError
from vrpo.metrics.networks.classifier import ClassifierNetwork
from vrpo.metrics.networks.inception import InceptionNetwork, find_weights
from vrpo.metrics.networks.pretrained import PretrainedNetwork
from vrpo.metrics.networks.protocol import FeatureNetwork

if TYPE_CHECKING:
    from vrpo.config.networks import SpaceOptions
    from vrpo.config.scoring import EvaluationOptions


def load_network(
    options: EvaluationOptions, weights: Path | None, device: torch.device | str
) -> FeatureNetwork:
    """The evaluation network of `options`, frozen, on `device`.

    Args:
        options: which network.
        weights: its file. None: for Inception `options.inception_weights` or the download's place,
            for a timm network the pretrained weights by name.
        device: where it runs.

    Raises:
        UserError: the weights are missing, unreadable or of another network; says what to fetch.
    """
    if options.network == "inception":
        given = weights or (Path(options.inception_weights) if options.inception_weights else None)
        return InceptionNetwork(find_weights(given), device)
    return ClassifierNetwork(options.trained, weights, device)


def extra_networks(
    options: EvaluationOptions, weights: Mapping[str, Path], device: torch.device | str
) -> Iterator[tuple[str, FeatureNetwork]]:
    """The networks of `options.extra_networks`, by name, each loaded when its turn comes.

    Args:
        options: the evaluation's.
        weights: file of each network with `weights: trained`.
        device: where they run.

    Raises:
        UserError: weights are missing, unfit, or of a network that is not in the config.
    """
    if stray := sorted({*weights} - {*options.extra_networks}):
        known = ", ".join(options.extra_networks) or "none"
        raise UserError(
            f"--extra-weights {stray[0]}: there is none in evaluation.extra_networks; "
            f"known: {known}"
        )
    for name, network in options.extra_networks.items():
        yield name, _extra_network(name, network, weights.get(name), device)


def _extra_network(
    name: str, options: SpaceOptions, weights: Path | None, device: torch.device | str
) -> FeatureNetwork:
    where = f"evaluation.extra_networks.{name}"
    if options.weights != "trained":
        return PretrainedNetwork(name, options, device)
    if weights is None:
        raise UserError(
            f"{where}: `weights: trained`, and no file of them; fit it (`fit-classifier "
            f"--section extra_networks.{name}`) and give --extra-weights {name}=FILE"
        )
    return ClassifierNetwork(options, weights, device, where)
