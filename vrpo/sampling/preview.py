"""Sample grids of a network in training: the averaged weights, drawn by seeds of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from vrpo.config.guidance import GuidanceOptions
from vrpo.config.scoring import SamplerOptions
from vrpo.data.batches import TrainingData
from vrpo.models.normalisation import check_normalisation, recorded_normalisation
from vrpo.models.tokenizer import load_tokenizer
from vrpo.processes.registry import build_process
from vrpo.processes.samplers import check_sampler
from vrpo.sampling.decoding import DecodedBatch
from vrpo.sampling.draws import ImageDraws
from vrpo.sampling.generate import check_channels, sample_latents
from vrpo.sampling.network import SamplingNetwork

if TYPE_CHECKING:
    from vrpo.config import RunConfig
    from vrpo.config.networks import TokenizerOptions
    from vrpo.config.tracking import PreviewOptions

KINDS = {"interpolant": "ode-heun", "ddpm": "ddim"}
AT_ONCE = 32  # images in the transformer


class PreviewSampler:
    """Samples the images of a preview, the same noise and classes at every step.

    It neither draws from PyTorch's own generators nor changes a weight.
    """

    def __init__(
        self,
        options: PreviewOptions,
        tokenizer: TokenizerOptions,
        tokenizer_weights: Path | None,
        run: RunConfig,
        data: TrainingData,
        device: torch.device,
    ) -> None:
        """Load the tokenizer that decodes.

        Args:
            options: of the previews.
            tokenizer: the VAE.
            tokenizer_weights: its file if it was trained here, else None.
            run: the run in training.
            data: its data.
            device: where to compute.

        Raises:
            UserError: the tokenizer is missing, or is not that of the latents.
        """
        self.device, self.seed, self.shape = device, run.seed, data.latent_shape
        self.process = build_process(run.process)
        self.options = SamplerOptions(
            kind=KINDS[run.process.kind],
            steps=options.steps,
            guidance=GuidanceOptions(scale=options.guidance),
            precision="bf16" if run.training.precision == "bf16" else "fp32",
        )
        check_sampler(self.process, self.options)
        self.labels = torch.tensor(options.labels(run.model.num_classes), device=device)
        with self._own_draws():  # initial weights
            self.decoder = load_tokenizer(tokenizer, tokenizer_weights, device)
        latents = data.latents
        check_channels(self.shape[0], self.decoder, latents.path)
        recorded = recorded_normalisation(latents.attributes)
        if recorded is not None:
            described = {"normalisation": recorded._asdict()}
            named = f"the tokenizer `{tokenizer.weights}`"
            check_normalisation(described, self.decoder.normalisation, latents.path, named)

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> np.ndarray:
        """Images uint8 [N,H,W,3] of a network in evaluation mode."""
        called, images = SamplingNetwork(network, self.options.precision), []
        with self._own_draws():
            for start in range(0, len(self.labels), AT_ONCE):
                labels = self.labels[start : start + AT_ONCE]
                numbers = range(start, start + len(labels))
                draws = ImageDraws(self.seed, numbers, self.shape, self.device, "preview")
                latents = sample_latents(self.options, called, self.process, labels, draws)
                batch = DecodedBatch(slice(start, start + len(labels)), len(labels))
                batch.decode(self.decoder, latents.nan_to_num(), labels, self.options.rounding)
                batch.wait()
                images.append(batch.images)
        return torch.cat(images).numpy()

    def _own_draws(self) -> torch.random.fork_rng:
        """PyTorch's generators as they were, whatever a custom network or a new one draws."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])
