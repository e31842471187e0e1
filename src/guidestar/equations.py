"""Where is equation 6.121? The index from the book's numbers to this code, read from the code itself.

Two things are read: the section `Equations:` of a docstring, and comments that name an equation or an algorithm with
its abbreviation (`Eq.` or `Alg.`) and number. Nothing else has to be kept up to date.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from guidestar.errors import UserError

PACKAGE = Path(__file__).resolve().parent

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_EQUATION = r"\d+\.\d+(?!\.?\d)"
_INTEGER = r"\d+(?!\.?\d)"
_LINK = r"\s*(?:,\s*(?:and\s+)?|and\s+|to\s+)"
_REFERENCE = re.compile(
    # What has a number but is neither an equation nor an algorithm goes first, so that nothing else takes its number.
    rf"(?:steps?|chapters?|tables?|examples?|figures?|fig\.|theorems?|lemmas?)\s+[\d.]*\d(?:{_LINK}{_INTEGER})*"
    r"|sections?\s+(?P<section>\d+(?:\.\d+)+)"
    rf"|alg(?:s?\.|orithms?|)\s*(?P<algorithms>{_INTEGER}(?:{_LINK}{_INTEGER})*)"
    rf"|(?P<prefix>eqs?(?:\.|uations?|))\s*\(?(?P<equations>{_EQUATION}(?:{_LINK}{_EQUATION})*)"
    rf"|(?<![\w.])(?P<bare>{_EQUATION}(?:\s+to\s+{_EQUATION})?)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Entry:
    """One place in the code that states an equation, or that a search found.

    Attributes:
        number: `6.121`, `Alg. 24` or `Section 6.9`; empty for a place that a word was found in.
        file: path below the package's folder.
        line: line number, from 1.
        name: qualified name of the class, function or module.
        test: the test file of the class or function, in a checkout; else None.

    Example:
        >>> print(Entry("6.113", "risks/excess.py", 9, "guidestar.risks.excess.excess", None))
        6.113  guidestar/risks/excess.py:9  guidestar.risks.excess.excess
    """

    number: str
    file: str
    line: int
    name: str
    test: str | None = None

    def __str__(self) -> str:
        parts = [self.number, f"guidestar/{self.file}:{self.line}", self.name, self.test and f"tested in {self.test}"]
        return "  ".join(part for part in parts if part)


def find(query: str) -> list[Entry]:
    """The places that an equation, an algorithm, a section or a word is at, by file and line; estimators, which use them, last.

    Args:
        query: `6.121`, `Eq. 6.121`, `6.45 to 6.47`; `Alg. 24` or `24`; `Section 6.9`; or a word such as `SOX`, which is
            looked for in names and docstrings.

    Raises:
        UserError: `query` is blank.

    Example:
        >>> find("6.116")[0].name
        'guidestar.risks.cvar.TopK'
        >>> find("SOAP")[1].name
        'guidestar.losses.average_precision.AveragePrecisionLoss'
    """
    query = query.strip()
    if not query:
        raise UserError("`query` must be an equation (6.121), an algorithm (Alg. 24) or a word (SOX). Found nothing.")
    wanted = _numbers(query)
    modules = [Module(path) for path in _files()]
    found = [entry for module in modules for entry in (module.numbered() if wanted else module.mentioning(query))]
    found = [entry for entry in found if not wanted or entry.number in wanted]
    found.sort(key=lambda entry: entry.file.startswith("estimators"))
    tests = _tests()
    return [Entry(e.number, e.file, e.line, e.name, _test_of(e, tests)) for e in found]


def write_index() -> str:
    """The Markdown page that lists every equation, algorithm and section with the code that states it.

    It names no lines, which each edit would move; `find` does.

    Example:
        >>> write_index().splitlines()[0]
        '# Equations'
    """
    places: dict[str, set[tuple[str, str]]] = {}
    for path in _files():
        module = Module(path)
        for entry in module.numbered():
            places.setdefault(entry.number, set()).add((module.public(entry.name), entry.file))
    lines = [_INTRODUCTION]
    for title, head in (("By equation", ""), ("By algorithm", "Alg. "), ("By section", "Section ")):
        numbers = [number for number in places if re.fullmatch(rf"{head}[\d.]+", number)]
        if not numbers:
            continue
        lines += [f"\n## {title}\n", "| Number | Stated by | File |", "|---|---|---|"]
        for number in sorted(numbers, key=_order):
            rows = sorted(places[number], key=lambda place: (place[1], place[0]))
            names = ", ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name, _ in rows)
            files = ", ".join(f"`{file}`" for file in dict.fromkeys(file for _, file in rows))
            lines.append(f"| {number} | {names} | {files} |")
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# Equations

The numbers are those of chapter 6 of Tianbao Yang's book on compositional optimization for machine learning
([opt4ml.org](https://opt4ml.org)); algorithms are numbered through the whole book. This page is written by
`python scripts/write_docs.py` from the docstrings and comments of the code, and a test fails when it is stale.

`guidestar where 6.114` prints file, line, class and test of one of them; so do `guidestar where "Alg. 24"` and, for
names, `guidestar where SOX`."""


