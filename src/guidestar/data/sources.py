"""Reading a source: `load` for one split, `load_pair` for training and test together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from guidestar.data import archives, encoding, functions, tables
from guidestar.data.builtin import read_digits
from guidestar.data.corrupt import split_rows
from guidestar.data.folders import read_image_folder
from guidestar.data.hub import read_hub
from guidestar.data.pictures import PictureForm
from guidestar.data.settings import (
    CsvSource,
    DigitsSource,
    FunctionSource,
    HubSource,
    ImageFolderSource,
    JpegNpzSource,
    NpySource,
    NpzSource,
    ParquetSource,
    PictureSettings,
    Source,
    SourceSettings,
)
from guidestar.data.split import RowSplit, Split
from guidestar.errors import UserError

OnError = Literal["raise", "skip"]


def load(settings: Source, *, base: Path, other: Split | None = None, on_error: OnError = "raise") -> Split:
    """Read a split.

    Args:
        settings: the source.
        base: the folder of the recipe; relative paths start there.
        other: the training split, when the test split is to be read: gives the classes, the encoding of a table and
            the size of images.
        on_error: what to do with an unreadable image, "raise" or "skip".

    Raises:
        UserError: the content breaks a rule, or differs in shape from `other`.
        OSError: a file is missing or cannot be read.
        ImportError: an optional package is missing; names the extra.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder) / "data.npz", x=np.zeros((4, 3)), y=[0, 1, 0, 1])
        ...     split = load(NpzSource(path="data.npz", inputs="x", labels="y"), base=Path(folder))
        >>> split.name, len(split), split.num_classes
        ('train', 4, 2)
    """
    if isinstance(settings, CsvSource | ParquetSource):
        split: Split = _load_table(settings, base, other)
    elif isinstance(settings, FunctionSource):
        returned = functions.call_data_function(settings.function, settings.options, base)
        split = _load_returned(settings, returned, other)
    else:
        split = _load_rows(settings, base, other, on_error)
    if other is not None and split.input_shape != other.input_shape:
        raise UserError(
            f"the {split.name} inputs must have the shape of the {other.name} inputs, {list(other.input_shape)}; found "
            f"{list(split.input_shape)}."
        )
    return split


def load_pair(
    train: Source,
    test: Source | None = None,
    *,
    base: Path,
    test_fraction: float | None = None,
    seed: int = 0,
    on_error: OnError = "raise",
) -> tuple[Split, Split]:
    """Read the training and the test split, with the same classes.

    The test split is `test`; or a random share `test_fraction` of `train`'s rows; or, for `source: function`, what the
    function returned under "test".

    Args:
        train: source of the training split.
        test: source of the test split.
        base: the folder of the recipe.
        test_fraction: share of the rows that become the test split, if there is no `test`.
        seed: decides which.
        on_error: as in `load`.

    Raises:
        UserError: both or none of `test` and `test_fraction` are given, the two splits do not fit together, or as in
            `load`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lines = ["age,likes", *(f"{age},{'tea' if age % 2 else 'milk'}" for age in range(20))]
        ...     _ = (Path(folder) / "data.csv").write_text("\\n".join(lines))
        ...     source = CsvSource(path="data.csv", label="likes")
        ...     train, test = load_pair(source, base=Path(folder), test_fraction=0.25)
        >>> len(train), len(test), train.class_names
        (15, 5, ['milk', 'tea'])
    """
    if test is not None and test_fraction is not None:
        raise UserError("`test` and `test_fraction` exclude each other; give one of them.")
    if test_fraction is not None:
        return _load_parted(train, base, test_fraction, seed, on_error)
    if test is None:
        if not isinstance(train, FunctionSource):
            raise UserError("`test` or `test_fraction` is needed beside `train`, found neither.")
        returned = functions.call_data_function(train.function, train.options, base)
        first = _load_returned(train, returned, None)
        second = _load_returned(train, returned, first)
    else:
        first = load(train, base=base, on_error=on_error)
        second = load(test, base=base, other=first, on_error=on_error)
    return _same_classes(first, second)


def _load_parted(train: Source, base: Path, fraction: float, seed: int, on_error: OnError) -> tuple[Split, Split]:
    if isinstance(train, CsvSource | ParquetSource):
        # Encoded only after the parting: test rows must not enter the means, deviations and categories.
        table = _read_table(train, base)
        train_rows, test_rows = split_rows(len(table), fraction, seed)
        part = table.take(train_rows.tolist())
        encoder = encoding.fit_encoder(part, categorical=train.categorical, label_table=table)
        return encoder.encode(part, "train"), encoder.encode(table.take(test_rows.tolist()), "test")
    whole = load(train, base=base, on_error=on_error)
    train_rows, test_rows = split_rows(len(whole), fraction, seed)
    return whole.subset(train_rows, name="train"), whole.subset(test_rows, name="test")


def _load_rows(
    settings: NpzSource | NpySource | JpegNpzSource | ImageFolderSource | HubSource | DigitsSource,
    base: Path,
    other: Split | None,
    on_error: OnError,
) -> Split:
    common: dict[str, Any] = {
        "name": "train" if other is None else "test",
        "other": None if other is None else other.class_names,
        "limit": settings.limit,
        "limit_seed": settings.limit_seed,
    }
    match settings:
        case NpzSource():
            path = _path(settings.path, base)
            return archives.read_npz(path, settings.inputs, settings.labels, class_names=settings.class_names, **common)
        case NpySource():
            inputs, labels = _path(settings.inputs, base), _path(settings.labels, base)
            return archives.read_npy(inputs, labels, class_names=settings.class_names, **common)
        case JpegNpzSource():
            chosen = settings.model_dump(include={"split_value", "images", "offsets", "labels", "split", "class_names"})
            form = _form(settings, other)
            return archives.read_jpeg_npz(_path(settings.path, base), form=form, on_error=on_error, **chosen, **common)
        case ImageFolderSource():
            form = _form(settings, other)
            return read_image_folder(_path(settings.path, base), form=form, on_error=on_error, **common)
        case HubSource():
            chosen = settings.model_dump(include={"split", "image", "features", "label"})
            form = _form(settings, other)
            return read_hub(_path(settings.path, base), form=form, on_error=on_error, **chosen, **common)
        case DigitsSource():
            return _limited(read_digits(common["name"]), settings)


def _read_table(settings: CsvSource | ParquetSource, base: Path) -> tables.Table:
    path = _path(settings.path, base)
    if isinstance(settings, CsvSource):
        table = tables.read_csv(path, settings.label, drop=settings.drop, delimiter=settings.delimiter)
    else:
        table = tables.read_parquet(path, settings.label, drop=settings.drop)
    if settings.limit is None or settings.limit >= len(table):
        return table
    return table.take(archives.limit_rows(encoding.label_ids(table), settings.limit, settings.limit_seed))


def _load_table(settings: CsvSource | ParquetSource, base: Path, other: Split | None) -> Split:
    table = _read_table(settings, base)
    if other is None:
        return encoding.fit_encoder(table, categorical=settings.categorical).encode(table, "train")
    encoder = getattr(other, "encoder", None)
    if not isinstance(encoder, encoding.TableEncoder):
        raise UserError(f"`test` is a table ({table.path}), so `train` must be one too.")
    return encoder.encode(table, "test")


def _load_returned(settings: FunctionSource, returned: Any, other: Split | None) -> Split:
    name = "train" if other is None else "test"
    return _limited(functions.split_of(returned, name, function=settings.function, other=other), settings)


def _limited(split: Split, settings: SourceSettings) -> Split:
    if settings.limit is None or settings.limit >= len(split):
        return split
    return split.subset(archives.limit_rows(split.labels, settings.limit, settings.limit_seed))


def _same_classes(train: Split, test: Split) -> tuple[Split, Split]:
    """Both splits with the larger set of classes, if one set continues the other."""
    small, large = sorted((train.class_names, test.class_names), key=len)
    if small != large[: len(small)]:
        raise UserError(
            f"the classes of the two splits must agree, found {_shown(train.class_names)} in {train.name} and "
            f"{_shown(test.class_names)} in {test.name}."
        )
    grown = []
    for split in (train, test):
        if split.num_classes < len(large):
            if not isinstance(split, RowSplit):
                raise UserError(f"`num_classes` of {split.name} must be {len(large)} as in the other split.")
            split = split.with_classes(large)
        grown.append(split)
    return grown[0], grown[1]


def _form(settings: PictureSettings, other: Split | None) -> PictureForm:
    form = settings.form
    if form.size is None and other is not None and len(other.input_shape) == 3:
        return PictureForm((other.input_shape[1], other.input_shape[2]), form.grey)
    return form


def _path(path: str, base: Path) -> Path:
    return base / Path(path).expanduser()


def _shown(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"
