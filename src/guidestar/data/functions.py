"""Data from a function of the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from guidestar.data.arrays import ArraySplit
from guidestar.data.split import Split
from guidestar.errors import UserError


def resolve(spec: str, base: Path) -> Callable[..., Any]:
    """The function that "package.module:function" or "path/file.py:function" names.

    Args:
        spec: the name; a path is relative to `base`, and modules beside the recipe can be imported too.
        base: the folder of the recipe.

    Raises:
        UserError: the form is wrong, or there is no such module, file or function. Errors inside the user's code are
            passed on as they are.

    Example:
        >>> resolve("math:sqrt", Path())(9.0)
        3.0
    """
    target, _, attribute = spec.rpartition(":")
    if not target or not attribute.isidentifier():
        raise UserError(f'`function` must be "package.module:function" or "path/file.py:function", found {spec!r}.')
    module = _load_file(base / target, spec) if target.endswith(".py") else _import(target, spec, base)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f"`function` {spec!r}: {target} has no function `{attribute}`.")
    return function


def _load_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"`function` {spec!r}: there is no file {path}.")
    # Registered under a name of its own, so that objects of its classes can be pickled.
    name = f"guidestar_user_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise UserError(f"`function` {spec!r}: {path} cannot be loaded as Python code.")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(target: str, spec: str, base: Path) -> ModuleType:
    folder = str(base.resolve())
    sys.path.append(folder)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        # A module that the user's own code lacks is another matter, and passed on.
        if error.name is None or not (target == error.name or target.startswith(f"{error.name}.")):
            raise
        raise UserError(f"`function` {spec!r}: there is no module `{error.name}` (looked in {folder} too).") from error
    finally:
        sys.path.remove(folder)


def call_data_function(function: str, options: Mapping[str, Any], base: Path) -> Mapping[str, Any]:
    """What the user's function returns: {"train": ..., "test": ..., "class_names": [...]}.

    Args:
        function: its name, see `resolve`.
        options: keyword arguments for it.
        base: the folder of the recipe.

    Raises:
        TypeError: it returns something else than a dictionary, or does not take these options.
    """
    returned = resolve(function, base)(**options)
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
        UserError: there is no entry of that name.
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
    class_names = returned.get("class_names")
    split = ArraySplit(found[0], found[1], name=name, class_names=class_names)
    if class_names is None and other is not None and split.num_classes < other.num_classes:
        return split.with_classes(other.class_names)
    return split
