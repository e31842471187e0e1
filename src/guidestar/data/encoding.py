"""Tables turned into float columns; what the encoding needs is learnt on the training rows only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from guidestar.data.arrays import ArraySplit
from guidestar.data.tables import Column, Table, as_text
from guidestar.errors import UserError

_MISSING = {"", "?", "na", "n/a", "nan", "none", "null"}
_MOST_CATEGORIES = 1000


@dataclass(frozen=True)
class NumericColumn:
    """Standardised numbers: (x - mean) / std, a missing value as the mean, i.e. 0.

    Args:
        mean: mean of the training values that are there.
        std: their standard deviation; 1 for a constant column.
        indicator: whether a second column says where a value is missing (training had missing values).
    """

    mean: float
    std: float
    indicator: bool

    def encode(self, column: Column, where: str, rows: np.ndarray) -> np.ndarray:
        values = _numbers(column, where, rows)
        missing = np.isnan(values)
        scaled = np.where(missing, 0.0, (values - self.mean) / self.std)
        return np.stack([scaled, missing], axis=1) if self.indicator else scaled[:, None]


@dataclass(frozen=True)
class CategoricalColumn:
    """One column a category that training has; a category that it does not have gives zeros.

    Args:
        categories: the categories, sorted.
    """

    categories: tuple[str, ...]

    def encode(self, column: Column, where: str, rows: np.ndarray) -> np.ndarray:
        position = {category: k for k, category in enumerate(self.categories)}
        ids = np.array([position.get(as_text(value), -1) for value in column], dtype=np.int64)
        encoded = np.zeros((len(ids), len(self.categories)))
        known = np.flatnonzero(ids >= 0)
        encoded[known, ids[known]] = 1.0
        return encoded


@dataclass(frozen=True)
class TableEncoder:
    """How the columns and labels of a table become float32 columns and class ids; made by `fit_encoder`.

    Args:
        columns: the encoding of each column, by name.
        class_names: the label of each class, sorted (as numbers, if all are).
    """

    columns: Mapping[str, NumericColumn | CategoricalColumn]
    class_names: tuple[str, ...]

    @property
    def feature_names(self) -> list[str]:
        """A name for each encoded column."""
        names: list[str] = []
        for name, encoding in self.columns.items():
            if isinstance(encoding, CategoricalColumn):
                names += [f"{name}={category}" for category in encoding.categories]
            else:
                names += [name, f"{name} is missing"] if encoding.indicator else [name]
        return names

    def encode(self, table: Table, name: str) -> ArraySplit:
        """The table as a split.

        Args:
            table: rows with (at least) the columns that the encoder knows.
            name: "train" or "test".

        Raises:
            UserError: a column is missing, a value is no number where numbers are needed, or a label is unknown.
        """
        parts = []
        for column, encoding in self.columns.items():
            if column not in table.columns:
                raise UserError(f"{table.path} has no column `{column}`, which the training data has.")
            parts.append(encoding.encode(table.columns[column], f"{table.path}, column `{column}`", table.rows))
        return ArraySplit(
            np.concatenate(parts, axis=1),
            self._class_ids(table),
            name=name,
            class_names=self.class_names,
            keys=[str(row) for row in table.rows],
            texts=[table.describe(position) for position in range(len(table))],
            encoder=self,
        )

    def _class_ids(self, table: Table) -> torch.Tensor:
        position = {label: k for k, label in enumerate(self.class_names)}
        ids = []
        for row, label in zip(table.rows, _label_texts(table), strict=True):
            if label not in position:
                known = ", ".join(self.class_names[:20]) + (", ..." if len(self.class_names) > 20 else "")
                raise UserError(
                    f"`label`: {table.path} has the label `{label}` in row {row} (rows count from 0), which is not in "
                    f"the training data; that has: {known}."
                )
            ids.append(position[label])
        return torch.tensor(ids, dtype=torch.int64)


def fit_encoder(
    table: Table, *, categorical: Sequence[str] | None = None, label_table: Table | None = None
) -> TableEncoder:
    """Learn the encoding of a table from its training rows.

    A column is numeric if every value that is there is a number ("", "?", NA, NaN, none and null are missing), else
    categorical.

    Args:
        table: the training rows.
        categorical: the categorical columns, all others being numeric; None: find out.
        label_table: where the classes are taken from; default: `table`.

    Raises:
        UserError: `categorical` names an unknown column, a numeric column holds a text, a categorical one more than
            1,000 categories, or labels are missing or fractions.
    """
    unknown = sorted(set(categorical or ()) - set(table.columns))
    if unknown:
        raise UserError(
            f"`categorical`: {table.path} has no column `{unknown[0]}`; it has: {', '.join(table.columns)}."
        )
    columns: dict[str, NumericColumn | CategoricalColumn] = {}
    for name, column in table.columns.items():
        where = f"{table.path}, column `{name}`"
        is_categorical = not _all_numbers(column) if categorical is None else name in categorical
        columns[name] = _fit_categorical(column, where) if is_categorical else _fit_numeric(column, where, table.rows)
    labels = set(_label_texts(label_table or table))
    ordered = sorted(labels, key=float) if _all_numbers(list(labels)) else sorted(labels)
    return TableEncoder(columns, tuple(ordered))


def label_ids(table: Table) -> torch.Tensor:
    """Labels as class ids of this table alone; good for stratified choices."""
    return torch.from_numpy(np.unique(_label_texts(table), return_inverse=True)[1].astype(np.int64))


def _fit_numeric(column: Column, where: str, rows: np.ndarray) -> NumericColumn:
    values = _numbers(column, where, rows)
    there = values[~np.isnan(values)]
    std = float(there.std()) if there.size else 0.0
    return NumericColumn(float(there.mean()) if there.size else 0.0, std if std > 0 else 1.0, there.size < values.size)


def _fit_categorical(column: Column, where: str) -> CategoricalColumn:
    categories = sorted({as_text(value) for value in column})
    if len(categories) > _MOST_CATEGORIES:
        raise UserError(
            f"{where} has {len(categories)} different values, at most {_MOST_CATEGORIES} are allowed in a categorical "
            "column; list it in `drop`."
        )
    return CategoricalColumn(tuple(categories))


def _number(value: str) -> float | None:
    """The number that a text stands for, NaN if it says that there is none, None if it is something else."""
    if value.strip().lower() in _MISSING:
        return float("nan")
    try:
        return float(value)
    except ValueError:
        return None


def _all_numbers(column: Column) -> bool:
    return isinstance(column, np.ndarray) or all(_number(value) is not None for value in column)


def _numbers(column: Column, where: str, rows: np.ndarray) -> np.ndarray:
    if isinstance(column, np.ndarray):
        values = column
    else:
        values = np.empty(len(column))
        for position, value in enumerate(column):
            number = _number(value)
            if number is None:
                raise UserError(
                    f"{where}: expected a number, found {value!r} in row {rows[position]} (rows count from 0). "
                    "List the column in `categorical` or `drop`, or correct the value."
                )
            values[position] = number
    if np.isinf(values).any():
        row = rows[int(np.isinf(values).argmax())]
        raise UserError(f"{where}: numbers must be finite, found infinity in row {row} (rows count from 0).")
    return values


def _label_texts(table: Table) -> list[str]:
    """Labels as texts, numbers in one spelling, so that 1, 1.0 and "1" are the same class."""
    texts = [as_text(label) for label in table.labels]
    numeric = _all_numbers(table.labels)
    for position, text in enumerate(texts):
        if text == "" or (numeric and text.lower() in _MISSING):
            raise UserError(f"`label`: {table.path} has no label in row {table.rows[position]} (rows count from 0).")
        if numeric:
            number = float(text)
            if not number.is_integer():
                raise UserError(
                    f"`label`: labels must be whole numbers or names of classes; {table.path} has {text} in row "
                    f"{table.rows[position]} (rows count from 0)."
                )
            texts[position] = str(int(number))
    return texts
