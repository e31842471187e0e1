"""Write the pages of docs/ that come from the code: `python scripts/write_docs.py`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from guidestar.equations import write_index
from guidestar.models.pairs.settings import DualOptions, OpenClipOptions, TransformersOptions
from guidestar.training.pair_recipe import PairRecipe
from guidestar.training.recipe import Recipe

DOCS = Path(__file__).resolve().parents[1] / "docs"

_INTRODUCTION = """# Every key of a recipe

Written by `python scripts/write_docs.py` from the checks that a recipe goes through; a test fails when this page is
stale. [How a recipe works](recipe.md) explains the parts. `guidestar train --explain recipe.yaml` prints a recipe with
all defaults filled in and where each value came from.

A key with the default *required* must be given where its section is.
"""

_CLASSIFICATION = f"""{_INTRODUCTION}
A recipe with `task: pairs` trains on image-text pairs and has [other keys](pairs-reference.md).
"""

_PAIRS = f"""{_INTRODUCTION.replace("a recipe", "a recipe of image-text pairs", 1)}
[Image-text pairs](pairs.md) is the guide to them. The reference's model takes the same options as `model`.
"""

#: What stands in `options` of a model of pairs, by its name.
_PAIR_MODELS: dict[str, type[BaseModel]] = {
    "dual": DualOptions,
    "transformers:PATH": TransformersOptions,
    "open_clip:NAME": OpenClipOptions,
}


def pages() -> dict[str, str]:
    """The generated pages, by their names below docs/."""
    return {
        "equations.md": write_index(),
        "recipe-reference.md": _reference(_CLASSIFICATION, Recipe, {}),
        "pairs-reference.md": _reference(_PAIRS, PairRecipe, _PAIR_MODELS),
    }


def _reference(introduction: str, recipe: type[BaseModel], models: dict[str, type[BaseModel]]) -> str:
    """All keys of a recipe, section by section; the options of its models stand behind the section `model`."""
    parts = [introduction]
    for title, text in _tables(recipe).items():
        parts.append(f"## {title}\n\n{text}\n")
        if title == "`model`":
            for name, options in models.items():
                parts.append(f"## `model.options` with `name: {name}`\n\n{_tables(options).popitem()[1]}\n")
    return "\n".join(parts)


def _tables(model: type[BaseModel]) -> dict[str, str]:
    schema = model.model_json_schema()
    return dict(_sections(schema, schema.get("$defs", {}), "", set()))


def _sections(schema: dict, defs: dict, prefix: str, done: set[str]) -> Iterator[tuple[str, str]]:
    """A table of a section's keys, then the sections inside it, each described once."""
    rows = ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    inner: list[tuple[str, str]] = []
    # The key that tells a section from its alternatives comes first.
    for key, value in sorted(schema["properties"].items(), key=lambda item: "const" not in item[1]):
        default = _default(key, value, schema)
        rows.append(f"| `{prefix}{key}` | {_cell(_type(value, defs))} | {default} | {_cell(value['description'])} |")
        inner += [(name, f"{prefix}{key}") for name in _models(value) if name not in done]
        done.update(_models(value))
    yield (f"`{prefix.rstrip('.')}`" if prefix else "The recipe"), "\n".join(rows)
    for name, path in inner:
        kind = _kind(defs[name])
        if kind is None:
            yield from _sections(defs[name], defs, f"{path}.", done)
        else:
            key, label = kind
            where = "data.train and data.test" if path in ("data.train", "data.test") else path
            title = " and ".join(f"`{part}`" for part in where.split(" and ")) + f" with `{key}: {label}`"
            lines = dict(_sections(defs[name], defs, "", done))
            yield title, f"{_summary(defs[name])}\n\n{lines.pop('The recipe')}"
            yield from lines.items()


def _models(value: dict) -> list[str]:
    """The names of the sections that a value may be."""
    found = [value["$ref"].rpartition("/")[2]] if "$ref" in value else []
    for choice in (*value.get("oneOf", ()), *value.get("anyOf", ()), *value.get("allOf", ())):
        found += _models(choice)
    return found


def _kind(model: dict) -> tuple[str, str] | None:
    """The key and value that tell a section from its alternatives."""
    for key, value in model["properties"].items():
        if "const" in value:
            return key, value["const"]
    return None


def _type(value: dict, defs: dict) -> str:
    if "discriminator" in value and len(value["oneOf"]) > 2:
        return f"keys, by `{value['discriminator']['propertyName']}`"
    choices = [*value.get("anyOf", ()), *value.get("oneOf", ())]
    if choices:
        return " or ".join(dict.fromkeys(_type(choice, defs) for choice in choices))
    if "$ref" in value:
        kind = _kind(defs[value["$ref"].rpartition("/")[2]])
        return "keys" if kind is None else f"`{kind[0]}: {kind[1]}`"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if value.get("type") == "array":
        if "prefixItems" in value:
            return f"list of {len(value['prefixItems'])}: {_type(value['prefixItems'][0], defs)}"
        return f"list of {_type(value.get('items', {'type': 'string'}), defs)}"
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
    return names.get(value.get("type", ""), "names and values") + _bounds(value)


def _bounds(value: dict) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {value[name]}" for name, sign in signs.items() if name in value]
    return f" {', '.join(bounds)}" if bounds else ""


def _default(key: str, value: dict, schema: dict) -> str:
    if key in schema.get("required", ()):
        return "*required*"
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("default") is None:
        return "null" if "default" in value else "empty"
    if _models(value) and not value.get("discriminator"):
        return "see below" if isinstance(value["default"], dict) else _plain(value["default"])
    return _plain(value["default"])


def _plain(value: Any) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _summary(model: dict) -> str:
    return model["description"].partition("\n\n")[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Write every page that differs, and say which."""
    for name, text in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
