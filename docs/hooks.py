"""Pages of the documentation site from outside docs/, and a page for each package.

The same Markdown files are read on the site and in the repository, so their links are written for
the repository. Here they are turned into links of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "config/README.md",
    "studies/2026-miniature/README.md",
    "studies/2026-second-search/README.md",
    "tests/golden/README.md",
    "vrpo/README.md",
)
BLOCK = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def packages() -> list[str]:
    """The packages of vrpo, in the order of vrpo/README.md: lowest first."""
    table = (ROOT / "vrpo/README.md").read_text(encoding="utf-8")
    return re.findall(r"`(\w+)/`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)))


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of the packages into the navigation."""
    pages: list[dict[str, str]] = [{"The packages": "vrpo/README.md"}]
    pages += [{f"vrpo.{name}": f"api/{name}.md"} for name in packages()]
    for section in config.nav or []:
        if "Reference" in section:
            section["Reference"].insert(1, {"API": pages})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, their pictures, and the pages of the packages."""
    from mkdocs.structure.files import File

    for page in OUTSIDE:
        pictures = (
            path.relative_to(ROOT).as_posix() for path in (ROOT / page).parent.glob("*.png")
        )
        for name in (page, *pictures):
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for name in packages():
        text = f"# vrpo.{name}\n\n::: vrpo.{name}\n"
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page into links of the site."""
    source = page.file.src_uri
    known = set(files.src_uris)
    parts = BLOCK.split(markdown)
    return "".join(
        part if part.startswith("```") else LINK.sub(lambda m: site_link(m, source, known), part)
        for part in parts
    )


def site_link(link: re.Match[str], source: str, known: set[str]) -> str:
    """A link of the page `source`; only the text of it if it leads to a file that is no page."""
    sign, text, target, anchor = link.groups(default="")
    place = source if source in OUTSIDE else f"docs/{source}"
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
    goal = inside.removeprefix("docs/")
    if goal in known:
        return (
            f"{sign}[{text}]({posixpath.relpath(goal, posixpath.dirname(source) or '.')}{anchor})"
        )
    return text if (ROOT / inside).exists() else link[0]
