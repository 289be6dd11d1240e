"""The report as a page: valid, whole in itself, with contents that lead somewhere."""

from pathlib import Path

import pytest

from vrpo.config import load_experiment
from vrpo.config.report import ReportOptions
from vrpo.errors import UserError
from vrpo.files import sha256
from vrpo.plan.paths import Paths
from vrpo.plan.resolved import resolved_files
from vrpo.report.report import write_report

from tests.fixtures import ROOT
from tests.fixtures.html import Element, Page
from tests.fixtures.report import (
    FIGURES,
    IMAGENET,
    MINIATURE,
    TABLES,
    blank_figures,
    collected,
    metrics_frame,
)


def text_of(options: ReportOptions, folder: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> str:
    collected(folder / "collected", metrics_frame(seeds))
    blank_figures(folder)
    write_report(options, folder, folder / "report.html")
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module", params=[MINIATURE, IMAGENET], ids=["miniature", "imagenet"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(text_of(request.param, tmp_path_factory.mktemp("page")))


def scrolls(element: Element) -> bool:
    return any("scroll" in around.attributes.get("class", "") for around in element.inside)


def test_contents_lead_to_every_section_figure_and_table(page: Page) -> None:
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    nav = [each for each in page.all("a") if any(around.tag == "nav" for around in each.inside)]
    targets = [each.attributes["href"].removeprefix("#") for each in nav]
    assert set(targets) <= set(ids)
    sections = [each.attributes["id"] for each in page.all("section")]
    assert {"answer", *sections, *FIGURES, *TABLES} == set(targets)


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    assert len(page.loads) > len(FIGURES) + len(TABLES)
    for address in page.loads:
        inside = address.startswith(("#", "data:image/png;base64,"))
        beside = address.endswith(".yaml") and ":" not in address and not address.startswith("/")
        assert inside or beside, address[:80]
    assert not [each for each in page.all("script") if each.attributes]


def test_every_picture_is_described_and_enlarges_by_keyboard(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) == len(FIGURES)
    for picture in pictures:
        assert len(picture.attributes["alt"]) > 10
        assert picture.inside[-1].tag == "button"
    (dialog,) = page.all("dialog")
    assert dialog.attributes["aria-label"]
    assert [each for each in page.all("button") if dialog in each.inside], "it can be closed"


def test_every_table_scrolls_alone_also_by_keyboard(page: Page) -> None:
    tables = page.all("table")
    assert len(tables) > len(TABLES)
    for table in tables:
        around = table.inside[-1].attributes
        assert around["class"] == "scroll" and around["tabindex"] == "0", around
        assert around.get("aria-label") or around["aria-labelledby"] in page.attributes("id")
    assert not [each for each in page.all("img") if scrolls(each)]


def test_phones_dark_mode_and_print_have_styles(page: Page) -> None:
    style = "".join(page.styles)
    for query in ("prefers-color-scheme: dark", "max-width: 40rem", "@media print"):
        assert query in style
    assert "width=device-width" in page.all("meta")[1].attributes["content"]


def test_the_first_thing_is_the_answer(tmp_path: Path) -> None:
    body = text_of(MINIATURE, tmp_path).split("<body>")[1]
    question, sentence = body.index("Does VRPO beat REPA?"), body.index("Yes on SiT-B/2 by 1.90")
    assert question < sentence < body.index('class="bars"') < body.index("<nav")
    assert body.count('class="bar decided"') == 2


def test_one_seed_is_said_first(tmp_path: Path) -> None:
    body = text_of(MINIATURE, tmp_path, seeds=(0,)).split("<body>")[1]
    assert body.index("one seed proves nothing") < body.index("<nav")
    assert "decided" not in body.split("<nav")[0]


def test_published_rows_and_sources_are_marked(tmp_path: Path) -> None:
    text = text_of(IMAGENET, tmp_path)
    assert text.count('<tr class="published">') > 30
    assert "<li>RARE paper (Wang et al. 2026), table 2; one seed" in text


def test_how_it_was_made(tmp_path: Path) -> None:
    """Links lead to the resolved configs that the workflow writes; the whole config is shown."""
    config = load_experiment(ROOT / "config/mini.yaml")
    config = config.model_copy(update={"results": str(tmp_path)})
    paths = Paths.of(config)
    metrics = metrics_frame((0,))
    metrics = metrics[metrics["sampler"].isin(["ode", "ddpm"])]
    collected(paths.collected, metrics)
    blank_figures(paths.folder)
    paths.config("experiment").parent.mkdir(parents=True)
    paths.config("experiment").write_text("experiment: mini # <&>\n")
    write_report(MINIATURE, paths.folder, paths.report)
    text = paths.report.read_text()
    linked = {paths.folder / link for link in Page(text).loads if link.endswith(".yaml")}
    assert len(linked) == 7 + 6
    assert linked <= set(resolved_files(config))
    assert "experiment: mini # &lt;&amp;&gt;" in text
    assert '<td class="wrap">torch 2.15</td>' in text
    assert "0123456789ab" in text and "0123456789abc" not in text


def test_hashes_of_collected_files_leave_out_times(tmp_path: Path) -> None:
    collected(tmp_path / "collected", metrics_frame())
    sums = '{"metrics.csv": "%s", "speed.csv": "%s"}'
    metrics = sha256(tmp_path / "collected/metrics.csv")
    (tmp_path / "collected/.sha256").write_text(sums % (metrics, "b" * 64))
    blank_figures(tmp_path)
    write_report(MINIATURE, tmp_path, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert f'collected/metrics.csv</th><td class="hash">{metrics}' in text
    assert "b" * 64 not in text


def test_a_figure_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    collected(tmp_path / "collected", metrics_frame())
    blank_figures(tmp_path)
    (tmp_path / "figures/fid.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"fid\.png: the figure is missing or no PNG; draw it"):
        write_report(MINIATURE, tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
