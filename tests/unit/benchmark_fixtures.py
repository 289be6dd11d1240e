"""A made-up method benchmark whose answers are known: its options and its collected folder."""

from pathlib import Path

import pandas as pd

from vrpo.config.benchmark import BenchmarkOptions
from vrpo.config.report import ReportOptions

STEPS = (500, 1000, 2000)
REPORT = ReportOptions(title="A made-up benchmark", metric_space="made up: no images")
CONTENT = {
    "model": "mini/2",
    "processes": ["sit", "dit"],
    "search_seeds": [10, 11],
    "verdict_seeds": [0, 1, 2, 3, 4],
    "validation": "fd_validation",
    "candidates": {"repa": ["repa-a", "repa-b"], "vrpo": ["vrpo-a", "vrpo-b"]},
    "chosen": {"repa": "repa-a", "vrpo": "vrpo-b"},
    "compared": ["none", "repa-a", "haste", "vrpo-b"],
    "diagnosed": {"REPA": "repa-a", "VRPO": "vrpo-b", "VRPO, worse": "vrpo-worse"},
    "ablations": ["vrpo-worse", "vrpo-alike"],
    "ablation_processes": ["sit"],
}
OPTIONS = BenchmarkOptions.model_validate(CONTENT)
KINDS = {
    "none": "none",
    "haste": "haste",
    **{
        name: name.split("-")[0]
        for name in ("repa-a", "repa-b", "vrpo-a", "vrpo-b", "vrpo-worse", "vrpo-alike")
    },
}
FIDS = {
    "none": (32.0, 16.0, 8.0),
    "repa-a": (16.0, 8.0, 4.0),
    "haste": (16.0, 8.0, 4.2),
    "vrpo-b": (8.0, 4.0, 2.0),
    "vrpo-worse": (9.0, 6.0, 5.0),
}
FIDS |= {"vrpo-alike": FIDS["vrpo-b"]}
SEARCHED = {
    "repa-a": 3.02,
    "repa-b": 3.0,
    "vrpo-a": 2.5,
    "vrpo-b": 2.0,
}  # REPA's two are within 1%: the first stands
MODELS = {"sit": ("SiT-mini/2", "interpolant", "ode"), "dit": ("DiT-mini/2", "ddpm", "ddpm")}
WOBBLE = {
    "haste": (0.4, -0.4, 0.2, -0.2, 0.0),
    "vrpo-alike": (0.1, -0.1, 0.2, -0.2, 0.0),
}  # by seed


def metrics_of(options: BenchmarkOptions = OPTIONS) -> pd.DataFrame:
    """Seed k adds nothing but an alignment's wobble: gains of the others are exact."""
    rows = []
    for process in options.processes:
        for run, name in options.search_runs(process).items():
            for seed in options.search_seeds:
                score = (
                    SEARCHED[name]
                    * (1.1 if seed % 2 else 1 / 1.1)
                    * (4 if process == "dit" else 1 / 4)
                )
                rows.append(_row(process, run, name, seed, STEPS[-1], 1.0, score))
        for run, name in {
            **options.compared_runs(process),
            **options.ablation_runs(process),
        }.items():
            for seed in options.verdict_seeds:
                steps = STEPS if name in options.compared else STEPS[-1:]
                for step in steps:
                    fid = FIDS[name][STEPS.index(step)] + WOBBLE.get(name, (0,) * 5)[seed]
                    rows.append(_row(process, run, name, seed, step, fid, fid / 2))
    return pd.DataFrame(rows)


def _row(
    process: str, run: str, name: str, seed: int, step: int, fid: float, validation: float
) -> dict[str, object]:
    model, kind, sampler = MODELS[process]
    names = {"run": run, "model": model, "process": kind, "alignment": name, "kind": KINDS[name]}
    return {
        **names,
        "seed": seed,
        "step": step,
        "sampler": sampler,
        "fid": fid,
        "fd_validation": validation,
    }


def write_collected(folder: Path, metrics: pd.DataFrame) -> Path:
    """What `collect` writes, as far as the benchmark reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics.to_csv(folder / "metrics.csv", index=False)
    trainings = metrics.drop_duplicates(["run", "seed"])[
        ["run", "model", "process", "alignment", "kind", "seed"]
    ]
    rate = trainings["kind"].map({"none": 100.0, "repa": 80.0, "haste": 80.0, "vrpo": 64.0})
    trainings.assign(batch_size=64, images_per_second=rate, seconds=10.0).to_csv(
        folder / "speed.csv", index=False
    )
    logged = [
        {
            **row,
            "step": step,
            "noise_level": level,
            "fidelity": -(0.1 + level) / step,
            "semantic": step / 4000 - level / 8,
            **(
                {"perceptual": step / 3000, "weight": 1.0, "clipped": 0.0, "kl": 1.0 - step / 4000}
                if row["kind"] == "vrpo"
                else {}
            ),
        }
        for row in trainings[trainings["kind"] != "none"].to_dict("records")
        for step in range(200, 2001, 200)
        for level in (0.1, 0.5, 0.9)
    ]
    pd.DataFrame(logged).to_csv(folder / "diagnostics.csv", index=False)
    (folder / "protocol.json").write_text(
        '{"samplers": {}, "warnings": [], "versions": {"torch": ["2.15"]}}'
    )
    return folder
