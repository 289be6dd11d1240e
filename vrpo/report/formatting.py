"""Tables as text: numbers with their intervals, Markdown and LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vrpo.config.report import ReportOptions
from vrpo.files import write_text

TEX = {  # in this order: escapes hold backslashes
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "&%_#"},
    **{"±": r"$\pm$", "≥": r"$\geq$", "<=": r"$\leq$", "≤": r"$\leq$", "> ": "$>$ "},
}


@dataclass(frozen=True)
class Table:
    """Numbers for programs, and the same as text for people."""

    data: pd.DataFrame
    shown: pd.DataFrame  # strings; **bold** marks the best
    note: str
    sources: tuple[str, ...] = ()  # the cells' [1], [2], ...

    @property
    def small_print(self) -> list[str]:
        """The note, and a line for each source."""
        sources = [f"[{number}] {text}" for number, text in enumerate(self.sources, 1)]
        return [self.note.strip(), *sources]


def write_table(table: Table, output: Path) -> None:
    """Write `table` as `output` with the endings .csv, .md and .tex."""
    write_text(output.with_suffix(".csv"), table.data.to_csv(index=False, lineterminator="\n"))
    write_text(output.with_suffix(".md"), markdown(table))
    write_text(output.with_suffix(".tex"), latex(table))


def markdown(table: Table) -> str:
    """A Markdown table with its note and sources below."""
    columns = list(table.shown.columns)
    numeric = [is_numeric(table.shown[column]) for column in columns]
    rule = "|".join("---:" if right else "---" for right in numeric)
    lines = [f"| {' | '.join(columns)} |", f"|{rule}|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in table.shown.itertuples(index=False)]
    below = [line for text in table.small_print for line in ("", text)]
    return "\n".join([*lines, *below, ""])


def latex(table: Table) -> str:
    """A LaTeX tabular with booktabs' rules; note and sources are comments."""
    columns = list(table.shown.columns)
    align = "".join("r" if is_numeric(table.shown[column]) else "l" for column in columns)
    cells = [columns, *table.shown.itertuples(index=False)]
    head, *body = [" & ".join(_tex(str(cell)) for cell in row) + r" \\" for row in cells]
    comments = [f"% {text}" for text in table.small_print]
    begin = [*comments, rf"\begin{{tabular}}{{{align}}}", r"\toprule", head]
    return "\n".join([*begin, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


def cell(mean: float, std: float | None, digits: int, bold: bool) -> str:
    """A mean with its standard deviation, in bold where it is the best; nothing for NaN."""
    if pd.isna(mean):
        return ""
    text = f"{mean:.{digits}f}"
    if std is not None and not pd.isna(std):
        text += f" ± {std:.{digits}f}"
    return f"**{text}**" if bold else text


def intervals(rows: pd.DataFrame, name: str) -> list[str]:
    """Signed means of the column `name` with their intervals, e.g. `+0.30 [+0.10, +0.50]`."""
    return [_with_interval(row, name, "{:+.2f}") for row in rows.to_dict("records")]


def factors(rows: pd.DataFrame, name: str) -> list[str]:
    """Factors with their intervals, e.g. `1.20x [1.10, 1.30]`; `≥` marks lower bounds."""
    bounds = rows.get("at_least", pd.Series(False, rows.index)).eq(True)
    texts = [_with_interval(row, name, "{:.2f}", "x") for row in rows.to_dict("records")]
    pairs = zip(texts, bounds, strict=True)
    return [f"≥ {text}" if bound and text else text for text, bound in pairs]


def is_numeric(column: pd.Series) -> bool:
    """Whether every cell that is not empty begins like a number."""
    texts = [str(text).strip("*≥≤> ") for text in column if str(text).strip()]
    return bool(texts) and all(text[0] in "+-0123456789" for text in texts)


def _with_interval(row: dict[str, Any], name: str, form: str, unit: str = "") -> str:
    mean, low, high = (row[name + end] for end in ("", "_low", "_high"))
    if pd.isna(mean):
        return ""
    text = form.format(mean) + unit
    return text if pd.isna(low) else f"{text} [{form.format(low)}, {form.format(high)}]"


def count_text(step: float) -> str:
    """A whole number with thousands marked; nothing for NaN."""
    return "" if pd.isna(step) else f"{int(step):,}"


def space_text(options: ReportOptions) -> str:
    """The sentence that names the feature space of the scores."""
    return f"Scores: {options.metric_space}." if options.metric_space else ""


def _tex(text: str) -> str:
    bold = text.startswith("**") and text.endswith("**")
    text = text.strip("*") if bold else text
    for plain, escaped in TEX.items():
        text = text.replace(plain, escaped)
    return rf"\textbf{{{text}}}" if bold else text
