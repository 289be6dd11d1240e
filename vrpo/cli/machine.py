"""Commands about this machine."""

from __future__ import annotations

import typer

from vrpo.cli.arguments import Device, Threads, chosen_device

app = typer.Typer()


@app.command("check-compiler")
def check_compiler(device: Device = "auto", threads: Threads = 1) -> None:
    """See that `torch.compile` works here, for configs with `compile: true`; the workflow does so before its first job."""
    from vrpo.training.compiler import require_compiler

    require_compiler(chosen_device(device, threads), "training.compile, samplers.<name>.compile")
