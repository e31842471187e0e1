"""What is wrong with a recipe, in the words of the recipe: one line an error, naming the key and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from guidestar.training.recipe import Recipe

if TYPE_CHECKING:
    from guidestar.training.pair_recipe import PairRecipe

Keys = tuple[str | int, ...]

_MAPPING = "must be a mapping (keys with values)"
_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have {max_length} or fewer entries",
    "string_too_short": "must not be empty",
}


AnyRecipe: TypeAlias = "Recipe | PairRecipe"
TASKS: tuple[str, ...] = ("classification", "pairs")


def recipe_class(raw: Any) -> type[Recipe] | type[PairRecipe]:
    """The kind of recipe that raw values are of, by their `task`; without one, or with a wrong one, classification.

    Example:
        >>> recipe_class({"name": "a"}).__name__
        'Recipe'
    """
    if isinstance(raw, dict) and raw.get("task") == "pairs":
        from guidestar.training.pair_recipe import PairRecipe

        return PairRecipe
    return Recipe


def dotted(keys: Sequence[str | int]) -> str:
    """The keys as one dotted path.

    Example:
        >>> dotted(("seeds", 0))
        'seeds.0'
    """
    return ".".join(str(key) for key in keys)


def spell(value: Any, limit: int | None = 60) -> str:
    """The value as it would stand in a recipe, shortened to `limit` characters if there is a limit.

    Example:
        >>> spell(None), spell(True), spell("a"), spell([1, None])
        ('null', 'true', "'a'", '[1, null]')
    """
    text = _inline(value)
    return text if limit is None or len(text) <= limit else text[: limit - 3] + "..."


def _inline(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_inline(v)}" for key, v in value.items()) + "}"
    return repr(value)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that a value of this type may have."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def models_at(keys: Sequence[str | int], raw: Any) -> list[type[BaseModel]]:
    """The settings classes that stand at `keys` of the raw recipe; its own `kind` or `source` narrows them down."""
    models: list[type[BaseModel]] = [recipe_class(raw)]
    for key in keys:
        fields = [model.model_fields[str(key)] for model in _narrowed(models, raw) if key in model.model_fields]
        models = [model for field in fields for model in models_in(field.annotation)]
        raw = _child(raw, key)
    return _narrowed(models, raw)


def _child(raw: Any, key: str | int) -> Any:
    return raw[key] if _holds(raw, key) else None


def _holds(raw: Any, key: str | int) -> bool:
    if isinstance(raw, dict):
        return key in raw
    return isinstance(raw, list | tuple) and isinstance(key, int) and key < len(raw)


def _narrowed(models: list[type[BaseModel]], raw: Any) -> list[type[BaseModel]]:
    if not isinstance(raw, dict):
        return models
    return [model for model in models if all(raw.get(key, tag) == tag for key, tag in _tags(model))] or models


def _tags(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for key, field in model.model_fields.items():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            yield key, get_args(field.annotation)[0]


def key_path(location: Sequence[str | int], raw: Any, kind: str) -> Keys:
    """The keys of an error: its location without the names of the union's members, which nobody has written."""
    keys: list[str | int] = []
    whole, may_be_tag = raw, True
    for place, part in enumerate(location):
        last = place == len(location) - 1
        # A tag may be spelled like a key: `source: shards` has the key `shards`.
        tags = {tag for model in models_at(keys, whole) for _, tag in _tags(model)} if may_be_tag else set()
        may_be_tag = part not in tags
        if part in tags:
            continue
        if _holds(raw, part) or (last and kind == "missing"):
            keys.append(part)
            raw = _child(raw, part)
    return tuple(keys)


def describe(error: ValidationError, raw: Any) -> list[tuple[Keys, str]]:
    """Each error as the keys it is about and one sentence that names them."""
    described: dict[Keys, list[str]] = {}
    for item in error.errors(include_url=False):
        keys = key_path(item["loc"], raw, item["type"])
        for where, text in _sentences(item, keys, raw):
            described.setdefault(where, []).append(text)
    return [(keys, text) for keys, texts in described.items() for text in _merged(texts)]


