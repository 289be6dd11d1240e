"""The version has one home, and the files of a release name it."""

import re
import tomllib

import yaml

from vrpo import __version__

from tests.fixtures import ROOT


def test_the_package_is_built_with_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "vrpo.__version__"}


def test_citation_and_changelog_name_the_version_and_its_date() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = dict(re.findall(r"^## (\d+\.\d+\.\d+) \((\S+)\)$", changelog, re.MULTILINE))
    assert citation["version"] == __version__
    assert releases[__version__] == str(citation["date-released"])
