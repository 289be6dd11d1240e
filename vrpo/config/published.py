"""Published scores with their sources, as `report.published` names them."""

from __future__ import annotations

import csv
from math import isfinite
from pathlib import Path

from vrpo.errors import UserError

REPORTED = {
    "authors": "published",  # printed by the method's authors
    "quoted": "quoted",  # the authors' number, as another text gives it
    "others": "by others",  # another paper's: measured again, or without its origin
}
TEXTS = ("model", "method", "cfg", "reported", "source", "note")
NUMBERS = ("iterations", "epochs", "fid", "sfid", "is", "precision", "recall")
OPTIONAL = ("cfg", "note")  # texts that may be empty; numbers always may

Row = dict[str, str | float | None]


def read_published(path: Path | str) -> list[Row]:
    """The rows of a CSV of published scores: `TEXTS`, and `NUMBERS` or None.

    Raises:
        UserError: it cannot be read, lacks a column, or a row is malformed.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            _check_header(path, header)
            place = f"{path}: line {{}}"
            return [_row(place.format(lines.line_num), header, cells) for cells in lines if cells]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: the published numbers (report.published) cannot be read ({error}); "
            "give their CSV or set it to null"
        ) from error


def _check_header(path: Path | str, header: list[str]) -> None:
    for name in (*TEXTS, *NUMBERS):
        if name not in header:
            remedy = "add it; config/published.csv shows all columns"
            raise UserError(f"{path}: lacks the column `{name}`; {remedy}")
        if header.count(name) > 1:
            raise UserError(f"{path}: has the column `{name}` more than once; keep one")


def _row(place: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        remedy = "put texts that hold commas into double quotes"
        raise UserError(f"{place}: has {len(cells)} cells, the header {len(header)}; {remedy}")
    texts = dict(zip(header, map(str.strip, cells), strict=True))
    for name in TEXTS:
        if not texts[name] and name not in OPTIONAL:
            raise UserError(f"{place}: {name} is empty; every row names its {name}")
    if texts["reported"] not in REPORTED:
        known = ", ".join(REPORTED)
        raise UserError(f"{place}: reported is `{texts['reported']}`; give one of {known}")
    numbers = {name: _number(place, name, texts[name]) for name in NUMBERS}
    return {**{name: texts[name] for name in TEXTS}, **numbers}


def _number(place: str, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not isfinite(value) or value < 0:
        raise UserError(f"{place}: {name} `{text}` is no number from 0 up; correct it or empty it")
    return value
