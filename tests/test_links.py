"""Links of the Markdown pages: files and headings that exist."""

import re
from pathlib import Path
from typing import NamedTuple

from tests.fixtures import ROOT

BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^ {4}.*$|`[^`\n]*`", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


class Link(NamedTuple):
    text: str
    target: Path
    anchor: str


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[Link]:
    """The relative links of a page."""
    text = CODE.sub("", BLOCK.sub("", page.read_text(encoding="utf-8")))
    found = []
    for link in LINK.findall(text):
        if not re.match(r"[a-z]+:", link):
            place, _, anchor = link.partition("#")
            target = (page.parent / place).resolve() if place else page
            found.append(Link(link, target, anchor))
    return found


def broken(page: Path) -> list[str]:
    """Links of a page to a missing file or heading."""
    return [link.text for link in links(page) if not leads_somewhere(link)]


def leads_somewhere(link: Link) -> bool:
    return link.target.exists() and (not link.anchor or link.anchor in anchors(link.target))


def reachable(*starts: Path) -> set[Path]:
    """The pages that links lead to from `starts`."""
    found, waiting = set(), list(starts)
    while waiting:
        page = waiting.pop()
        if page not in found:
            found.add(page)
            targets = {link.target for link in links(page)}
            waiting += [path for path in targets if path.suffix == ".md" and path.exists()]
    return found


def test_links_lead_somewhere() -> None:
    pages = reachable(ROOT / "README.md", ROOT / "CHANGELOG.md")
    assert {str(page): broken(page) for page in pages if broken(page)} == {}
    assert set((ROOT / "docs").glob("*.md")) <= pages, "a page that no link leads to"


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    good = "[a](page.md#one-heading) `[b](b.md)` [c](https://c.org)"
    page.write_text(f"# One heading\n{good} [two](#two) ![three](three.png)\n")
    assert broken(page) == ["#two", "three.png"]
