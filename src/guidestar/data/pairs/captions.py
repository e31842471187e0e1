"""Captions as a source holds them, made into lists of texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from guidestar.errors import UserError

_log = logging.getLogger("guidestar")
_NAMED = 20  # rows named in the log, at most


def caption_texts(cells: Sequence[Any], where: Callable[[], str]) -> list[str]:
    """The texts in some cells, each of which is a text, a list of texts, or empty; blank texts do not count.

    Args:
        cells: the cells of a row.
        where: names the row in an error message.

    Raises:
        UserError: a cell holds something else.

    Example:
        >>> caption_texts(["a cat ", None, ["one cat", ""]], lambda: "the example")
        ['a cat', 'one cat']
    """
    texts: list[str] = []
    for cell in cells:
        for text in list(cell) if isinstance(cell, list | tuple | np.ndarray) else [cell]:
            if text is None:
                continue
            if not isinstance(text, str):
                raise UserError(f"a caption must be a text, found {type(text).__name__} in {where()}.")
            if text.strip():
                texts.append(text.strip())
    return texts


def rows_with_captions(
    captions: Sequence[Sequence[str]], where: Callable[[int], str], on_error: str, source: str
) -> np.ndarray:
    """The positions that have a caption, int64.

    Args:
        captions: the captions of each position.
        where: position -> what to call it.
        on_error: "raise": each must have one; "skip": those without are named in the log.
        source: what to call the data.

    Raises:
        UserError: one has none (`on_error="raise"`), or all have none.

    Example:
        >>> rows_with_captions([["a cat"], ["a dog"]], str, "raise", "the example").tolist()
        [0, 1]
    """
    lacking = [position for position, texts in enumerate(captions) if not texts]
    if lacking and on_error == "raise":
        raise UserError(
            f"{source}: {where(lacking[0])} has no caption ({len(lacking)} of {len(captions)} rows have none). "
            "Add one, or set `on_error: skip`."
        )
    if len(lacking) == len(captions):
        raise UserError(f"{source} has no row with a caption.")
    log_skipped(source, [f"{where(position)} has no caption" for position in lacking], len(captions))
    return np.setdiff1d(np.arange(len(captions), dtype=np.int64), np.asarray(lacking, dtype=np.int64))


def log_skipped(source: str, reasons: Sequence[str], total: int) -> None:
    """Warn that samples were left out: how many, and the reason of the first of them.

    Args:
        source: what to call the data.
        reasons: why, one a sample; nothing is logged if there is none.
        total: number of samples before skipping.
    """
    if reasons:
        _log.warning("%s: skipped %d of %d samples", source, len(reasons), total)
    for reason in reasons[:_NAMED]:
        _log.warning("skipped: %s", reason)
    if len(reasons) > _NAMED:
        _log.warning("skipped: and %d more", len(reasons) - _NAMED)
