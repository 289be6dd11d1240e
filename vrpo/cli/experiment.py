"""Commands of a whole experiment: what it needs and costs, and how far it is."""

from __future__ import annotations

from itertools import chain
from typing import Annotated

import typer

from vrpo.cli.arguments import Configs, Device, Threads, chosen_device
from vrpo.errors import UserError

app = typer.Typer()


@app.command("check", rich_help_panel="Experiment")
def check(
    config: Configs,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE, dotted keys, values in YAML, e.g. data.root=/data"),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="download missing weights that the config names")
    ] = False,
    weights_only: Annotated[
        bool,
        typer.Option(
            "--weights-only", help="check weights and custom classes alone, as the workflow does"
        ),
    ] = False,
) -> None:
    """Check an experiment's needs: Snakemake, images, weights, disk, locks, GPUs, compiler."""
    from vrpo.config.reading import read_experiment
    from vrpo.workflow import preflight
    from vrpo.workflow.class_checks import class_checks

    experiment = read_experiment(config, settings or [])
    if not fetch:
        preflight.forbid_downloads()
    chosen = preflight.all_checks(experiment, fetch=fetch)
    if weights_only:
        loaded = preflight.weight_checks(experiment, fetch=fetch)
        chosen = chain(loaded, class_checks(experiment))
    rows = preflight.findings(chosen)
    if rows:
        typer.echo(preflight.table(rows))
    missing = [row.found for row in rows if row.is_missing]
    if not missing:
        return
    if not fetch and any("weights" in found for found in missing):
        typer.echo("`--fetch` downloads weights that the config names, where there is a network.")
    others = f" ({len(missing) - 1} more are missing: `vrpo check` lists them)"
    raise UserError(missing[0] + (others if len(missing) > 1 else ""))


@app.command("cost", rich_help_panel="Experiment")
def cost(
    config: Configs,
    images: Annotated[
        int | None,
        typer.Option(help="training images; default: the manifest's count, or ImageNet's", min=1),
    ] = None,
) -> None:
    """Compute the GPU hours and the disk that an experiment takes."""
    from vrpo.config import load_experiment
    from vrpo.report.cost import describe_cost

    typer.echo(describe_cost(load_experiment(*config), images=images))


@app.command("check-compiler", rich_help_panel="Experiment")
def check_compiler(device: Device = "auto", threads: Threads = 1) -> None:
    """Check that `torch.compile` works, as the workflow does for `compile: true`."""
    from vrpo.runtime.compiler import require_compiler

    require_compiler(chosen_device(device, threads), "training.compile, samplers.<name>.compile")
