"""What a store says about itself: meta.json."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.errors import UserError

FORMAT = 1
LOSSES = ("loss", "token_loss")
DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint64")
_FIXED_DTYPES = {"label": "int32", "key": "uint64", "input_mean": "float32"}


@dataclass(frozen=True)
class StoreMeta:
    """The contents of meta.json.

    Args:
        kind: What was scored, for instance "classification".
        rows: How many rows the store has.
        arrays: Name -> (shape of a row, name of the type).
        reference: The reference model's `name` and the hash of its `weights`.
        dataset: The data's `name` and `fingerprint`, and the number of `classes` where there are any.
        preprocessing: What was done to the inputs before the model saw them.
        block: How many rows are written and made valid together.
        command: The command line that made the store.
        version: The version of guidestar that made the store.
    """

    kind: str
    rows: int
    arrays: dict[str, tuple[tuple[int, ...], str]]
    reference: dict[str, Any]
    dataset: dict[str, Any]
    preprocessing: dict[str, Any]
    block: int
    command: str
    version: str

    @property
    def classes(self) -> int | None:
        """How many classes the reference tells apart, if the store knows."""
        if "logits" in self.arrays:
            return self.arrays["logits"][0][-1]
        return self.dataset.get("classes")

    def identity(self) -> dict[str, Any]:
        """Every field that has to agree for a store to be continued, under the name a user knows it by."""
        fields: dict[str, Any] = {"kind": self.kind, "rows": self.rows, "block": self.block}
        for prefix, values in (("reference", self.reference), ("dataset", self.dataset)):
            fields.update({f"{prefix}.{key}": value for key, value in values.items()})
        fields.update({f"preprocessing.{key}": value for key, value in self.preprocessing.items()})
        fields.update({f"arrays.{key}": f"{dtype} {list(shape)}" for key, (shape, dtype) in self.arrays.items()})
        return fields

    def save(self, folder: Path) -> None:
        """Write meta.json.

        Args:
            folder: The store's folder.
        """
        arrays = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in self.arrays.items()}
        content = {
            "format": FORMAT,
            "kind": self.kind,
            "rows": self.rows,
            "block": self.block,
            "reference": self.reference,
            "dataset": self.dataset,
            "preprocessing": self.preprocessing,
            "arrays": arrays,
            "command": self.command,
            "guidestar": self.version,
        }
        with open(folder / "meta.json", "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())


def make_meta(
    *,
    kind: str,
    rows: int,
    arrays: Mapping[str, tuple[tuple[int, ...], str | None]],
    reference: Mapping[str, Any],
    dataset: Mapping[str, Any],
    preprocessing: Mapping[str, Any] | None,
    command: str,
    block: int,
) -> StoreMeta:
    """Check what a new store is asked to be; the arguments are those of `Store.create`.

    Raises:
        UserError: A value is out of its range, or a description cannot be written as JSON.
    """
    if rows < 1:
        raise UserError(f"`rows` must be at least 1, found {rows}. A store needs data to score.")
    if block < 8 or block % 8:
        raise UserError(
            f"`block` must be a positive multiple of 8 (processes never share a byte of the bitmap), found {block}."
        )
    if not arrays:
        raise UserError('`arrays` must name at least one array, for instance {"loss": ((), "float32")}.')
    for argument, values, needed in (("reference", reference, "weights"), ("dataset", dataset, "fingerprint")):
        if "name" not in values or needed not in values:
            raise UserError(f"`{argument}` must have the keys `name` and `{needed}`, found {sorted(values)}.")
    return StoreMeta(
        kind=kind,
        rows=rows,
        arrays={name: _array_spec(name, shape, dtype) for name, (shape, dtype) in arrays.items()},
        reference=_as_json("reference", reference),
        dataset=_as_json("dataset", dataset),
        preprocessing=_as_json("preprocessing", preprocessing or {}),
        block=block,
        command=command,
        version=_version(),
    )


def load_meta(folder: Path) -> StoreMeta:
    """Read meta.json.

    Args:
        folder: The store's folder.

    Raises:
        UserError: There is no store in the folder, or its meta.json is damaged or of an unknown version.
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
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{path}: `format` must be {FORMAT}, found {found!r}. The store was made by another version of guidestar; "
            "score again with this one."
        )
    try:
        return StoreMeta(
            kind=content["kind"],
            rows=int(content["rows"]),
            arrays={name: (tuple(spec["shape"]), spec["dtype"]) for name, spec in content["arrays"].items()},
            reference=dict(content["reference"]),
            dataset=dict(content["dataset"]),
            preprocessing=dict(content["preprocessing"]),
            block=int(content["block"]),
            command=content["command"],
            version=content["guidestar"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: {type(error).__name__} {error}. Delete the store and score again."
        ) from error


def describe_difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """One line for each field that differs, or an empty string.

    Args:
        found: What the store has.
        expected: What it should have.

    Example:
        >>> describe_difference({"rows": 5, "kind": "pairs"}, {"rows": 6, "kind": "pairs"})
        '  `rows`: the store has 5, expected 6'
    """
    lines = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        left, right = found.get(name), expected.get(name)
        if left != right:
            lines.append(f"  `{name}`: the store has {_show(left)}, expected {_show(right)}")
    return "\n".join(lines)


def _show(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _array_spec(name: str, shape: tuple[int, ...], dtype: str | None) -> tuple[tuple[int, ...], str]:
    if not name.isidentifier() or name == "valid":
        raise UserError(f'`arrays`: a name must be a Python identifier other than "valid", found {name!r}.')
    if dtype is None:
        dtype = _FIXED_DTYPES.get(name, "float32" if name in LOSSES else "float16")
    if dtype not in DTYPES:
        raise UserError(f"`arrays`: the type of `{name}` must be one of {', '.join(DTYPES)}, found {dtype!r}.")
    if any(size < 1 for size in shape):
        raise UserError(f"`arrays`: every size in the row shape of `{name}` must be at least 1, found {tuple(shape)}.")
    return tuple(int(size) for size in shape), str(np.dtype(dtype))


def _as_json(argument: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the values will be when meta.json is read (tuples become lists), so that they compare equal."""
    try:
        return json.loads(json.dumps(dict(values)))
    except (TypeError, ValueError) as error:
        raise UserError(f"`{argument}` must hold only what JSON can: {error}.") from error


def _version() -> str:
    try:
        return metadata.version("guidestar")
    except metadata.PackageNotFoundError:
        return "not installed"
