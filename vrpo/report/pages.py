"""Pages that are made of templates: the report, and the README.md of its folders."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from vrpo.report.catalogue import Entry


def texts_of(entries: list[Entry], folder: Path) -> dict[str, str]:
    """{name: Markdown} of the tables among `entries`, which are in `folder`."""
    names = [entry.name for entry in entries if entry.kind == "table"]
    return {name: (folder / f"{name}.md").read_text("utf-8") for name in names}


def page(package: str, template: str, **values: object) -> str:
    """A template of a package, filled; values are escaped in HTML only.

    Args:
        package: name of a Python package with a folder `templates`.
        template: file name of the template.
        values: what it names.
    """
    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
