"""Data from a function of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidestar.data.arrays import ArraySplit
from guidestar.data.checks import check_labels, choose_class_names
from guidestar.data.split import Split
from guidestar.errors import UserError
from guidestar.plugins import resolve


def call_data_function(function: str, options: Mapping[str, Any], base: Path) -> Mapping[str, Any]:
    """What the user's function returns: {"train": ..., "test": ..., "class_names": [...]}.

    Args:
        function: its name, see `guidestar.plugins.resolve`.
        options: keyword arguments for it.
        base: the folder of the recipe.

    Raises:
        TypeError: it returns something else than a dictionary, or does not take these options.
    """
    returned = resolve(function, base, "function")(**options)
    if not isinstance(returned, Mapping):
        raise TypeError(
            f'`function` {function!r} must return a dictionary with "train" and "test", '
            f"found {type(returned).__name__}."
        )
    return returned


def split_of(returned: Mapping[str, Any], name: str, *, function: str, other: Split | None = None) -> Split:
    """One split of what `call_data_function` returned: a split as it is, or (inputs, labels) made into one.

    Args:
        returned: the dictionary.
        name: "train" or "test".
        function: its origin, for error messages.
        other: the training split, when this is the test split.

    Raises:
        UserError: there is no entry of that name, or its labels are not those of the classes.
        TypeError: the entry is neither a split nor (inputs, labels).
    """
    if name not in returned:
        raise UserError(f"`function` {function!r} returned no {name!r}; it returned: {', '.join(map(str, returned))}.")
    found = returned[name]
    if isinstance(found, Split):
        return found
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(
            f"`function` {function!r}: {name!r} must be a split or (inputs, labels), found {type(found).__name__}."
        )
    labels = check_labels(found[1])
    class_names = choose_class_names(
        labels,
        returned.get("class_names"),
        None if other is None else other.class_names,
        what=f"`function` {function!r}, labels of {name!r}",
        remedy='return their names as "class_names"',
    )
    return ArraySplit(found[0], labels, name=name, class_names=class_names)
