"""Rules about the source that no import can check: who talks to other processes, and how long things may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "guidestar"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 350, 60


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def imported(tree: ast.AST) -> set[str]:
    """Full names of all modules and members that are imported anywhere in the file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its decorators and docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_there_is_source() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_one_file_outside_training_imports_torch_distributed(path: Path) -> None:
    allowed = name(path) == "distributed.py" or name(path).startswith("training/")
    text = path.read_text(encoding="utf-8")
    used = any(module.startswith("torch.distributed") for module in imported(ast.parse(text)))
    assert allowed or not (used or "torch.distributed." in "".join(_code(text)))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE, f"{name(path)} is longer than {MAX_FILE} lines: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert length(node) <= MAX_FUNCTION, f"{name(path)}:{node.lineno} {node.name} has {length(node)} lines"


def _code(text: str) -> list[str]:
    """Attribute chains in the code (docstrings and comments left out)."""
    return [ast.unparse(node) + "." for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
