"""Training images as a network sees them at a given noise level."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vrpo.data.batches import LatentBatch
from vrpo.models.entangled import JointState
from vrpo.processes.process import Process


def noised_images(
    batch: LatentBatch,
    class_token: Tensor | None,
    process: Process,
    joint: JointState | None,
    t: Tensor,
    draw: Callable[..., Tensor],
) -> Tensor:
    """Input of a network: noised latents [B,C,h,w], or the joint state with a class token.

    Args:
        batch: of B images, on the CPU.
        class_token: theirs [B,D], where the network denoises one.
        process: that noises.
        joint: as the network has it.
        t: times [B], on the network's device.
        draw: gives standard normal draws [B,2,*shape] for (shape, *purpose), on the CPU: of the
            VAE's posterior and of the noise.
    """
    latent = draw(batch.mean.shape[1:])
    x0 = (batch.mean + batch.std * latent[:, 0]).to(t.device)
    x_t = process.corrupt(x0, latent[:, 1].to(t.device), t)
    if joint is None or class_token is None:
        return x_t
    noise = draw((joint.width,), "class-token")[:, 1]
    return joint.noised(x_t, class_token.to(t.device), noise.to(t.device), t, process.corrupt)
