"""The documentation site: links written for the repository lead to pages of the site."""

import importlib.util
import re

import pytest
import yaml

from tests.fixtures import ROOT

SPEC = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
hooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(hooks)
PAGES = {"method.md", "benchmark/README.md", "images/a.png", *hooks.OUTSIDE}


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("method.md", "[a](benchmark/README.md#b)", "[a](benchmark/README.md#b)"),
        ("method.md", "[a](../vrpo/README.md)", "[a](vrpo/README.md)"),
        ("method.md", "![a](images/a.png)", "![a](images/a.png)"),
        ("benchmark/README.md", "[a](../method.md)", "[a](../method.md)"),
        ("CONTRIBUTING.md", "[a](docs/method.md#b)", "[a](method.md#b)"),
        ("vrpo/README.md", "[a](../docs/method.md)", "[a](../method.md)"),
        ("method.md", "[`a`](../vrpo/models/official.py)", "`a`"),
        ("method.md", "[a](../missing.md)", "[a](../missing.md)"),
        ("method.md", "[a](https://b.org) [c](#d)", "[a](https://b.org) [c](#d)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(
    source: str, link: str, expected: str
) -> None:
    assert hooks.LINK.sub(lambda match: hooks.site_link(match, source, PAGES), link) == expected


def test_every_package_has_a_page() -> None:
    folders = {path.parent.name for path in (ROOT / "vrpo").glob("*/__init__.py")}
    assert set(hooks.packages()) == folders


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = set(re.findall(r": (\S+\.md)$", text.split("\nnav:")[1], re.MULTILINE))
    own = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert own | set(hooks.OUTSIDE) - {"vrpo/README.md"} <= pages


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config = yaml.safe_load(text)
    assert config["theme"]["font"] is False
    assert (
        not [name for name in config["extra_css"] if "//" in name]
        and "extra_javascript" not in config
    )
