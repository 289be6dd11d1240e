"""Encoder tokens computed from the images of each batch, where there is no disk to cache them."""

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
    """Takes the place of stored features: rows of the images are read, `encode` makes tokens.

    Args:
        path: file of `describe_features`.
        device: where the encoder computes.

    Raises:
        UserError: the file is no such description; images or weights are missing or have changed.
    """

    def __init__(self, path: Path | str, device: torch.device | str) -> None:
        self.path = Path(path)
        content = _read(self.path)
        self.images = open_arrays(self.path.parent / content["images"], IMAGES)
        weights = content["weights"] and self.path.parent / content["weights"]
        from vrpo.models.encoder import load_encoder  # stored features do without timm

        # files of earlier versions do not name the class token
        options = SimpleNamespace(**{"class_token": False, **content["options"]})
        self.encoder = load_encoder(options, weights, device)
        self.attributes: dict[str, Any] = content["attributes"]
        count = self.images.shape("images")[0]
        self._shapes = {name: (count, *shape) for name, shape in content["shapes"].items()}
        self._device, self._batch_size = device, options.batch_size
        now = {"images": self.images.attributes["fingerprint"], "sha256": self.encoder.sha256}
        for what, value in now.items():
            if self.attributes[what] != value:
                changed = "images" if what == "images" else "weights"
                raise UserError(
                    f"{self.path}: made for other {changed} than there are now; "
                    "delete it and rebuild it"
                )

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape as if stored: `tokens` [N, T, D], `class_token` [N, D], or `attention`
        [N, L, 2, heads, T, D / heads].

        Raises:
            UserError: there is nothing of this name.
        """
        if name not in self._shapes:
            raise UserError(
                f"{self.path}: computes no `{name}`, only {', '.join(self._shapes)}; "
                "fix the encoder's options"
            )
        return self._shapes[name]

    @torch.no_grad()
    def encode(self, pixels: Tensor, name: str) -> Tensor:
        """The values of `shape` float32 [B, ...] of images uint8 [B, H, W, 3], on that device."""
        makers = {
            "tokens": self.encoder.tokens,
            "attention": self.encoder.attention,
            "class_token": lambda images: self.encoder.with_class_token(images)[1],
        }
        make = makers[name]
        parts = [
            make(part.to(self._device).permute(0, 3, 1, 2).contiguous())
            for part in pixels.split(self._batch_size)
        ]
        return torch.cat(parts).to(pixels.device)

    @property
    def fingerprint(self) -> str:
        """Hash of the tokens' shapes and of what they are computed by and from."""
        shapes = {name: (shape, np.float32) for name, shape in self._shapes.items()}
        return layout_key(shapes, self.attributes)


def describe_features(
    path: Path,
    images: Path,
    weights: Path | None,
    options: Mapping[str, Any],
    encoder: VisualEncoder,
    attributes: Mapping[str, Any],
) -> str:
    """The content of a file that `OnlineFeatures` reads; paths in it are relative to `path`.

    Args:
        path: where it will be.
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
    if attributes.get("class_token"):
        shapes["class_token"] = list(encoder.with_class_token(example)[1].shape[1:])
    content = {
        "kind": KIND,
        "images": _relative(images, path),
        "weights": weights and _relative(weights, path),
        "options": dict(options),
        "shapes": shapes,
        "attributes": dict(attributes),
    }
    return as_json(content) + "\n"


def open_features(path: Path | str, device: torch.device | str) -> Path | OnlineFeatures:
    """Features for `TrainingData`: the path of stored ones, or `OnlineFeatures` of a .json file.

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
            f"{path}: does not say how features are computed; "
            "give the output of `encode-features` with `features: online`"
        )
    return content