def _merged(texts: list[str]) -> list[str]:
    """The sentences about one key; a value that may be of several types has one for each, which become one."""
    rules: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        head, must, rest = text.partition(" must ")
        rule, found, value = rest.rpartition(", found ")
        if must and found:
            rules.setdefault((head, value), []).append(rule)
        else:
            rules[text, ""] = []
    return [
        f"{head} must {' or '.join(dict.fromkeys(parts))}, found {value}" if parts else head
        for (head, value), parts in rules.items()
    ]


def _sentences(item: ErrorDetails, keys: Keys, raw: Any) -> list[tuple[Keys, str]]:
    name, kind, context = f"`{dotted(keys)}`", item["type"], item.get("ctx", {})
    if kind == "missing":
        return [(keys, f"{name} is missing{_purpose(keys, raw)}")]
    if kind == "extra_forbidden":
        return [(keys, unknown_key(keys, raw))]
    if kind == "value_error":
        return [(keys, _placed(line, keys)) for line in str(context["error"]).splitlines()]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return [_tag_sentence(keys, raw, context)]
    if kind == "literal_error":
        allowed = list(TASKS) if keys == ("task",) else re.findall(r"'([^']*)'", context["expected"])
        return [(keys, f"{name} {_choice(item['input'], allowed)}")]
    rule = _RULES.get(kind, item["msg"].replace("Input should", "must").replace("{", "{{").replace("}", "}}"))
    hint = "; put it in quotes" if kind == "string_type" and isinstance(item["input"], int | float) else ""
    limits = {key: f"{limit:g}" if isinstance(limit, float) else limit for key, limit in context.items()}
    return [(keys, f"{name} {rule.format(**limits)}, found {spell(item['input'])}{hint}")]


def _placed(text: str, keys: Keys) -> str:
    """A validator's own sentence with the key in front, unless it names the key already."""
    if not keys or f"`{keys[0]}" in text:
        return text
    return f"`{dotted(keys)}` {text}" if text.startswith("must") else f"`{dotted(keys)}`: {text}"


def _tag_sentence(keys: Keys, raw: Any, context: dict[str, Any]) -> tuple[Keys, str]:
    key = context["discriminator"].strip("'")
    where = (*keys, key)
    allowed = list(dict.fromkeys(tag for model in models_at(keys, raw) for name, tag in _tags(model) if name == key))
    if "tag" in context:
        return where, f"`{dotted(where)}` {_choice(context['tag'], allowed)}"
    return where, f"`{dotted(where)}` is missing; allowed: {', '.join(allowed)}"


def _choice(found: Any, allowed: list[str]) -> str:
    text = f"must be {'one of ' * (len(allowed) > 1)}{', '.join(allowed)}, found {spell(found)}"
    return text + _suggestion(found, allowed, str)


def _suggestion(found: Any, allowed: Sequence[str], full: Callable[[str], str]) -> str:
    close = get_close_matches(str(found), allowed, n=1, cutoff=0.6)
    return f"; did you mean `{full(close[0])}`?" if close else ""


def _purpose(keys: Keys, raw: Any) -> str:
    for model in models_at(keys[:-1], raw):
        field = model.model_fields.get(str(keys[-1]))
        if field is not None and field.description:
            return f"; it is required: {field.description}"
    return ""


def unknown_key(keys: Keys, raw: Any) -> str:
    """The sentence for a key that does not exist: the nearest one that does, and all that are allowed there."""
    parent, key = keys[:-1], str(keys[-1])
    allowed = sorted({name for model in models_at(parent, raw) for name in model.model_fields})
    hint = _suggestion(key, allowed, lambda name: dotted((*parent, name)))
    if not hint:
        elsewhere = sorted({path for path in _all_paths(recipe_class(raw)) if path.rpartition(".")[2] == key})[:3]
        if dotted(keys) in elsewhere:
            hint = f"; another kind of `{dotted(parent)}` has it."
        elif elsewhere:
            hint = f"; did you mean {' or '.join(f'`{path}`' for path in elsewhere)}?"
    place = f"under `{dotted(parent)}`" if parent else "at the top of a recipe"
    return f"`{dotted(keys)}` is not a known key{hint or '.'} Allowed {place}: {', '.join(allowed)}"


def _all_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        yield prefix + key
        for inner in models_in(field.annotation):
            yield from _all_paths(inner, f"{prefix}{key}.")
