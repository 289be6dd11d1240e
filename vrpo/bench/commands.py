"""`bench train` and `bench sample` on the command line, without typer."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from vrpo.bench import against_published, sample, train
from vrpo.bench.paper import ALIGNMENTS, paper_model
from vrpo.config.training import TrainingOptions
from vrpo.models.attention import SWITCHES
from vrpo.runtime.compiler import require_compiler
from vrpo.runtime.distributed import choose_device

PRECISIONS = ("bf16", "fp32")
OPTION = argparse.SUPPRESS  # the default of `training` in a config


def train_command(arguments: Sequence[str], program: str) -> str:
    """Run `bench train` with `arguments`, called as `program`; returns what is shown.

    Raises:
        UserError: a model, alignment or setting that does not exist.
    """
    parser = _parser(
        program,
        "Training speed on synthetic data: images/s, the parts of a step, share of the matrix peak, memory; needs no files.",
    )
    parser.add_argument(
        "--alignment",
        default="none,repa,vrpo",
        help=f"of {', '.join(ALIGNMENTS)}: separated by commas, timed in turn",
    )
    parser.add_argument(
        "--batch",
        dest="batch_size",
        type=_positive,
        default=OPTION,
        help="samples in a step; a multiple of 8 for VRPO",
    )
    parser.add_argument(
        "--accumulation", type=_positive, default=OPTION, help="micro-batches of a step"
    )
    parser.add_argument("--steps", type=_positive, default=10, help="steps in a row")
    parser.add_argument("--rounds", type=_positive, default=5, help="times that each has its turn")
    parser.add_argument(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        default=OPTION,
        help="TensorFloat-32 for what is computed in fp32",
    )
    parser.add_argument(
        "--activation-checkpointing",
        action="store_true",
        default=OPTION,
        help="compute activations again in the backward pass",
    )
    parser.add_argument(
        "--critic",
        type=_width_and_depth,
        default=(128, 4),
        help="width x depth of the latent critic of vrpo-perceptual, e.g. 128x4",
    )
    parser.add_argument(
        "--samples",
        type=_positive,
        default=2048,
        help="samples in the synthetic data set, 0.2 MB each",
    )
    parser.add_argument(
        "--against-published",
        action="store_true",
        help="REPA in turn with the published training loop instead",
    )
    parser.add_argument(
        "--published-precision", choices=PRECISIONS, default="fp32", help="that loop's"
    )
    parser.add_argument("--workers", type=int, default=4, help="that loop's reading processes")
    given = parser.parse_args(arguments)
    model, device = paper_model(given.model, given.critic), _device(given)
    names = TrainingOptions.model_fields
    settings = TrainingOptions(
        **{name: value for name, value in vars(given).items() if name in names}
    )
    clocked = {
        "steps": given.steps,
        "rounds": given.rounds,
        "samples": given.samples,
        "output": given.output,
    }
    if given.against_published:
        ratio = against_published.bench_against_published(
            model, settings, given.published_precision, device, workers=given.workers, **clocked
        )
        return against_published.table(ratio)
    return train.table(
        train.bench_train(model, given.alignment.split(","), settings, device, **clocked)
    )


def sample_command(arguments: Sequence[str], program: str) -> str:
    """Run `bench sample` with `arguments`, called as `program`; returns what is shown.

    Raises:
        UserError: a model, sampler or setting that does not exist.
    """
    parser = _parser(
        program,
        "Sampling speed with random weights: images/s, latency of the network, VAE decode, and what 50,000 images take.",
    )
    parser.add_argument(
        "--sampler",
        choices=("sde", "ode-euler", "ode-heun", "ddpm", "ddim"),
        default="sde",
        help="the first three for SiT, the last two for DiT",
    )
    parser.add_argument("--steps", type=_positive, default=250, help="of the sampler")
    parser.add_argument(
        "--timed-steps",
        type=_positive,
        default=20,
        help="of them that are timed; the rest is as they are",
    )
    parser.add_argument(
        "--batch", dest="batch_size", type=_positive, default=128, help="images at once"
    )
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="guidance scale, at all noise levels; 1: none"
    )
    parser.add_argument(
        "--decode",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time Stable Diffusion's VAE decoder too, where diffusers is installed",
    )
    given = parser.parse_args(arguments)
    given.timed_steps = min(given.timed_steps, given.steps)
    names = {field.name for field in dataclasses.fields(sample.SampleSettings)}
    settings = sample.SampleSettings(
        **{name: value for name, value in vars(given).items() if name in names}
    )
    return sample.table(
        sample.bench_sample(paper_model(given.model), settings, _device(given), given.output)
    )


COMMANDS = {"train": train_command, "sample": sample_command}


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    """With what both commands know."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", default="SiT-XL/2", help="SiT or DiT of the papers")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="of the network")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile"
    )
    parser.add_argument(
        "--attention",
        choices=("auto", *SWITCHES),
        default="auto",
        help="PyTorch's kernel on a GPU; auto: the fastest in a measurement",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where")
    parser.add_argument("--threads", type=_positive, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    return parser


def _device(given: argparse.Namespace) -> torch.device:
    """The device that is asked for, on which code can be compiled if that is asked for, too."""
    logging.getLogger("vrpo").setLevel(logging.INFO)
    torch.set_num_threads(given.threads)
    device = choose_device(given.device)
    if given.compile:
        require_compiler(device, "--compile", "give --no-compile")
    return device


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _width_and_depth(text: str) -> tuple[int, int]:
    width, _, depth = text.partition("x")
    if not (width.isdigit() and depth.isdigit() and int(width) and int(depth)):
        raise argparse.ArgumentTypeError(f"`{text}` is not of the form WIDTHxDEPTH, e.g. 256x4")
    return int(width), int(depth)
