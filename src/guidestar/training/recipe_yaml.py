"""YAML as recipes use it: duplicate keys are errors, 1e-3 is a number, `on` and dates are text; lines are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from guidestar.errors import UserError

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_INT = re.compile(r"[-+]?[0-9]+$|0o[0-7]+$|0x[0-9a-fA-F]+$")


class _Loader(yaml.SafeLoader):
    """Reads plain values as YAML 1.2 does: PyYAML alone reads 1e-3 as text, 1:30 as 90 and `on` as true."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own protocol


class _Dumper(yaml.SafeDumper):
    """Quotes text that either reading would take for something else, 1e-3 included."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Single quotes fold unusual line ends such as U+0085 into blanks; double quotes escape them.
    return dumper.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"~$|null$|Null$|NULL$|$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TAG + "bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))
_Dumper.add_representer(str, _text)
_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))


@dataclass
class Document:
    """The values of a YAML text, and the line on which each key (or list entry) stands."""

    value: Any
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)


def read_yaml(text: str, where: str) -> Document:
    """The values of `text`; `where` names it in errors.

    Raises:
        UserError: a syntax error, a duplicate key, a key that is not text, or a value that refers to itself; with
            the line and the column.

    Example:
        >>> read_yaml("lr: 1e-3", "recipe.yaml")
        Document(value={'lr': 0.001}, lines={('lr',): 1})
    """
    try:
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}, {_place(mark)}" if mark is not None else where
        raise UserError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    reader = _Reader(where)
    value = None if node is None else reader.value(node, ())
    return Document(value, reader.lines)


def write_yaml(value: Any) -> str:
    """`value` as YAML that `read_yaml` reads back to the same value.

    Example:
        >>> print(write_yaml({"name": "1e-3", "lr": 0.001}), end="")
        name: '1e-3'
        lr: 0.001
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


class _Reader:
    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[tuple[str | int, ...], int] = {}
        self._open: list[yaml.Node] = []

    def value(self, node: yaml.Node, path: tuple[str | int, ...]) -> Any:
        if any(node is outer for outer in self._open):
            raise self._error(node, "the value refers to itself")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._open.append(node)
        result = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self._open.pop()
        return result

    def _sequence(self, node: yaml.Node, path: tuple[str | int, ...]) -> list[Any]:
        for place, entry in enumerate(node.value):
            self.lines.setdefault((*path, place), entry.start_mark.line + 1)
        return [self.value(entry, (*path, place)) for place, entry in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node, ())
            if key == "<<" and key_node.style is None:
                merged = {**self._merged(value_node), **merged}
                continue
            if not isinstance(key, str):
                raise self._error(key_node, f"a key must be text, found {key!r}; put it in quotes")
            if key in own:
                raise self._error(
                    key_node, f"the key `{key}` is given twice; the first is on line {self._line(path, key)}"
                )
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            own[key] = self.value(value_node, (*path, key))
        return {**merged, **own}

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        lines = self.lines
        self.lines = {}  # merged values stand on another key's lines
        value = self.value(node, ())
        self.lines = lines
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self._error(node, "`<<` merges a mapping or a list of mappings")
        return {key: entry for part in reversed(parts) for key, entry in part.items()}

    def _line(self, path: tuple[str | int, ...], key: str) -> int:
        return self.lines[(*path, key)]

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
                case "float":
                    return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
        except (ValueError, KeyError):
            raise self._error(node, f"{text[:40]!r} is not a value of the type {node.tag}") from None
        raise self._error(node, f"the tag {node.tag} is not allowed; write the plain value")

    def _error(self, node: yaml.Node, text: str) -> UserError:
        return UserError(f"{self.where}, {_place(node.start_mark)}: {text}")
