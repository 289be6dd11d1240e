"""Descriptions of images, networks and methods in reports come from the config."""

import json
import re
from types import SimpleNamespace

import jinja2
import pytest
from typer.testing import CliRunner

from vrpo.cli import app
from vrpo.config import load_experiment
from vrpo.config.described import described_report
from vrpo.config.reading import parse_experiment, read_yaml
from vrpo.errors import UserError
from vrpo.files import write_text
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import resolved_files
from vrpo.report import style
from vrpo.report.catalogue import find, report_entries
from vrpo.report.cost import costs, describe_cost
from vrpo.report.formatting import latex, markdown
from vrpo.report.report import write_report
from vrpo.report.results import read_metrics

from tests.fixtures import ROOT
from tests.fixtures.report import blank_figures, collected, metrics_frame

OWN = {"source": "folder", "root": "/data/flowers/train", "num_classes": 5, "resolution": 64}
FOREIGN = (
    r"(?<!first )digit|miniature|handwritten|ImageNet 256|own small"  # of the demo, of the paper
)


def fit_encoders(content, resolution):
    """Let encoders have as many tokens as the networks on images of `resolution` have."""
    for encoder in content["encoders"].values():
        encoder["image_size"] = encoder["image_size"] * resolution // content["data"]["resolution"]


def experiment(name="mini", data=OWN, **sections):
    """An own config file over one of the project's."""
    content = read_yaml(ROOT / f"config/{name}.yaml")
    fit_encoders(content, data.get("resolution", content["data"]["resolution"]))
    merged = {
        **content,
        **{
            key: {**content.get(key, {}), **value} if isinstance(value, dict) else value
            for key, value in {**sections, "data": data}.items()
        },
    }
    return parse_experiment(merged, "test")


def test_own_images_over_the_demo(tmp_path):
    """All reports contain the config's words, and nothing of digits.

    These are the report, the tables, the figures, the README and Snakemake's report.
    """
    config = experiment(results=str(tmp_path))
    options = resolved_files(config)[
        Paths.of(config).config("report")
    ]  # what all commands of the report are given
    space = (
        "flowers/train 64x64, features of a classifier (test_resnet) fitted on these "
        "images; not comparable with published numbers"
    )
    assert (
        options.metric_space == space
        and options.title == "None, REPA and VRPO on SiT and DiT, flowers/train 64x64"
    )
    folder = collected(Paths.of(config).folder / "collected", metrics_frame((0, 1)))
    blank_figures(Paths.of(config).folder)
    write_report(options, Paths.of(config).folder, Paths.of(config).folder / "report.html")
    page, readme = (
        (Paths.of(config).folder / name).read_text() for name in ("report.html", "README.md")
    )
    tables = [entry.make(options, folder) for entry in report_entries("table")]
    caption = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(
        (ROOT / "workflow/report/workflow.rst").read_text()
    )
    said = {"experiment": "mini", "milestones": [500], "report": options.model_dump()}
    texts = [
        page,
        readme,
        *map(markdown, tables),
        *map(latex, tables),
        caption.render(snakemake=SimpleNamespace(config=said)),
    ]
    for text in texts:
        assert space in text and not re.search(FOREIGN, text, re.IGNORECASE)
    assert options.title in page and options.title in readme and options.title in texts[-1]
    with style.applied():
        figure, _ = find("figure", "fid").make(options, folder)
    assert figure.axes[0].get_ylabel() == "FID (flowers/train 64x64)"


def test_words_of_ones_own_win():
    report = described_report(
        experiment(report={"title": "Flowers", "metric_space": "flowers: made up"})
    )
    assert (report.title, report.metric_space) == ("Flowers", "flowers: made up")


