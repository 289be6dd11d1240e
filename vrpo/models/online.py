"""Encoder tokens computed from the images when a batch is taken, for those without the disk for a cache of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vrpo.data.kinds import IMAGES
from vrpo.data.layout import as_json, layout_key
from vrpo.data.shards import open_arrays
from vrpo.errors import UserError

if TYPE_CHECKING:
    from vrpo.models.encoder import VisualEncoder

KIND = "online features"


class OnlineFeatures:
    """Stands where the stored features of an encoder do; instead of their rows, those of the images are read, and `encode` makes tokens of them.

    Args:
        path: file of `describe_features`.
        device: where the encoder computes.

    Raises:
        UserError: the file is none of these, images or weights are missing or others than it was made for.
    """

    def __init__(self, path: Path | str, device: torch.device | str) -> None:
        self.path = Path(path)
        content = _read(self.path)
        self.images = open_arrays(self.path.parent / content["images"], IMAGES)
        weights = content["weights"] and self.path.parent / content["weights"]
        from vrpo.models.encoder import (
            load_encoder,
        )  # where stored features are used, nothing of timm is needed

        options = SimpleNamespace(**content["options"])
        self.encoder = load_encoder(options, weights, device)
        self.attributes: dict[str, Any] = content["attributes"]
        self._shapes = {
            name: (self.images.shape("images")[0], *shape)
            for name, shape in content["shapes"].items()
        }
        self._device, self._batch_size = device, options.batch_size
        now = {"images": self.images.attributes["fingerprint"], "sha256": self.encoder.sha256}
        for what, value in now.items():
            if self.attributes[what] != value:
                raise UserError(
                    f"{self.path}: made for other {'images' if what == 'images' else 'weights'} than there are now; delete it and make it again"
                )

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of what would be stored: `tokens` `[N, T, D]`, `attention` `[N, L, 2, heads, T, D / heads]`.

        Raises:
            UserError: there is nothing of this name.
        """
        if name not in self._shapes:
            raise UserError(
                f"{self.path}: computes no `{name}`, only {', '.join(self._shapes)}; mend the encoder's options"
            )
        return self._shapes[name]

    @torch.no_grad()
    def encode(self, pixels: Tensor, name: str) -> Tensor:
        """float32 `[B, ...]` of images uint8 `[B, H, W, 3]`: `tokens` or `attention`; on the device of the images."""
        make = self.encoder.tokens if name == "tokens" else self.encoder.attention
        parts = [
            make(part.to(self._device).permute(0, 3, 1, 2).contiguous())
            for part in pixels.split(self._batch_size)
        ]
        return torch.cat(parts).to(pixels.device)

    @property
    def fingerprint(self) -> str:
        """Hash of what the tokens are made by and from."""
        return layout_key(
            {name: (shape, np.float32) for name, shape in self._shapes.items()}, self.attributes
        )


def describe_features(
    path: Path,
    images: Path,
    weights: Path | None,
    options: Mapping[str, Any],
    encoder: VisualEncoder,
    attributes: Mapping[str, Any],
) -> str:
    """The content of a file that `OnlineFeatures` reads; places are relative to `path`.

    Args:
        path: where it will lie.
        images: stored images.
        weights: weights of the encoder, or None.
        options: of the encoder.
        encoder: built from them.
        attributes: as of stored features.
    """
    arrays = open_arrays(images, IMAGES)
    side = arrays.shape("images")[1]
    device = next(encoder.parameters()).device
    example = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
    shapes = {"tokens": list(encoder.tokens(example).shape[1:])}
    if encoder.attention_layers:
        shapes["attention"] = list(encoder.attention(example).shape[1:])
    places = {"images": _relative(images, path), "weights": weights and _relative(weights, path)}
    return (
        as_json(
            {
                "kind": KIND,
                **places,
                "options": dict(options),
                "shapes": shapes,
                "attributes": dict(attributes),
            }
        )
        + "\n"
    )


def open_features(path: Path | str, device: torch.device | str) -> Path | OnlineFeatures:
    """Features to give `TrainingData`: the path of stored ones as it is, or those that are computed when a batch is taken.

    Raises:
        UserError: as of `OnlineFeatures`.
    """
    return OnlineFeatures(path, device) if Path(path).suffix == ".json" else Path(path)


def _relative(target: Path, path: Path) -> str:
    return os.path.relpath(Path(target).resolve(), path.parent.resolve())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); run the stage that makes it (`snakemake {path}`)"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path}: does not say how features are computed; give the output of `encode-features` with `features: online`"
        )
    return content
