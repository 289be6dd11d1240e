"""Arguments that several commands take, and the line about what a command wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrpo.errors import UserError
from vrpo.runtime.ranks import is_first, own_threads

if TYPE_CHECKING:
    import torch

Config = Annotated[Path, typer.Option("--config", help="resolved config of the stage (YAML)")]
Configs = Annotated[
    list[Path], typer.Option("--config", help="config file; several are merged, later ones win")
]
Output = Annotated[Path, typer.Option("--output", help="file to write")]
Images = Annotated[Path, typer.Option("--images", help="folder of the images, or one .h5 file")]
Latents = Annotated[Path, typer.Option("--latents", help="folder of the latents, or one .h5 file")]
Features = Annotated[
    Path,
    typer.Option("--features", help="features of one encoder: a file, or the folder of its shards"),
]
FeaturesByEncoder = Annotated[
    list[str] | None,
    typer.Option("--features", help="ENCODER=FILE, once for each encoder that is used"),
]
Milestone = Annotated[
    Path, typer.Option("--milestone", help="weights of a run at a milestone, ours or imported")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="weights of a trained network; default: the config's pretrained ones"
    ),
]
ExtraWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--extra-weights", help="NAME=FILE, for each trained network of evaluation.extra_networks"
    ),
]
Collected = Annotated[Path, typer.Option("--collected", help="folder of the collected results")]
Tracking = Annotated[
    Path | None, typer.Option("--tracking", help="resolved config of trackers and previews")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]
Threads = Annotated[
    int,
    typer.Option(
        "--threads",
        help="CPU threads of all ranks; equal numbers give equal bits on one kind of processor",
        min=1,
    ),
]


def chosen_device(name: str, threads: int) -> torch.device:
    """The device that `name` means, and PyTorch told of the number of CPU threads."""
    from vrpo.runtime.distributed import choose_device

    use_threads(threads)
    return choose_device(name)


def use_threads(threads: int) -> None:
    """Let PyTorch compute on this rank's share of a job's CPU threads."""
    import torch

    torch.set_num_threads(own_threads(threads))


def pairs_of(option: str, values: list[str]) -> dict[str, Path]:
    """`NAME=FILE` arguments as a mapping."""
    pairs = dict(value.partition("=")[::2] for value in values)
    if not all(pairs.values()):
        raise UserError(f"{option}: {' '.join(values)} is not of the form NAME=FILE")
    return {name: Path(path) for name, path in pairs.items()}


def require_one_of(option: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    """Raise a `UserError` where `value` is not allowed."""
    if value not in allowed:
        raise UserError(f"{option}: `{value}` is none of {', '.join(filter(None, allowed))}")


def announce(written: Path | list[Path] | None) -> None:
    """Print a line about the files and folders that a command returned, those that it wrote."""
    paths = [written] if isinstance(written, Path) else written or []
    if paths and is_first():
        typer.echo(f"wrote {', '.join(f'{path} ({_extent(path)})' for path in paths)}")


def _extent(path: Path) -> str:
    """Number of a folder's files, or size of a file."""
    if path.is_dir():
        files = sum(inner.is_file() for inner in path.glob("[!.]*"))
        return f"{files:,} files" if files != 1 else "1 file"
    size = float(path.stat().st_size)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
