"""Image-text pairs from a function of the user's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.data.pairs.captions import caption_texts, rows_with_captions
from guidestar.data.pairs.labels import class_ids
from guidestar.data.pairs.memory import MemoryContent
from guidestar.data.pairs.protocol import Pairs
from guidestar.data.pairs.rows import RowPairs
from guidestar.data.pairs.settings import FunctionPairs
from guidestar.data.pairs.strings import CaptionLists, Strings
from guidestar.errors import UserError
from guidestar.plugins import resolve

_ENTRIES = ("images", "captions", "labels", "class_names", "keys")


def read_function(
    settings: FunctionPairs, *, base: Path, name: str, other: Sequence[str] | None, on_error: str
) -> Pairs:
    """The pairs that the user's function returns.

    Args:
        settings: the function and its arguments.
        base: the folder of the recipe.
        name: "train" or "test".
        other: class names of the training data, when this is the test data.
        on_error: "raise" or "skip" rows without a caption.

    Raises:
        UserError: an entry of what it returned is not as it should be.
        TypeError: it returned neither `Pairs` nor a dictionary.
    """
    returned = resolve(settings.function, base, "function")(**settings.options)
    if isinstance(returned, Pairs):
        return returned
    what = f"`function` {settings.function!r}"
    if not isinstance(returned, Mapping):
        raise TypeError(
            f'{what} must return pairs or a dictionary with "images" and "captions", found {type(returned).__name__}.'
        )
    unknown = sorted(set(map(str, returned)) - {*_ENTRIES})
    lacking = [entry for entry in _ENTRIES[:2] if entry not in returned]
    if unknown or lacking:
        fault = f"found {unknown[0]!r}" if unknown else f"{lacking[0]!r} is missing"
        raise UserError(f"{what} must return the entries {', '.join(map(repr, _ENTRIES))}; {fault}.")
    images = _images(returned["images"], what)
    keys = _keys(returned.get("keys"), len(images), what)
    captions = _captions(returned["captions"], len(images), what)

    def where(position: int) -> str:
        return f"row {position}" if keys is None else repr(keys[position])

    kept = rows_with_captions(captions, where, on_error, what)
    content = MemoryContent(images, CaptionLists.of(captions), keys, settings.max_pixels)
    pairs = RowPairs(content, name=name)
    pairs = pairs if len(kept) == len(pairs) else pairs.subset(kept)
    if returned.get("labels") is None:
        if settings.class_names is not None:
            raise UserError(f'{what} returned no "labels", which `class_names` would name. Leave `class_names` out.')
    else:
        values = list(returned["labels"])
        _check_length("labels", len(values), len(images), what)
        given = settings.class_names or returned.get("class_names")
        pairs.labels, pairs.class_names = class_ids(
            [values[at] for at in kept.tolist()],
            given=given,
            other=None if given else other,
            key=lambda at: where(int(kept[at])),
        )
    return pairs


def _images(found: Any, what: str) -> list[bytes] | np.ndarray:
    if isinstance(found, list | tuple):
        for row, image in enumerate(found):
            if not isinstance(image, bytes):
                raise UserError(f"{what}: each of `images` must be bytes, found {type(image).__name__} in row {row}.")
        return list(found)
    array = np.asarray(found)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise UserError(
            f"{what}: `images` must be a list of encoded images or uint8 [n, height, width, 3], found {array.dtype} "
            f"{list(array.shape)}."
        )
    return array


def _captions(found: Any, rows: int, what: str) -> list[list[str]]:
    captions = list(found)
    _check_length("captions", len(captions), rows, what)
    return [
        caption_texts([cell], lambda row=row: f"row {row} of what {what} returned") for row, cell in enumerate(captions)
    ]


def _keys(found: Any, rows: int, what: str) -> Strings | None:
    if found is None:
        return None
    keys = [str(key) for key in found]
    _check_length("keys", len(keys), rows, what)
    key, times = Counter(keys).most_common(1)[0] if keys else ("", 1)
    if times > 1:
        raise UserError(f"{what}: `keys` must be unique, found {key!r} {times} times.")
    return Strings.of(keys)


def _check_length(entry: str, found: int, rows: int, what: str) -> None:
    if found != rows:
        raise UserError(f"{what}: `{entry}` must have one entry an image: there are {rows} images, found {found}.")
