"""One sample of a tar shard: which of its files is what, and its captions and label."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from guidestar.data.pairs.captions import caption_texts
from guidestar.data.pairs.shard_index import CLASS, IMAGE, JSON, TEXT
from guidestar.data.pairs.tar import read_at
from guidestar.errors import UserError

_KINDS = {
    ".jpg": IMAGE,
    ".jpeg": IMAGE,
    ".png": IMAGE,
    ".webp": IMAGE,
    ".txt": TEXT,
    ".json": JSON,
    ".cls": CLASS,
}


def member_kind(name: str) -> tuple[str, int] | None:
    """The key of the sample that a file of a shard belongs to, and what the file is; None: it is not used.

    The key is the path without the last suffix.

    Example:
        >>> member_kind("./a/000.jpg"), member_kind("000.npy")
        (('a/000', 0), None)
    """
    stem, suffix = os.path.splitext(name.removeprefix("./"))
    kind = _KINDS.get(suffix.lower())
    # Hidden files are what other systems leave behind (._000.jpg).
    return None if kind is None or os.path.basename(stem).startswith(".") else (stem, kind)


def read_member(descriptor: int, members: np.ndarray, kind: int) -> bytes | None:
    """The content of one file of a sample; None: it has no such file.

    Args:
        descriptor: the open shard.
        members: offset and size of each of its files, int64 `[4, 2]`.
        kind: which.
    """
    offset, size = members[kind].tolist()
    return None if offset < 0 else read_at(descriptor, offset, size)


def sample_captions(text: bytes | None, fields: bytes | None, keys: Sequence[str], where: str) -> list[str]:
    """The captions of a sample; an empty list if it has none.

    Args:
        text: its .txt: one caption.
        fields: its .json.
        keys: keys of the .json; none: the .txt, and `caption` of the .json only without a .txt.
        where: what to call the sample.

    Raises:
        UserError: a file is not what its name says.

    Example:
        >>> sample_captions(None, b'{"caption": "a cat", "more": ["one cat"]}', ["caption", "more"], "the example")
        ['a cat', 'one cat']
    """
    if not keys and text is not None:
        try:
            return caption_texts([text.decode("utf-8")], lambda: where)
        except UnicodeDecodeError as error:
            raise UserError(f"the .txt of {where} must be UTF-8 text ({error}).") from error
    if fields is None:
        return []
    values = parse_fields(fields, where)
    return caption_texts([values.get(key) for key in keys or ["caption"]], lambda: where)


def parse_fields(fields: bytes, where: str) -> dict[str, Any]:
    """The .json of a sample.

    Raises:
        UserError: it is not a JSON object.

    Example:
        >>> parse_fields(b'{"caption": "a cat"}', "the example")
        {'caption': 'a cat'}
    """
    try:
        values = json.loads(fields)
    except ValueError as error:
        raise UserError(f"the .json of {where} is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise UserError(f"the .json of {where} must be an object, found {type(values).__name__}.")
    return values


def sample_label(fields: bytes | None, number: bytes | None, label: str, where: str) -> Any:
    """The label of a sample: the content of its .cls if `label` is "cls" and it has one, else a value of its .json.

    Raises:
        UserError: there is no such value.

    Example:
        >>> sample_label(None, b"7", "cls", "the example"), sample_label(b'{"kind": "cat"}', None, "kind", "the example")
        (7, 'cat')
    """
    if label == "cls" and number is not None:
        text = number.decode("utf-8", "replace").strip()
        return int(text) if text.lstrip("-").isdigit() else text
    values = {} if fields is None else parse_fields(fields, where)
    if label not in values:
        raise UserError(f"`label`: {where} has no {label!r}; its .json has: {', '.join(values) or 'nothing'}.")
    return values[label]
