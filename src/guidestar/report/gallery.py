"""The gallery of retrievals that a training on image-text pairs left, checked before it reaches the page."""

import base64
import binascii
import json
import math
from dataclasses import dataclass
from typing import Any

from guidestar.report.rundir import Run, number
from guidestar.report.strategies import Strategy, describe, in_order

JPEG_SIGNATURE = b"\xff\xd8\xff"
QUERIES_SHOWN, FOUND_SHOWN = 12, 10


@dataclass(frozen=True)
class Item:
    """An image or a caption, as a query or as what was found; all text is as the user's data has it.

    Args:
        text: the caption, or the image's key.
        image: a checked data URI; None for captions and for images that are refused.
        right: whether it belongs to the query.
        score: its similarity; empty for queries.
    """

    text: str
    image: str | None
    right: bool = False
    score: str = ""


@dataclass(frozen=True)
class Query:
    """What a model found.

    Args:
        asked: the caption or image that was looked up.
        found: the nearest, nearest first.
    """

    asked: Item
    found: list[Item]


@dataclass(frozen=True)
class Gallery:
    """The retrievals of a strategy.

    Args:
        strategy: whose model it was.
        seed: of the run that it comes from.
        text_to_image: captions and the images nearest to them.
        image_to_text: images and the captions nearest to them.
    """

    strategy: Strategy
    seed: int
    text_to_image: list[Query]
    image_to_text: list[Query]

    @property
    def hits(self) -> str:
        """For how many queries the partner is among what is shown, both ways.

        Example:
            >>> item = Item("a", None)
            >>> Gallery(describe("erm"), 0, [Query(item, [Item("b", None, right=True)])], [Query(item, [item])]).hits
            'found 1 of 1 images and 0 of 1 captions'
        """
        counts = [
            f"{sum(any(item.right for item in query.found) for query in queries)} of {len(queries)} {what}"
            for queries, what in ((self.text_to_image, "images"), (self.image_to_text, "captions"))
            if queries
        ]
        return f"found {' and '.join(counts)}"


def read_galleries(run: Run) -> tuple[list[Gallery], list[str]]:
    """The galleries of a run, of the first seed that has one for each strategy.

    Args:
        run: the run.

    Returns:
        The galleries in the order of reports, and what could not be read.

    Example:
        >>> from pathlib import Path
        >>> read_galleries(Run(Path("runs/none"), "none", [0], {}))
        ([], [])
    """
    galleries, warnings = [], []
    for strategy in in_order(set(run.folders)):
        for seed, folder in run.folders[strategy]:
            path = folder / "gallery.json"
            if not path.exists():
                continue
            try:
                record = json.loads(path.read_text(encoding="utf-8", errors="replace"))
            except (OSError, json.JSONDecodeError) as error:
                warnings.append(f"gallery.json of {strategy} on seed {seed} cannot be read: {error}")
                continue
            ways = (
                [_queries(record.get(way)) for way in ("text_to_image", "image_to_text")]
                if _is_object(record)
                else [[], []]
            )
            if any(ways):
                galleries.append(Gallery(describe(strategy, run.pairs), seed, *ways))
                break
            warnings.append(f"gallery.json of {strategy} on seed {seed} holds no retrievals.")
    return galleries, warnings


def embedded_jpeg(value: Any) -> str | None:
    """Check that a value is a JPEG in base64, so that nothing else reaches the page.

    Args:
        value: anything.

    Returns:
        A data URI, or None if it is anything else.

    Example:
        >>> embedded_jpeg("/9j/4AAQ")
        'data:image/jpeg;base64,/9j/4AAQ'
        >>> embedded_jpeg("https://example.org/a.jpeg") is None
        True
    """
    if not isinstance(value, str):
        return None
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    # Encoded again: what decodes strictly may still be written in more than one way.
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if data.startswith(JPEG_SIGNATURE) else None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _queries(records: Any) -> list[Query]:
    items = [record for record in records if _is_object(record)] if isinstance(records, list) else []
    return [Query(_item(record), _found(record.get("found"))) for record in items[:QUERIES_SHOWN]]


def _found(records: Any) -> list[Item]:
    items = [record for record in records if _is_object(record)] if isinstance(records, list) else []
    return [_item(record) for record in items[:FOUND_SHOWN]]


def _item(record: dict[str, Any]) -> Item:
    score = number(record.get("score"))
    text = record.get("caption", record.get("key"))
    return Item(
        text="" if text is None else str(text),
        image=embedded_jpeg(record.get("jpeg")),
        right=record.get("right") is True,
        score=f"{score:.2f}" if math.isfinite(score) else "",
    )
