"""A toy training: random latents and features, a two-block network, and the command line that trains it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from vrpo.config import RunConfig
from vrpo.config.messages import validate
from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.models.checkpoints import save_network
from vrpo.models.critic import LatentCritic

COUNT, LATENT, TOKENS = 50, (4, 4, 4), (4, 8)

ALIGNMENTS: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "repa": {"kind": "repa", "encoders": ["toy"], "depth": 1, "projector_width": 16},
    "contrastive": {"kind": "contrastive", "encoders": ["toy"], "depth": 1, "projector_width": 16},
    "vrpo": {
        "kind": "vrpo",
        "encoders": ["toy"],
        "depth": 1,
        "projector_width": 16,
        "eta": 0.1,
        "group_size": 4,
        "least_rollouts": 3,  # the deviation of two that are alike is rounding enlarged
        "rewards": {
            "fidelity": {"score": 1.0},
            "perceptual": {"score": 1.0, "pathwise": 0.05},
            "semantic": {"score": 1.0},
        },
    },
}
ALIGNMENTS["replaced"] = {  # VRPO without the static term
    **ALIGNMENTS["vrpo"],
    "beta": 0.0,
    "rewards": {**ALIGNMENTS["vrpo"]["rewards"], "semantic": {"score": 1.0, "pathwise": 0.1}},
}
ALIGNMENTS["everything"] = {  # VRPO with all that looks beyond one rollout
    **ALIGNMENTS["vrpo"],
    "measure_agreement": True,
    "grouping": "image",
    "old_policy": "ema",
    "kappa": 5.0,
    "clip": 0.05,
}
PROCESSES = {"sit": {"kind": "interpolant"}, "dit": {"kind": "ddpm"}}


class Toy:
    """Inputs of a toy training in a folder, and ways to run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latents, self.features, self.critic = (
            folder / "latents.h5",
            folder / "features.h5",
            folder / "critic.safetensors",
        )
        generator = np.random.default_rng(0)
        shapes = {
            "mean": ((COUNT, *LATENT), "float32"),
            "std": ((COUNT, *LATENT), "float32"),
            "labels": ((COUNT,), "int64"),
        }
        with ArrayWriter(self.latents, shapes, {"images": "toy"}) as writer:
            labels = generator.integers(0, 3, COUNT)
            mean = generator.standard_normal((3, *LATENT), dtype=np.float32)[
                labels
            ]  # one image a class: something to learn
            writer.write(0, {"mean": mean, "std": np.full_like(mean, 0.1), "labels": labels})
            writer.finish()
        with ArrayWriter(
            self.features, {"tokens": ((COUNT, *TOKENS), "float16")}, {"images": "toy"}
        ) as writer:
            writer.write(
                0, {"tokens": generator.standard_normal((COUNT, *TOKENS)).astype(np.float16)}
            )
            writer.finish()
        torch.manual_seed(0)
        critic = LatentCritic(LATENT, TOKENS, width=8, depth=1)
        sources = {
            "latents": Arrays(self.latents).fingerprint,
            "features": Arrays(self.features).fingerprint,
        }
        save_network(
            self.critic,
            critic.state_dict(),
            {
                "kind": "critic",
                "latent_shape": LATENT,
                "tokens": TOKENS,
                "width": 8,
                "depth": 1,
                **sources,
            },
        )

    def config(self, alignment: str = "vrpo", process: str = "sit", **training: Any) -> RunConfig:
        """A resolved run; `training` overrides optimisation options."""
        content = {
            "run": f"{process}-{alignment}",
            "seed": 3,
            "model": {
                "name": "toy",
                "depth": 2,
                "width": 16,
                "heads": 2,
                "patch_size": 2,
                "num_classes": 3,
            },
            "process": PROCESSES[process],
            "alignment": ALIGNMENTS[alignment],
            "training": {"batch_size": 8, "learning_rate": 1e-3, "ema_decay": 0.9, **training},
        }
        return validate(RunConfig, content, "toy")

    def inputs(self, config: RunConfig) -> dict[str, Any]:
        """Keyword arguments of `vrpo.training.run.train` for `config`."""
        aligned = config.alignment.kind != "none"
        return {
            "latents": self.latents,
            "features": {"toy": self.features} if aligned else {},
            "critics": {"toy": self.critic} if config.alignment.kind == "vrpo" else {},
        }

    def command(
        self, config: RunConfig, run: Path, milestone: int, *extra: str, ranks: int = 1
    ) -> list[str]:
        """The command that trains `config` in the folder `run`."""
        run.mkdir(parents=True, exist_ok=True)
        file = run / "config.yaml"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        launcher = ["vrpo.launch", str(ranks)] if ranks > 1 else ["vrpo"]
        command = [
            sys.executable,
            "-m",
            *launcher,
            "train",
            "--config",
            str(file),
            "--latents",
            str(self.latents),
            "--device",
            "cpu",
        ]
        if config.alignment.kind != "none":
            command += ["--features", f"toy={self.features}"]
        if config.alignment.kind == "vrpo":
            command += ["--critic", f"toy={self.critic}"]
        return [
            *command,
            "--milestone",
            str(milestone),
            "--output",
            str(milestone_file(run, milestone)),
            "--log-every",
            "5",
            *extra,
        ]

    def run(self, *arguments: Any, **keywords: Any) -> subprocess.CompletedProcess[str]:
        """Run `command(...)` to its end."""
        return subprocess.run(
            self.command(*arguments, **keywords), capture_output=True, text=True, check=False
        )

    def drive(self, milestone: int, what: str, number: int, *runs: Path) -> list[int]:
        """Run `forking.py`: trainings in forked processes that are killed, or on several ranks; what it counts or their exit codes."""
        (self.folder / "again").mkdir(exist_ok=True)
        command = [
            sys.executable,
            str(Path(__file__).with_name("forking.py")),
            str(self.folder / "again"),
            str(milestone),
            what,
            str(number),
            *map(str, runs),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        }
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr
        return [int(word) for word in result.stdout.split()]


def milestone_file(run: Path, milestone: int) -> Path:
    return run / f"step{milestone:07d}.safetensors"
