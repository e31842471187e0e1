"""Reading a recipe from a file with overrides from the command line, and writing the resolved one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from guidestar.errors import UserError
from guidestar.training.recipe import Recipe
from guidestar.training.recipe_errors import (
    AnyRecipe,
    Keys,
    describe,
    dotted,
    models_at,
    recipe_class,
    spell,
    unknown_key,
)
from guidestar.training.recipe_yaml import read_yaml, write_yaml

if TYPE_CHECKING:
    from guidestar.training.pair_recipe import PairRecipe

Origin = Literal["file", "override", "default"]


class Leaf(NamedTuple):
    """One value of a recipe, with the description of its key."""

    value: Any
    description: str


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe, the file it was read from, and where each of its values came from.

    Attributes:
        recipe: The checked recipe.
        path: The file.
        base: The absolute folder that the recipe's relative paths start from.
        output: The absolute parent folder of runs; a relative one starts from the working directory at loading.
        sources: The origin of each value by dotted key, with the keys of `leaves(recipe)`.
    """

    recipe: AnyRecipe
    path: Path
    base: Path
    output: Path
    sources: Mapping[str, Origin]

    def resolve(self, path: str) -> Path:
        """A path of the recipe as an absolute one."""
        return self.base / Path(path).expanduser()

    @property
    def run_folder(self) -> Path:
        """The absolute folder of this run."""
        return self.output / self.recipe.name


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe of a YAML file, with `key=value` overrides applied on top.

    Args:
        path: The file.
        overrides: `a.b.c=value`, where the value is YAML and a list's entries are numbered from 0 (`seeds.0=3`).
            A later override wins over an earlier one.

    Raises:
        UserError: The file is missing or not YAML, an override can't be applied, or a key or value is wrong; the
            message lists every error, one a line.

    Example:
        >>> import tempfile
        >>> data = "{train: {source: sklearn_digits}, test_fraction: 0.25}"
        >>> text = f"{{name: a, strategies: [erm], model: {{name: mlp}}, data: {data}}}"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "r.yaml").write_text(text)
        ...     loaded = load_recipe(Path(folder, "r.yaml"), ["training.lr=1e-2"])
        >>> loaded.recipe.training.lr, loaded.sources["training.lr"], loaded.sources["name"]
        (0.01, 'override', 'file')
    """
    path = Path(path)
    document = read_yaml(_text(path), path.name)
    raw = document.value
    if raw is None:
        raise UserError(f"{path}: the recipe is empty; it needs at least `name`, `data`, `model` and `reference`")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a recipe must be a mapping (keys with values), found {spell(raw)}")
    given = set(_given(raw, ()))
    overridden = [_override(raw, text) for text in overrides]

    def place(keys: Keys) -> str:
        if any(keys[: len(done)] == done or done[: len(keys)] == keys for done in overridden if keys):
            return "command line: "
        line = document.lines.get(keys)
        return f"line {line}: " if line else ""

    recipe = check_recipe(raw, path.name, place)
    base = (path.absolute().parent / Path(recipe.base or ".").expanduser()).resolve()
    output = Path(os.path.abspath(Path(recipe.output).expanduser()))
    return LoadedRecipe(recipe, path, base, output, _origins(recipe, given, overridden))


def check_recipe(
    raw: Mapping[str, Any], where: str = "recipe", place: Callable[[Keys], str] = lambda _: ""
) -> AnyRecipe:
    """The recipe of plain values; `where` names it in errors and `place` says where a key stands in it.

    Raises:
        UserError: A key or value is wrong; the message lists every error, one a line.

    Example:
        >>> data = {"train": {"source": "sklearn_digits"}, "test_fraction": 0.25}
        >>> check_recipe({"name": "a", "strategies": ["erm"], "data": data, "model": {"name": "mlp"}}).seeds
        (0, 1, 2)
    """
    try:
        return recipe_class(raw).model_validate(raw)
    except ValidationError as error:
        problems = [place(keys) + text for keys, text in describe(error, raw)]
    if len(problems) == 1:
        raise UserError(f"{where}: {problems[0]}")
    raise UserError("\n".join([f"{where}: {len(problems)} problems", *(f"  {problem}" for problem in problems)]))


def classification(recipe: AnyRecipe) -> Recipe:
    """The recipe as one of classification.

    Raises:
        TypeError: it is one of pairs.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"`recipe` must be one of classification. Found `task: {recipe.task}`.")
    return recipe


