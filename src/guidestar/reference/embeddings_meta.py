"""What a store of embeddings says about itself: meta.json."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from guidestar.errors import UserError
from guidestar.files import write_json

FORMAT = 1
KIND = "pairs"
DTYPES = ("float16", "float32")
_MAX_NAME = 60  # characters of a part's name in the name of its file


@dataclass(frozen=True)
class Part:
    """Consecutive rows whose embeddings are in one file.

    Args:
        name: The shard, or whatever the data calls this part.
        start: Its first row.
        stop: The row after its last.
        file: The name of its file.
    """

    name: str
    start: int
    stop: int
    file: str


@dataclass(frozen=True)
class EmbeddingMeta:
    """The contents of meta.json.

    Args:
        width: The width of the embeddings.
        dtype: The type they are stored in.
        reference: The reference's `name`, the hash of its `weights`, the fingerprint of its `tokenizer`.
        dataset: The data's `name` and `fingerprint`.
        preprocessing: What is done to the images (`size`, `crop`), and the `precision` of the forward pass.
        parts: All rows, in order.
        command: The command line that made the store.
        version: The version of guidestar that made the store.
    """

    width: int
    dtype: str
    reference: dict[str, Any]
    dataset: dict[str, Any]
    preprocessing: dict[str, Any]
    parts: tuple[Part, ...]
    command: str
    version: str

    @property
    def rows(self) -> int:
        """How many rows all parts have."""
        return self.parts[-1].stop

    def identity(self) -> dict[str, Any]:
        """Every field that has to agree for a store to be continued, under the name a user knows it by."""
        fields: dict[str, Any] = {"rows": self.rows, "width": self.width, "dtype": self.dtype}
        fields["parts"] = len(self.parts)
        for prefix in ("reference", "dataset", "preprocessing"):
            fields.update({f"{prefix}.{key}": value for key, value in getattr(self, prefix).items()})
        return fields

    def save(self, folder: Path) -> None:
        """Write meta.json, atomically.

        Args:
            folder: The store's folder; it is made.

        Raises:
            DiskFull: The disk is full.
        """
        content = {
            "format": FORMAT,
            "kind": KIND,
            "rows": self.rows,
            "width": self.width,
            "dtype": self.dtype,
            "reference": self.reference,
            "dataset": self.dataset,
            "preprocessing": self.preprocessing,
            "parts": [[part.name, part.start, part.stop] for part in self.parts],
            "command": self.command,
            "guidestar": self.version,
        }
        write_json(folder / "meta.json", content)


def cut_parts(parts: Sequence[tuple[str, int, int]], rows: int, block: int) -> tuple[Part, ...]:
    """The parts of a data set, the large ones cut into blocks: what is written together has to fit into memory.

    Args:
        parts: (name, first row, end row), all rows in order.
        rows: How many rows the data has.
        block: The most rows of a part.

    Raises:
        UserError: The parts leave rows out, overlap or are not in order.

    Example:
        >>> [(part.start, part.stop, part.file) for part in cut_parts([("a.tar", 0, 3), ("b.tar", 3, 5)], 5, block=2)]
        [(0, 2, '000000-a.tar.safetensors'), (2, 3, '000001-a.tar.safetensors'), (3, 5, '000002-b.tar.safetensors')]
    """
    end, found = 0, list[Part]()
    for name, start, stop in parts:
        if start != end or stop < start:
            raise UserError(
                f"`parts` must follow each other; {name!r} is {start} to {stop}, expected to begin at {end}."
            )
        for first in range(start, stop, block):
            last = min(first + block, stop)
            found.append(Part(name, first, last, f"{len(found):06d}-{_file_name(name)}.safetensors"))
        end = stop
    if end != rows:
        raise UserError(f"`parts` must cover all {rows} rows, found {end}.")
    return tuple(found)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", PurePath(name).name)[-_MAX_NAME:] or "part"


def load_embedding_meta(folder: Path) -> EmbeddingMeta:
    """Read meta.json.

    Args:
        folder: The store's folder.

    Raises:
        UserError: There is no store of embeddings in the folder, or its meta.json is damaged or of an unknown version.
    """
    path = folder / "meta.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is not a reference store: it has no meta.json. Make one with `guidestar score RECIPE`."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Delete the store and score again.") from error
    found = (content.get("format"), content.get("kind")) if isinstance(content, dict) else (None, None)
    if found != (FORMAT, KIND):
        raise UserError(
            f"{path}: `format` must be {FORMAT} and `kind` {KIND!r}, found {found[0]!r} and {found[1]!r}. It is another "
            "kind of store, or one of another version of guidestar; score these pairs into another folder."
        )
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: {type(error).__name__} {error}. Delete the store and score again."
        ) from error


def _parse(content: Mapping[str, Any]) -> EmbeddingMeta:
    parts = [(str(name), int(start), int(stop)) for name, start, stop in content["parts"]]
    rows = int(content["rows"])
    reference, dataset = dict(content["reference"]), dict(content["dataset"])
    absent = [f"reference.{name}" for name in ("name", "weights", "tokenizer") if name not in reference]
    absent += [f"dataset.{name}" for name in ("name", "fingerprint") if name not in dataset]
    if absent:
        raise KeyError(", ".join(absent))
    if content["dtype"] not in DTYPES or int(content["width"]) < 1 or rows < 1:
        raise ValueError(f"`dtype` {content['dtype']!r}, `width` {content['width']!r}, `rows` {rows}")
    return EmbeddingMeta(
        width=int(content["width"]),
        dtype=content["dtype"],
        reference=reference,
        dataset=dataset,
        preprocessing=dict(content["preprocessing"]) | {"size": int(content["preprocessing"]["size"])},
        # They were cut when the store was made: a block of all rows leaves them as they are.
        parts=cut_parts(parts, rows, block=rows),
        command=content["command"],
        version=content["guidestar"],
    )


def installed_version() -> str:
    """The version of guidestar that is installed."""
    try:
        return metadata.version("guidestar")
    except metadata.PackageNotFoundError:
        return "not installed"
