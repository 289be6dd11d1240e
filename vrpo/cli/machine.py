"""Commands about this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.arguments import Device, Threads, chosen_device
from vrpo.errors import UserError

app = typer.Typer()


@app.command("check")
def check(
    config: Annotated[
        list[Path],
        typer.Option(help="the experiment's config file; several are merged, later ones win"),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="OPTION=VALUE as after snakemake's --config, e.g. data='{root: /data}'"
        ),
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch", help="download the weights that the config names and that are not here yet"
        ),
    ] = False,
    weights_only: Annotated[
        bool,
        typer.Option(
            "--weights-only",
            help="check the weights alone, as the workflow does before its first job",
        ),
    ] = False,
) -> None:
    """Check what an experiment needs before it starts: images, weights, disk, locks, GPUs, compiler."""
    from vrpo import preflight
    from vrpo.config import merge_configs, parse_experiment

    experiment = parse_experiment(
        merge_configs(config, settings or []), " + ".join(map(str, config))
    )
    if not fetch:
        preflight.forbid_downloads()
    checks = (
        preflight.weight_checks(experiment, fetch=fetch)
        if weights_only
        else preflight.all_checks(experiment, fetch=fetch)
    )
    rows = preflight.findings(checks)
    if rows:
        typer.echo(preflight.table(rows))
    missing = [row for row in rows if row.is_missing]
    if missing:
        if not fetch and any("weights" in row.found for row in missing):
            typer.echo(
                "`--fetch` downloads weights that the config names, where there is a network."
            )
        more = (
            f" ({len(missing) - 1} more are missing: `python -m vrpo check` lists them)"
            if len(missing) > 1
            else ""
        )
        raise UserError(f"{missing[0].found}{more}")


@app.command("check-compiler")
def check_compiler(device: Device = "auto", threads: Threads = 1) -> None:
    """See that `torch.compile` works here, for configs with `compile: true`; the workflow does so before its first job."""
    from vrpo.runtime.compiler import require_compiler

    require_compiler(chosen_device(device, threads), "training.compile, samplers.<name>.compile")
