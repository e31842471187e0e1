"""Files by pattern: globs, and braces as webdataset writes them."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from guidestar.errors import UserError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str) -> list[str]:
    """The texts that a pattern with {000..012} and {a,b} stands for.

    Raises:
        UserError: a brace is not closed, holds neither form, or its range runs backwards.

    Example:
        >>> expand_braces("{a,b}/{08..10}.tar")[:4]
        ['a/08.tar', 'a/09.tar', 'a/10.tar', 'b/08.tar']
    """
    pieces = _BRACES.split(pattern)
    if any("{" in piece or "}" in piece for piece in pieces[::2]):
        raise UserError(f"the braces in {pattern!r} do not match.")
    choices = [_choices(piece, pattern) if number % 2 else [piece] for number, piece in enumerate(pieces)]
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    found = _RANGE.fullmatch(inside)
    if found:
        first, last = found.groups()
        if int(first) > int(last):
            raise UserError(f"the range {{{inside}}} in {pattern!r} runs backwards.")
        return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    if "," not in inside:
        raise UserError(f"{{{inside}}} in {pattern!r} must be a range like {{000..012}} or a choice like {{a,b}}.")
    return inside.split(",")


def find_files(patterns: str | Sequence[str], base: Path, what: str) -> list[Path]:
    """The files that patterns stand for: in the order of the patterns, those of a glob sorted, each once.

    Args:
        patterns: paths relative to `base`, with * and ? and [..] and braces.
        base: a folder.
        what: the key that holds the patterns, for error messages.

    Raises:
        FileNotFoundError: there is no such file, or a glob finds none.
        UserError: there is no pattern, or one is malformed.

    Example:
        >>> [path.name for path in find_files("patt*.py", Path(__file__).parent, "shards")]
        ['patterns.py']
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for text in expand_braces(pattern):
            path = base / text
            matches = [path] if path.is_file() else [Path(match) for match in sorted(glob.glob(str(path)))]
            files = [match for match in matches if match.is_file() and not match.name.endswith(".index")]
            if not files:
                raise FileNotFoundError(f"`{what}`: {pattern!r} finds no file: there is none at {path}.")
            found.update(dict.fromkeys(files))
    if not found:
        raise UserError(f"`{what}` must name at least one file.")
    return list(found)


def part_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file that tells it from the others: its file name, or its path below their common folder.

    Example:
        >>> part_names([Path("x/a/0.tar"), Path("x/b/0.tar")]), part_names([Path("x/a/0.tar"), Path("x/b/1.tar")])
        (['a/0.tar', 'b/0.tar'], ['0.tar', '1.tar'])
    """
    names = [path.name for path in paths]
    depth = 1
    while len(set(names)) < len(set(paths)) and depth < max(len(path.parts) for path in paths):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return names
