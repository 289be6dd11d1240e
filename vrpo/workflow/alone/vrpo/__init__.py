"""The installed package, for jobs in other environments: without what is installed beside it."""

from pathlib import Path

_package = Path(__file__).resolve().parents[3]
__path__ = [str(_package)]
exec((_package / "__init__.py").read_text(encoding="utf-8"))