@pytest.mark.parametrize(
    ("sections", "title", "space"),
    [
        (
            {"data": {"source": "digits"}},
            "None, REPA and VRPO on SiT and DiT, digits 32x32",
            "digits 32x32, features of a classifier (test_resnet)",
        ),
        (
            {"data": {**OWN, "root": "flowers"}},
            "None, REPA and VRPO on SiT and DiT, flowers 64x64",
            "flowers 64x64, features",
        ),
        (
            {"data": {**OWN, "root": "/flowers"}},
            "None, REPA and VRPO on SiT and DiT, flowers 64x64",
            "flowers 64x64, features",
        ),
        (
            {"data": {**OWN, "source": "zip", "root": "../x/a,b.zip"}},
            "None, REPA and VRPO on SiT and DiT, x/a b.zip 64x64",
            "x/a b.zip 64x64, features",
        ),
        (
            {"data": {**OWN, "source": "ilsvrc"}},
            "None, REPA and VRPO on SiT and DiT, ImageNet 64x64",
            "ImageNet 64x64, features",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_are_called_by_their_place(sections, title, space):
    report = described_report(experiment(**sections))
    assert report.title == title and report.metric_space.startswith(space)


def test_titles_name_what_is_compared():
    runs = {"sit-haste": ("sit", "haste"), "sit-soft": ("sit", "soft")}
    alignments = {
        "haste": {"kind": "irepa", "encoders": ["vit"], "depth": 2},
        "soft": {
            "kind": "custom",
            "loss": "my_losses:Soft",
            "encoders": ["vit"],
            "depth": 2,
            "projector_width": 8,
        },
    }
    rows = {
        run: {"model": "mini/2", "process": process, "alignment": alignment}
        for run, (process, alignment) in runs.items()
    }
    content = read_yaml(ROOT / "config/mini.yaml")
    fit_encoders(content, OWN["resolution"])
    content |= {"alignments": alignments, "runs": rows, "data": OWN}
    assert (
        described_report(parse_experiment(content, "test")).title
        == "iREPA and soft on SiT, flowers/train 64x64"
    )


def test_a_custom_loss_is_called_by_its_name(tmp_path):
    metrics = metrics_frame(kinds=("none", "vrpo"))
    own = metrics["kind"] == "vrpo"
    metrics.loc[own, ["kind", "alignment"]] = ["custom", "soft"]
    assert set(read_metrics(collected(tmp_path / "collected", metrics))["label"]) == {
        "none",
        "soft",
    }


def test_inception_says_the_protocol_that_is_taken():
    config = load_experiment(ROOT / "config/imagenet256.yaml")
    assert (
        described_report(config).metric_space
        == "imagenet/train 256x256, Inception features, ADM's protocol, 50,000 images"
    )
    other = config.model_copy(
        update={
            "evaluation": config.evaluation.model_copy(
                update={"distances": "fp32", "reference": "stats/own.npz"}
            )
        }
    )
    assert (
        described_report(other).metric_space
        == "imagenet/train 256x256, Inception features, 50,000 images, against own.npz"
    )


@pytest.mark.parametrize("change", [{"num_classes": 37}, {"resolution": 128}])
def test_published_numbers_stand_beside_no_other_images(change):
    """Own images over the paper's config: refused when planned, not compared with ImageNet."""
    own = {**read_yaml(ROOT / "config/imagenet256.yaml")["data"], "root": "/data/pets", **change}
    with pytest.raises(
        UserError,
        match=(
            r"report\.published: config/published\.csv holds scores of ImageNet's 1,000 "
            r"classes at 256x256 .* `report: .published: null.`"
        ),
    ):
        experiment("imagenet256", own)
    report = described_report(experiment("imagenet256", own, report={"published": None}))
    assert not re.search("ImageNet", f"{report.title} {report.metric_space}")


def test_cost_counts_the_images_that_there_are(tmp_path):
    config = experiment(results=str(tmp_path))
    with pytest.raises(
        UserError, match=r"/data/flowers/train: how many images .* give --images NUMBER"
    ):
        costs(config)
    assert "3,670 training images" in describe_cost(config, images=3670)
    write_text(Paths.of(config).folder / "images.json", json.dumps({"count": 1000}))
    assert costs(config) == costs(config, images=1000) and "1,000 training images" in describe_cost(
        config
    )
    write_text(Paths.of(config).folder / "images.json", "[]")
    with pytest.raises(UserError, match=r"images\.json: is damaged"):
        costs(config)
    assert "1,797 training images" in describe_cost(load_experiment(ROOT / "config/mini.yaml"))
    shown = CliRunner().invoke(
        app, ["cost", "--config", str(ROOT / "config/imagenet256.yaml"), "--images", "1000"]
    )
    assert "1,000 training images" in shown.stdout


def test_no_sentence_about_the_demo_is_left_in_the_code():
    places = [
        *(ROOT / "vrpo/report").rglob("*"),
        *(ROOT / "vrpo/metrics").glob("*.py"),
        *(ROOT / "workflow/report").glob("*"),
    ]
    texts = {
        path: path.read_text() for path in places if path.suffix in (".py", ".md", ".html", ".rst")
    }
    assert len(texts) > 30
    assert not [
        str(path)
        for path, text in texts.items()
        if re.search("miniature|handwritten|classifier of digits", text, re.IGNORECASE)
    ]
