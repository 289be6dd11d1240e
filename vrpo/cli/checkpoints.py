"""Commands of the checkpoints: weights of the official codes, read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.arguments import Output, Weights, require_one_of

app = typer.Typer()


@app.command("import-checkpoint", rich_help_panel="Checkpoints")
def import_checkpoint(
    file: Annotated[
        Path,
        typer.Argument(
            help="official .pt or .safetensors file of DiT, SiT, REPA, iREPA, REPA-E, HASTE or "
            "REG; or the folder of a DiTPipeline of diffusers"
        ),
    ],
    output: Output,
    family: Annotated[
        str | None,
        typer.Option(
            help="dit, sit, repa, irepa, haste or reg: whose code wrote it; default: the file's"
        ),
    ] = None,
    weights: Annotated[str, typer.Option(help="ema or model: averaged or plain weights")] = "ema",
    heads: Annotated[
        int | None, typer.Option(help="attention heads, for sizes other than the papers'", min=1)
    ] = None,
    run: Annotated[str | None, typer.Option(help="its name in tables; default: the file's")] = None,
    step: Annotated[
        int | None, typer.Option(help="training steps; default: the file's", min=0)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="training seed; default: the file's", min=0)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="what it must be, e.g. SiT-XL/2; anything else is refused")
    ] = None,
) -> Path:
    """Convert an official checkpoint to a milestone that `sample` takes."""
    from vrpo.config.runs import FAMILIES
    from vrpo.models import official

    require_one_of("--family", family, (None, *FAMILIES))
    require_one_of("--weights", weights, ("ema", "model"))
    official.import_checkpoint(
        file,
        output,
        family=family,
        weights=weights,
        heads=heads,
        run=run,
        step=step,
        seed=seed,
        model=model,
    )
    return output


@app.command("export-checkpoint", rich_help_panel="Checkpoints")
def export_checkpoint(
    milestone: Annotated[Path, typer.Argument(help="weights of a run at a milestone")],
    output: Output,
    family: Annotated[
        str | None,
        typer.Option(
            help="dit, sit, repa, irepa, haste or reg: whose code will read it; "
            "default: the milestone's"
        ),
    ] = None,
) -> Path:
    """Write a milestone as a `.pt` file that the scripts of the official code load."""
    from vrpo.config.runs import FAMILIES
    from vrpo.models import official

    require_one_of("--family", family, (None, *FAMILIES))
    official.export_checkpoint(milestone, output, family=family)
    return output


@app.command("export-pipeline", rich_help_panel="Checkpoints")
def export_pipeline(
    milestone: Annotated[Path, typer.Argument(help="weights of a run of DiT at a milestone")],
    output: Annotated[Path, typer.Option("--output", help="folder to write")],
    tokenizer: Annotated[
        Path, typer.Option(help="resolved config of the tokenizer, `config/tokenizer.yaml`")
    ],
    weights: Weights = None,
) -> Path:
    """Write a milestone of DiT and its VAE as a folder for `DiTPipeline.from_pretrained`."""
    from vrpo.config import load_resolved
    from vrpo.config.networks import TokenizerOptions
    from vrpo.models.diffusers_dit import export_pipeline as export
    from vrpo.models.tokenizer import load_tokenizer

    options = load_resolved(TokenizerOptions, tokenizer)
    export(milestone, load_tokenizer(options, weights, "cpu"), output)
    return output
