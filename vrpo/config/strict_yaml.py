"""YAML without ambiguity.

Duplicate keys, octal numbers and dates, which readers take for different things, are refused with
their line. Keys are always text, and `1e-4` is a number.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from vrpo.errors import UserError

PLAIN = "plain"  # tag of a scalar without quotes and without a tag of its own
COLLECTIONS = (yaml.BaseLoader.DEFAULT_SEQUENCE_TAG, yaml.BaseLoader.DEFAULT_MAPPING_TAG)
NULLS = {"", "~", "null", "Null", "NULL"}
BOOLS = {
    spelling: value
    for value, words in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)")
FLOAT = re.compile(r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
OCTAL = re.compile(r"[-+]?0[0-9_]+")
DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?", re.DOTALL)


def parse_yaml(text: str, where: str) -> Any:
    """Value of the YAML document `text`, which came from `where`.

    Raises:
        UserError: it is not YAML, or ambiguous; the message names the line.
    """
    try:
        node = _Loader(text).get_single_node()
        return None if node is None else _Builder().value(node)
    except _NodeError as refusal:
        raise UserError(f"{where}: line {refusal.node.start_mark.line + 1}: {refusal}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        fault = f"the character {chr(error.character)!a} is not allowed in YAML"
        raise UserError(f"{where}: line {line}: {fault}; remove it") from None
    except yaml.MarkedYAMLError as error:
        line, fault = error.problem_mark.line + 1, " ".join(str(error.problem).split())
        remedy = "indent with spaces" if "'\\t'" in str(error.problem) else "correct it"
        raise UserError(f"{where}: line {line}: not valid YAML: {fault}; {remedy}") from None
    except (ValueError, OverflowError):  # a character escape beyond Unicode
        fault = "not valid YAML: an escape sequence means no character"
        raise UserError(f"{where}: {fault}; correct it") from None
    except RecursionError:
        fault = "lists or mappings are nested too deeply"
        raise UserError(f"{where}: {fault}; a config needs ten levels at most") from None


def dump_yaml(content: Any) -> str:
    """YAML that `parse_yaml` reads as `content`; mappings keep their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


class _NodeError(Exception):
    """Fault of a node."""

    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.node = node


class _Loader(yaml.BaseLoader):
    """Composes nodes; a scalar without quotes and tag is `PLAIN`."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        """Tag of a node that has none."""
        if kind is yaml.ScalarNode and implicit[0]:
            return PLAIN
        return super().resolve(kind, value, implicit)


class _Builder:
    """Values of nodes; one for a document."""

    def __init__(self) -> None:
        self.built: dict[int, Any] = {}  # by the node's id, for aliases
        self.open: set[int] = set()

    def value(self, node: yaml.Node) -> Any:
        """The Python value of `node`."""
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if id(node) in self.open:
            raise _NodeError(node, "a list or mapping that contains itself; remove the alias")
        if id(node) not in self.built:
            self.open.add(id(node))
            if node.tag not in COLLECTIONS:
                raise _NodeError(node, f"the tag `{node.tag}` is not supported; remove it")
            is_mapping = isinstance(node, yaml.MappingNode)
            built = self._mapping(node) if is_mapping else [self.value(item) for item in node.value]
            self.built[id(node)] = built
            self.open.discard(id(node))
        return self.built[id(node)]

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _NodeError(key, "a list or mapping cannot be a key; use a name")
            if key.value in lines:
                fault = f"`{key.value}` is given twice, first in line {lines[key.value]}"
                raise _NodeError(key, f"{fault}; keep one of them")
            lines[key.value] = key.start_mark.line + 1
            if key.value == "<<" and key.tag == PLAIN:
                merged = self._merged(value)
            else:
                own[key.value] = self.value(value)
        return {**merged, **own}

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        """Entries that `<<: *anchor` or `<<: [*first, *second]` adds; the first wins."""
        result: dict[str, Any] = {}
        for part in reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(part, yaml.MappingNode):
                raise _NodeError(part, "`<<` merges mappings; name the anchor of one")
            result.update(self.value(part))
        return result


def _scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.tag == yaml.BaseLoader.DEFAULT_SCALAR_TAG:
        return text
    if node.tag != PLAIN:
        raise _NodeError(node, f"the tag `{node.tag}` is not supported; remove it")
    if text in NULLS:
        return None
    if text in BOOLS:
        return BOOLS[text]
    if OCTAL.fullmatch(text):
        fault = f"`{text}` is an octal number to some readers and not to others"
        remedy = "write it without the leading 0, or in quotes if it is text"
        raise _NodeError(node, f"{fault}; {remedy}")
    if DATE.fullmatch(text):
        fault = f"`{text}` is a date to some readers and text to others"
        raise _NodeError(node, f"{fault}; put it in quotes")
    if NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    if INTEGER.fullmatch(text) or FLOAT.fullmatch(text):
        return _number(node)
    return text


def _number(node: yaml.ScalarNode) -> int | float:
    digits = node.value.replace("_", "")
    try:
        number = int(digits, 0) if INTEGER.fullmatch(node.value) else float(digits)
    except ValueError:  # no digit after the prefix, or more than Python reads
        fault = f"`{_short(node.value)}` is not a number that can be used"
        raise _NodeError(node, f"{fault}; correct it") from None
    whole = isinstance(number, int)
    if number.bit_length() > 1023 if whole else not math.isfinite(number):
        raise _NodeError(node, f"`{_short(node.value)}` is too large a number; correct it")
    return number


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what `parse_yaml` would not read as text."""


for _kind, _pattern, _first in (
    ("int", INTEGER.pattern, "-+0123456789"),
    ("float", FLOAT.pattern, "-+0123456789."),
    ("timestamp", f"{OCTAL.pattern}|{DATE.pattern}", "-+0123456789"),
):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^({_pattern})$", re.DOTALL), list(_first)
    )
