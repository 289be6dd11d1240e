"""All that is random about sampled images: a generator for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from vrpo.models.entangled import JointState
from vrpo.seeds import torch_generator


class ImageDraws:
    """All that is random about the images `numbers`.

    One CPU generator an image gives its label, then its normal draws [*shape] in order.
    """

    def __init__(
        self,
        seed: int,
        numbers: range,
        shape: tuple[int, ...],
        device: torch.device,
        purpose: str = "sample",
    ) -> None:
        self.numbers, self.shape, self.device = numbers, shape, device
        self.key = purpose, seed
        self.generators = [torch_generator(purpose, seed, number) for number in numbers]

    def again(self, candidate: int) -> ImageDraws:
        """Other normal draws for the same images, a sequence of its own for each `candidate`."""
        purpose, seed = self.key
        purpose = f"{purpose}-candidate-{candidate}"
        return ImageDraws(seed, self.numbers, self.shape, self.device, purpose)

    def labels(self, kind: str, num_classes: int) -> Tensor:
        """Classes [B] int64: `random`, uniform and drawn first; `balanced`, in turn, not drawn."""
        if kind == "balanced":
            return torch.tensor([each % num_classes for each in self.numbers], device=self.device)
        drawn = [torch.randint(num_classes, (1,), generator=each) for each in self.generators]
        return torch.cat(drawn).to(self.device)

    def normal(self) -> Tensor:
        """The next standard normal draw of every image [B,*shape] float32."""
        on_gpu = self.device.type == "cuda"
        draws = torch.empty(len(self.generators), *self.shape, pin_memory=on_gpu)
        for draw, generator in zip(draws, self.generators, strict=True):
            draw.normal_(generator=generator)
        return draws.to(self.device, non_blocking=True)


class JointDraws:
    """Draws [B,C+K,h,w] of latents, equal to those of another network, with a class token."""

    def __init__(self, latents: ImageDraws, joint: JointState) -> None:
        purpose, seed = latents.key
        self.latents, self.joint = latents, joint
        self.tokens = ImageDraws(
            seed, latents.numbers, (joint.width,), latents.device, f"{purpose}-class-token"
        )

    def again(self, candidate: int) -> JointDraws:
        """As of `ImageDraws`."""
        return JointDraws(self.latents.again(candidate), self.joint)

    def normal(self) -> Tensor:
        """As of `ImageDraws`; the padding is zero."""
        return self.joint.pack(self.latents.normal(), self.tokens.normal())
