"""Functions of the user's own, by name: "package.module:function" or "path/file.py:function"."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from guidestar.errors import UserError


def resolve(spec: str, base: Path, key: str) -> Callable[..., Any]:
    """The function that "package.module:function" or "path/file.py:function" names.

    Args:
        spec: the name; a path is relative to `base`, and modules beside the recipe can be imported too.
        base: the folder of the recipe.
        key: the recipe's key that named it, for messages.

    Raises:
        UserError: the form is wrong, or there is no such module, file or function. Errors inside the user's code are
            passed on as they are.

    Example:
        >>> resolve("math:sqrt", Path(), "function")(9.0)
        3.0
    """
    target, _, attribute = spec.rpartition(":")
    if not target or not attribute.isidentifier():
        raise UserError(f'`{key}` must be "package.module:function" or "path/file.py:function", found {spec!r}.')
    module = _load_file(base / target, spec, key) if target.endswith(".py") else _import(target, spec, base, key)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f"`{key}` {spec!r}: {target} has no function `{attribute}`.")
    return function


def _load_file(path: Path, spec: str, key: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"`{key}` {spec!r}: there is no file {path}.")
    # Registered under a name of its own, so that objects of its classes can be pickled.
    name = f"guidestar_user_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise UserError(f"`{key}` {spec!r}: {path} cannot be loaded as Python code.")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    loaded = False
    try:
        found.loader.exec_module(module)
        loaded = True
    finally:
        if not loaded:  # half a module must not be found by the next import
            del sys.modules[name]
    return module


def _import(target: str, spec: str, base: Path, key: str) -> ModuleType:
    folder = str(base.resolve())
    sys.path.append(folder)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(target)
    except ModuleNotFoundError as error:
        # A module that the user's own code lacks is another matter, and passed on.
        if error.name is None or not (target == error.name or target.startswith(f"{error.name}.")):
            raise
        raise UserError(f"`{key}` {spec!r}: there is no module `{error.name}` (looked in {folder} too).") from error
    finally:
        sys.path.remove(folder)