def pairs(recipe: AnyRecipe) -> PairRecipe:
    """The recipe as one of pairs.

    Raises:
        TypeError: it is one of classification.
    """
    if isinstance(recipe, Recipe):
        raise TypeError(f"`recipe` must be one of pairs. Found `task: {recipe.task}`.")
    return recipe


def dump(loaded: LoadedRecipe) -> str:
    """The resolved recipe as YAML, which loads to the same recipe from any folder.

    `base` and `output` are written as absolute paths. A default list of strategies is left out, so that it still
    means "all that the recipe allows" when the file is read again.
    """
    recipe = loaded.recipe
    values = recipe.model_dump()
    values["base"] = str(loaded.base)
    values["output"] = str(loaded.output)
    head = "# The resolved recipe of a run.\n"
    if "strategies" not in recipe.model_fields_set:
        del values["strategies"]
        usable, dropped = recipe.resolved_strategies()
        head += f"# strategies: [{', '.join(usable)}], by default"
        head += f"; left out: {', '.join(dropped)}\n" if dropped else "\n"
    return head + write_yaml(values)


def leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Every value of a recipe with its dotted key and description; lists are one value."""
    for key, field in type(model).model_fields.items():
        yield from _leaves(prefix + key, getattr(model, key), field.description or "")


def _leaves(path: str, value: Any, description: str) -> Iterator[tuple[str, Leaf]]:
    if isinstance(value, BaseModel):
        yield from leaves(value, path + ".")
    elif isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _leaves(f"{path}.{key}", entry, description)
    else:
        yield path, Leaf(value, description)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such recipe file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give the recipe's YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the recipe is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _origins(recipe: AnyRecipe, given: set[str], overridden: list[Keys]) -> dict[str, Origin]:
    from_command_line = [dotted(keys) for keys in overridden]
    origins: dict[str, Origin] = {}
    for path, _ in leaves(recipe):
        if any(_within(path, other) or _within(other, path) for other in from_command_line):
            origins[path] = "override"
        else:
            origins[path] = "file" if path in given else "default"
    return origins


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(outer + ".")


def _given(raw: Any, keys: Keys) -> Iterator[str]:
    yield dotted(keys)
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _given(value, (*keys, key))


def _override(raw: dict[str, Any], text: str) -> Keys:
    """Applies one `key=value` to the raw recipe, in place; the keys it changed."""
    name, equals, value_text = text.partition("=")
    name = name.strip()
    parts = name.split(".")
    if not equals or not all(parts):
        raise UserError(f"override `{text}`: must be key=value, for example training.lr=0.01 or seeds.0=3")
    value = read_yaml(value_text, f"override `{text}`").value
    node: Any = raw
    keys: list[str | int] = []
    for part in parts[:-1]:
        keys.append(_key(node, part, keys, text))
        if isinstance(node, dict) and node.get(keys[-1]) is None:
            node[keys[-1]] = _start(keys, raw)
        node = node[keys[-1]]
    keys.append(_key(node, parts[-1], keys, text))
    node[keys[-1]] = value
    return tuple(keys)


def _key(node: Any, part: str, keys: list[str | int], text: str) -> str | int:
    """`part` as a key or an index of `node`, which stands at `keys`."""
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise UserError(
            f"override `{text}`: `{dotted(keys)}` is {spell(node)}, which has no keys; override it as a whole"
        )
    if not part.isdecimal() or int(part) >= len(node):
        raise UserError(
            f"override `{text}`: `{dotted(keys)}` is a list of {len(node)} entries, numbered from 0; found {part!r}"
        )
    return int(part)


def _start(keys: list[str | int], raw: dict[str, Any]) -> Any:
    """What an override inside a key starts from that the file doesn't give: the default's entries or its kind."""
    key = str(keys[-1])
    parents = models_at(keys[:-1], raw)
    if parents and not any(key in parent.model_fields for parent in parents):
        raise UserError(f"command line: {unknown_key(tuple(keys), raw)}")
    for parent in parents:
        default = (
            parent.model_fields[key].get_default(call_default_factory=True) if key in parent.model_fields else None
        )
        if isinstance(default, tuple):
            return list(default)
        if isinstance(default, BaseModel) and hasattr(default, "kind"):
            return {"kind": default.model_dump()["kind"]}
    return {}
