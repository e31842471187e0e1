"""What a recipe says and where it says it; what tells two recipes apart."""

from __future__ import annotations

import hashlib
import json
import textwrap
from typing import Any

from guidestar.training.recipe_errors import AnyRecipe, spell
from guidestar.training.recipe_io import LoadedRecipe, leaves

# A run may be continued with any of these changed: they say what to run, where to put it and how to watch it, and a
# checkpoint belongs to one seed and strategy already.
_FREE = frozenset(
    {
        "name",
        "task",
        "output",
        "base",
        "seeds",
        "strategies",
        "data.workers",
        "training.evaluate_every",
        "training.checkpoint_every",
        "training.keep_checkpoints",
        "training.device",
        "training.threads",
        "training.tracker",
        "evaluate.queries",
    }
)


def explain(loaded: LoadedRecipe, width: int = 80) -> str:
    """Every resolved key = value of a recipe with where it came from and what it means, as text.

    Args:
        loaded: The recipe.
        width: The largest width of a line.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from guidestar.training.recipe_io import load_recipe
        >>> data = "{train: {source: sklearn_digits}, test_fraction: 0.25}"
        >>> text = f"{{name: a, strategies: [erm], model: {{name: mlp}}, data: {data}}}"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "r.yaml").write_text(text)
        ...     loaded = load_recipe(Path(folder, "r.yaml"))
        >>> print(explain(loaded).splitlines()[0])
        name = a (r.yaml)
    """
    names = {"file": loaded.path.name, "override": "command line", "default": "default"}
    lines: list[str] = []
    section = ""
    for path, leaf in leaves(loaded.recipe):
        if "." in path and path.partition(".")[0] != section:
            section = path.partition(".")[0]
            lines.append("")
        lines.extend(_entry(f"{path} = {_plain(leaf.value)}", names[loaded.sources[path]], width))
        lines.extend(_wrapped(leaf.description, width, "    "))
    usable, dropped = loaded.recipe.resolved_strategies()
    lines += ["", *_wrapped(f"Strategies that will run: {', '.join(usable)}", width, "")]
    for strategy, reason in dropped.items():
        lines.extend(_wrapped(f"Left out: {strategy}. {reason}", width, ""))
    return "\n".join(lines)


def _entry(text: str, source: str, width: int) -> list[str]:
    source = f"({source})"
    lines = _wrapped(text, width, "", "        ")
    if len(lines[-1]) + len(source) + 2 <= width:
        lines[-1] += " " * (width - len(lines[-1]) - len(source)) + source
        return lines
    return [*lines, *(line.rjust(width) for line in textwrap.wrap(source, width))]


def _wrapped(text: str, width: int, first: str, later: str | None = None) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=first if later is None else later)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(entry) for entry in value) + "]"
    return value if isinstance(value, str) and value.isprintable() else spell(value, limit=None)


def recipe_digest(recipe: AnyRecipe) -> str:
    """sha256 of everything in a recipe that determines the trained weights of a seed and strategy.

    Names, folders, seeds, strategies, trackers, checkpoints, evaluations, and the machine's settings don't count.

    Example:
        >>> from guidestar.training.recipe_io import check_recipe
        >>> data = {"train": {"source": "sklearn_digits"}, "test_fraction": 0.25}
        >>> values = {"name": "a", "strategies": ["erm"], "data": data, "model": {"name": "mlp"}}
        >>> recipe_digest(check_recipe(values)) == recipe_digest(check_recipe({**values, "name": "b"}))
        True
    """
    return hashlib.sha256(json.dumps(_determining(recipe), sort_keys=True).encode()).hexdigest()


def difference(checkpoint: AnyRecipe, recipe: AnyRecipe) -> list[str]:
    """What tells the recipe of a checkpoint from a recipe, one sentence a key; empty when their digests are equal.

    Example:
        >>> from guidestar.training.recipe_io import check_recipe
        >>> data = {"train": {"source": "sklearn_digits"}, "test_fraction": 0.25}
        >>> values = {"name": "a", "strategies": ["erm"], "data": data, "model": {"name": "mlp"}}
        >>> difference(check_recipe(values), check_recipe({**values, "training": {"lr": 0.01}}))
        ['training.lr: 0.001 in the checkpoint, 0.01 in the recipe']
    """
    old, new = _determining(checkpoint), _determining(recipe)
    return [
        f"{key}: {_side(old, key)} in the checkpoint, {_side(new, key)} in the recipe"
        for key in dict.fromkeys([*old, *new])
        if _side(old, key) != _side(new, key)
    ]


def _side(values: dict[str, str], key: str) -> str:
    return values.get(key, "absent")


def _determining(recipe: AnyRecipe) -> dict[str, str]:
    return {path: spell(leaf.value, limit=None) for path, leaf in leaves(recipe) if path not in _FREE}
