"""The examples of docs/extending.md, as they stand there: written to files, put into the miniature's config, trained and sampled."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from methods_fixtures import metrics_of, write_collected
from typer.testing import CliRunner

from vrpo.cli import app
from vrpo.config import ExperimentConfig, parse_experiment
from vrpo.config.reading import deep_merge, read_yaml
from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.errors import UserError
from vrpo.models.checkpoints import load_milestone, save_network
from vrpo.models.critic import LatentCritic
from vrpo.models.encoder import VisualEncoder, create_network
from vrpo.reporting import catalogue
from vrpo.training.run import train

TEXT = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r"`(\w+\.py)`, beside the Snakefile:\n\n```python\n(.*?)```", TEXT, re.DOTALL))
FIGURE = re.search(r"`vrpo/reporting/(\w+)\.py`:\n\n```python\n(.*?)```.*?```python\n(figure.*?)```", TEXT, re.DOTALL)
ROWS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
COUNT, LATENT = 12, (4, 8, 8)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """The miniature with all documented rows."""
    folder = tmp_path_factory.mktemp("rows")
    content = read_yaml("config/mini.yaml")
    for number, rows in enumerate(ROWS):
        (folder / f"{number}.yaml").write_text(rows)
        content = deep_merge(content, read_yaml(folder / f"{number}.yaml"))
    return parse_experiment({**content, "training": {"batch_size": 8, "learning_rate": 1e-3}}, "docs/extending.md")


@pytest.fixture(scope="module")
def data(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random latents; tokens that the encoders, untrained, give for random images; a critic."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    files = {"latents": folder / "latents.h5", "critic": folder / "critic.safetensors"}
    shapes = {"mean": ((COUNT, *LATENT), "float32"), "std": ((COUNT, *LATENT), "float32"), "labels": ((COUNT,), "int64")}
    with ArrayWriter(files["latents"], shapes, {"images": "toy"}) as writer:
        mean = generator.standard_normal((COUNT, *LATENT), dtype=np.float32)
        writer.write(0, {"mean": mean, "std": np.full_like(mean, 0.1), "labels": np.arange(COUNT) % 10})
        writer.finish()
    images = torch.from_numpy(generator.integers(0, 256, (COUNT, 3, 32, 32), dtype=np.uint8))
    for name, options in config.encoders.items():
        with torch.random.fork_rng(), torch.no_grad():
            tokens = VisualEncoder(create_network(options, 0).eval(), options.image_size).tokens(images)
        files[name] = folder / f"{name}.h5"
        with ArrayWriter(files[name], {"tokens": (tuple(tokens.shape), "float16")}, {"images": "toy"}) as writer:
            writer.write(0, {"tokens": tokens.half().numpy()})
            writer.finish()
    shape = {"latent_shape": LATENT, "tokens": tuple(Arrays(files["vit"]).shape("tokens")[1:]), "width": 8, "depth": 1}
    sources = {"latents": Arrays(files["latents"]).fingerprint, "features": Arrays(files["vit"]).fingerprint}
    with torch.random.fork_rng():
        save_network(files["critic"], LatentCritic(**shape).state_dict(), {"kind": "critic", **shape, **sources})
    return files


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented files, importable."""
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("run", ["sit-noisy", "sit-other", "sit-both", "sit-conv-none", "sit-conv-repa", "dit-conv-vrpo"])
def test_a_documented_run_trains(run: str, config: ExperimentConfig, data: dict[str, Path], modules: None, tmp_path: Path) -> None:
    resolved = config.run_config(run, 0)
    output = tmp_path / run / "step0000002.safetensors"
    encoders = getattr(resolved.alignment, "encoders", [])
    critics = {"vit": data["critic"]} if resolved.alignment.kind == "vrpo" else {}
    train(
        resolved,
        latents=data["latents"],
        features={name: data[name] for name in encoders},
        critics=critics,
        milestone=2,
        output=output,
        device="cpu",
        log_every=1,
    )
    rows = np.genfromtxt(output.parent / "train.csv", delimiter=",", names=True)
    assert np.isfinite(rows["loss"]).all()
    network, description = load_milestone(output)
    prediction, _ = network(torch.zeros(2, *LATENT), torch.tensor([0.2, 0.8]), torch.tensor([1, network.null_label]))
    assert prediction.shape[1] == description["out_channels"]
    assert type(network).__name__ == ("ConvNet" if "conv" in run else "DiffusionTransformer")


def test_every_documented_run_is_tested(config: ExperimentConfig) -> None:
    assert set(MODULES) == {"my_losses.py", "my_networks.py"}
    assert set(config.runs) - set(read_yaml("config/mini.yaml")["runs"]) == {
        "sit-noisy", "sit-other", "sit-both", "sit-conv-none", "sit-conv-repa", "dit-conv-vrpo"
    }  # fmt: skip


def test_the_documented_figure_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the package and an entry of the catalogue, drawn by `python -m vrpo figure`."""
    module, function, entry = FIGURE.groups()
    spec = importlib.util.spec_from_loader(f"vrpo.reporting.{module}", loader=None)
    monkeypatch.setitem(sys.modules, spec.name, importlib.util.module_from_spec(spec))
    exec(function, vars(sys.modules[spec.name]))
    more = [*catalogue.CATALOGUE, eval(entry, vars(catalogue))]
    monkeypatch.setattr(catalogue, "CATALOGUE", more)
    collected = write_collected(tmp_path / "collected", metrics_of())
    (tmp_path / "report.yaml").write_text("title: made up\n")
    options = {"config": tmp_path / "report.yaml", "collected": collected, "output": tmp_path / "speeds.pdf"}
    words = [f"--{name}={path}" for name, path in options.items()]
    result = CliRunner().invoke(app, ["figure", "speeds", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    data = pd.read_csv(tmp_path / "speeds.csv").set_index("run")
    assert data.loc["sit-none", "mean"] == 100 and data.loc["sit-none", "seeds"] == 5
    assert all((tmp_path / f"speeds.{ending}").stat().st_size for ending in ("png", "pdf", "csv"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "nowhere:ConvNet"}, r"cannot be imported .* put nowhere.py beside the Snakefile"),
        ({"backbone": "my_networks:Tensor2"}, "cannot be imported"),
        ({"backbone": "pathlib:Path"}, "is not a subclass of torch.nn.modules.module.Module"),
        ({"arguments": {"wings": 2}}, r"cannot be built with .*wings.* mend `arguments`"),
    ],
)
def test_a_network_that_is_not_one_is_refused(changes: dict[str, object], words: str, config: ExperimentConfig, data, modules: None, tmp_path: Path) -> None:
    resolved = config.run_config("sit-conv-none", 0)
    resolved = resolved.model_copy(update={"model": resolved.model.model_copy(update=changes)})
    with pytest.raises(UserError, match=words):
        train(resolved, latents=data["latents"], features={}, critics={}, milestone=1, output=tmp_path / "run" / "a.safetensors", device="cpu")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"width": 6}, r"sizes.x: `width` 6 must be a multiple"),
        ({"bakbone": "a:B"}, r"unknown option `bakbone` in `sizes.x`; known here: depth, width, heads"),
        ({"backbone": "aB"}, r"sizes.x.backbone: string should match"),
    ],
)
def test_a_wrong_size_is_named_in_one_line(size: dict[str, object], words: str) -> None:
    content = read_yaml("config/mini.yaml")
    content["sizes"]["x"] = {"depth": 1, "width": 8, "heads": 4, **size}
    with pytest.raises(UserError, match=words) as error:
        parse_experiment(content, "mini")
    assert "\n" not in str(error.value)