class Module:
    """A source file, with what its docstrings and comments say."""

    def __init__(self, path: Path) -> None:
        self.file = path.relative_to(PACKAGE).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)
        parts = ("guidestar", *Path(self.file).with_suffix("").parts)
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def definitions(self) -> list[tuple[str, Definition]]:
        """The classes and functions with their qualified names, outer ones first."""
        return list(_inside(self.tree, self.name))

    def numbered(self) -> list[Entry]:
        """Every number that the file states, in the order of its lines."""
        found = {(number, line, name) for number, line, name in [*self._docstrings(), *self._comments()]}
        ordered = sorted(found, key=lambda each: (each[1], _order(each[0]), each[2]))
        return [Entry(number, self.file, line, name) for number, line, name in ordered]

    def mentioning(self, word: str) -> list[Entry]:
        """The classes and functions whose name contains a word or whose docstring has it."""
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        lines = {name: node.lineno for name, node in self.definitions if word in name.rpartition(".")[2]}
        for name, (first, last) in self._docstring_spans():
            hits = (line for line in range(first, last + 1) if pattern.search(self.lines[line - 1]))
            line = next(hits, None)
            if line is not None:
                lines.setdefault(name, line)
        return [Entry("", self.file, line, name) for name, line in sorted(lines.items(), key=lambda item: item[1])]

    def public(self, name: str) -> str:
        """The module's class or function that `name` is or is inside of; the module if that is private."""
        top = name.removeprefix(self.name).lstrip(".").partition(".")[0]
        return self.name if not top or top.startswith("_") else f"{self.name}.{top}"

    def _docstrings(self) -> Iterator[tuple[str, int, str]]:
        for name, span in self._docstring_spans():
            for first, text in _equation_sections(self.lines, span):
                for number, offset in _references(text, bare=True):
                    yield number, first + text.count("\n", 0, offset), name

    def _comments(self) -> Iterator[tuple[str, int, str]]:
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                line = token.start[0]
                for number, _ in _references(token.string, bare=False):
                    yield number, line, self._scope_at(line)

    def _docstring_spans(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """The first and last line of each docstring."""
        for name, node in [(self.name, self.tree), *self.definitions]:
            if ast.get_docstring(node, clean=False) is not None:
                yield name, (node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno)

    def _scope_at(self, line: int) -> str:
        inside = [name for name, node in self.definitions if node.lineno <= line <= (node.end_lineno or line)]
        return inside[-1] if inside else self.name


def _inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            name = f"{prefix}.{child.name}"
            yield name, child
            yield from _inside(child, name)


def _equation_sections(lines: list[str], span: tuple[int, int]) -> Iterator[tuple[int, str]]:
    """The text below each heading `Equations:` of a docstring, with the number of its first line."""
    for start in range(span[0], span[1] + 1):
        heading = lines[start - 1]
        if heading.strip() != "Equations:":
            continue
        indent = len(heading) - len(heading.lstrip())
        stop = start
        while stop < span[1] and (not lines[stop].strip() or len(lines[stop]) - len(lines[stop].lstrip()) > indent):
            stop += 1
        yield start + 1, "\n".join(lines[start:stop])


def _references(text: str, *, bare: bool) -> Iterator[tuple[str, int]]:
    """The numbers that a text names, with their offsets; equations without `Eq.` only if `bare`."""
    for match in _REFERENCE.finditer(text):
        if match["section"]:
            yield f"Section {match['section']}", match.start()
        elif match["algorithms"]:
            yield from ((f"Alg. {number}", match.start()) for number in _expand(match["algorithms"]))
        elif match["equations"]:
            yield from ((number, match.start()) for number in _expand(match["equations"]))
        elif match["bare"] and bare:
            yield from ((number, match.start()) for number in _expand(match["bare"]))


def _expand(listing: str) -> Iterator[str]:
    """`6.45 to 6.47, 6.49` as `6.45`, `6.46`, `6.47`, `6.49`."""
    for first, last in re.findall(r"([\d.]*\d)(?:\s+to\s+([\d.]*\d))?", listing):
        head, dot, start = first.rpartition(".")
        stop = (last or first).rpartition(".")[2]
        yield from (f"{head}{dot}{number}" for number in range(int(start), int(stop) + 1))


def _numbers(query: str) -> set[str]:
    """The numbers that a query asks for; none if it is a word."""
    text = query.strip("() ")
    if re.fullmatch(r"\d+", text):
        return {f"Alg. {text}"}
    if re.fullmatch(r"\d+(\.\d+){2,}", text):
        return {f"Section {text}"}
    return {number for number, _ in _references(text, bare=True)}


def _order(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", number))


def _files() -> list[Path]:
    """The package's files, without those whose examples are queries."""
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    return [path for name, path in sorted(files.items()) if name not in ("equations.py", "cli.py")]


def _tests() -> dict[str, str]:
    """The test files of a checkout, path -> text; none beside an installed package."""
    root = PACKAGE.parents[1]
    if not (root / "pyproject.toml").is_file():
        return {}
    paths = sorted((root / "tests").rglob("test_*.py"))
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def _test_of(entry: Entry, tests: dict[str, str]) -> str | None:
    """The test file of an entry: the one that mirrors its module, or for a class the one that makes most objects of it."""
    path = Path(entry.file)
    module = f"guidestar.{'.'.join(path.with_suffix('').parts)}"
    name = entry.name.removeprefix(module).lstrip(".").partition(".")[0]
    if not name:
        return None
    mirror = f"tests/{(path.parent / f'test_{path.stem}.py').as_posix()}"
    if re.search(rf"\b{re.escape(name)}\b", tests.get(mirror, "")):
        return mirror
    if name.islower():  # the name of a function is often also a word
        return None
    counts = {file: len(re.findall(rf"\b{re.escape(name)}\(", text)) for file, text in tests.items()}
    best = max(counts, key=lambda file: counts[file], default=None)
    return best if best is not None and counts[best] else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the index to a file: `python -m guidestar.equations --write docs/equations.md`."""
    parser = argparse.ArgumentParser(description="Write the index of equations.")
    parser.add_argument("--write", type=Path, required=True, metavar="FILE", help="the Markdown file")
    parser.parse_args(arguments).write.write_text(write_index(), encoding="utf-8")


if __name__ == "__main__":
    main()
