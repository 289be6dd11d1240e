"""Table of visual encoders for images of 256 pixels: config values and timm's expectations.

`docs/encoders.md` is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from vrpo.files import write_text_if_changed

IMAGE = 256  # pixels of the training images, whose latents are 32 x 32
GRID = 16  # tokens along a side: of those latents at patch 2, and of the encoder


@dataclass(frozen=True)
class Encoder:
    """A visual encoder for images of 256 pixels: it gives `GRID` x `GRID` tokens."""

    name: str
    architecture: str
    """timm's name; its tag says which weights."""
    patch: int
    """Side of a patch, in pixels."""
    width: int
    """Channels of a token."""
    prefix: int
    """Class and register tokens, which are left out."""
    note: str = ""

    @property
    def image_size(self) -> int:
        """Side of the image fed to it, in pixels."""
        return GRID * self.patch

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std per channel, for values in [0, 1], that timm states."""
        config = timm.models.get_pretrained_cfg(self.architecture)
        return tuple(config.mean), tuple(config.std)

    def options(self) -> dict[str, Any]:
        """Its row under `encoders` in a config."""
        return {"architecture": self.architecture, "image_size": self.image_size}


CLIP_NOTE = "REPA takes CLIP's tokens before the final norm, this pipeline after it"
MOCO_NOTE = (
    "timm has no weights of MoCo v3; DINO's network is the same. Save `module.base_encoder.*` of "
    "its checkpoint, without that prefix and without `head`, as safetensors and name the file in "
    "`weights`"
)
ENCODERS = (
    Encoder("dinov2-s", "vit_small_patch14_dinov2.lvd142m", 14, 384, 1),
    Encoder("dinov2-b", "vit_base_patch14_dinov2.lvd142m", 14, 768, 1, "REPA's default"),
    Encoder("dinov2-l", "vit_large_patch14_dinov2.lvd142m", 14, 1024, 1),
    Encoder("dinov2-g", "vit_giant_patch14_dinov2.lvd142m", 14, 1536, 1),
    Encoder("dinov2-b-reg", "vit_base_patch14_reg4_dinov2.lvd142m", 14, 768, 5),
    Encoder("dinov2-l-reg", "vit_large_patch14_reg4_dinov2.lvd142m", 14, 1024, 5),
    Encoder("dinov2-g-reg", "vit_giant_patch14_reg4_dinov2.lvd142m", 14, 1536, 5),
    Encoder("dinov3-s", "vit_small_patch16_dinov3.lvd1689m", 16, 384, 5, "rotary positions"),
    Encoder("dinov3-b", "vit_base_patch16_dinov3.lvd1689m", 16, 768, 5, "rotary positions"),
    Encoder("dinov3-l", "vit_large_patch16_dinov3.lvd1689m", 16, 1024, 5, "rotary positions"),
    Encoder("dino-b", "vit_base_patch16_224.dino", 16, 768, 1),
    Encoder("mocov3-b", "vit_base_patch16_224.dino", 16, 768, 1, MOCO_NOTE),
    Encoder("mae-b", "vit_base_patch16_224.mae", 16, 768, 1),
    Encoder("mae-l", "vit_large_patch16_224.mae", 16, 1024, 1),
    Encoder("clip-b", "vit_base_patch16_clip_quickgelu_224.openai", 16, 768, 1, CLIP_NOTE),
    Encoder("clip-l", "vit_large_patch14_clip_quickgelu_224.openai", 14, 1024, 1, CLIP_NOTE),
    Encoder("siglip-b", "vit_base_patch16_siglip_256.webli", 16, 768, 0),
    Encoder("siglip2-b", "vit_base_patch16_siglip_256.v2_webli", 16, 768, 0),
    Encoder("siglip-so400m", "vit_so400m_patch14_siglip_224.webli", 14, 1152, 0),
    Encoder("ijepa-h", "vit_huge_patch14_gap_224.in1k_ijepa", 14, 1280, 0),
    Encoder("ijepa-g", "vit_giant_patch16_gap_224.in22k_ijepa", 16, 1408, 0),
)

HEADER = f"""# Encoders

To align with another visual encoder, copy its `architecture` and `image_size` from the table into
your config:

```yaml
encoders:
  dinov2-b: {{architecture: vit_base_patch14_dinov2.lvd142m, image_size: 224}}
```

The table has encoders for images of {IMAGE} pixels. Any other vision transformer of timm works as
well. At patch 2 the transformers have {GRID} x {GRID} tokens, and the encoder must have as many, so
its input size is {GRID} patches.

Images are divided by 255, resized (bicubic, antialiased) to the input size and normalised by the
mean and deviation of the encoder's training. Tokens are taken after the last norm, without class
and register tokens. Learned position embeddings are resampled to the grid (bicubic, antialiased)
when the weights are loaded, as in REPA.

`vrpo docs` generates this page from `vrpo/models/encoder_table.py`.

| name | `architecture` | `image_size` | patch | tokens | left out | mean | deviation | |
|---|---|---|---|---|---|---|---|---|
"""


def write_encoder_docs(folder: Path | str) -> list[Path]:
    """Write `encoders.md` into `folder`; returns it if its content changed."""
    rows = "".join(f"| {' | '.join(cells)} |\n" for cells in _rows())
    path = Path(folder) / "encoders.md"
    return [path] if write_text_if_changed(path, HEADER + rows) else []


def _rows() -> Iterator[list[str]]:
    for encoder in ENCODERS:
        mean, deviation = (
            ", ".join(f"{value:.3f}" for value in values) for values in encoder.normalisation
        )
        tokens = f"{GRID} x {GRID} x {encoder.width}"
        sizes = [str(encoder.image_size), str(encoder.patch), tokens, str(encoder.prefix)]
        name, architecture = encoder.name, f"`{encoder.architecture}`"
        yield [name, architecture, *sizes, mean, deviation, encoder.note]
