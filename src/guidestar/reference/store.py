"""The reference store: what a reference model said about each row of a data set, on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from guidestar.errors import UserError
from guidestar.reference.files import StoreFiles, create_files
from guidestar.reference.keys import join_keys
from guidestar.reference.meta import StoreMeta, describe_difference, load_meta, make_meta
from guidestar.reference.values import Index, Values, as_array, as_rows, checked_cast, name_rows

_JOIN_ARRAYS = ("key", "input_mean")  # they serve the join and say nothing about the reference


class Store:
    """A directory with meta.json, one memory-mapped .npy file an array, and one validity bit a row.

    A row that was never written is *invalid*, not zero: reading it raises. Values reach the disk before their validity
    bits do, so that a process killed at any moment leaves no valid bit on a row that is not there. Several processes
    may write at the same time if each owns whole blocks.

    Use `Store.create` or `Store.open`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "store"
        >>> about = {"reference": {"name": "mlp", "weights": "w0"}, "dataset": {"name": "train", "fingerprint": "f0"}}
        >>> with Store.create(path, kind="classification", rows=4, arrays={"loss": ((), None)}, **about) as store:
        ...     store.write(1, loss=torch.tensor([0.5, 2.0]))
        >>> store = Store.open(path, expect={"rows": 4, "dataset": "f0"})
        >>> store[[2, 1]]["loss"].tolist(), store.validity().tolist()
        ([2.0, 0.5], [False, True, True, False])
    """

    def __init__(self, path: Path, meta: StoreMeta, *, writable: bool) -> None:
        self.path = path
        self.meta = meta
        self._files = StoreFiles(path, meta, writable=writable)
        self._complete: bool | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        kind: str,
        rows: int,
        arrays: Mapping[str, tuple[tuple[int, ...], str | None]],
        reference: Mapping[str, Any],
        dataset: Mapping[str, Any],
        preprocessing: Mapping[str, Any] | None = None,
        command: str = "",
        block: int = 4096,
    ) -> Self:
        """Make a store, or continue the one that is there if it was made with the same arguments.

        Args:
            path: The store's folder.
            kind: What is scored, for instance "classification".
            rows: How many rows the store has.
            arrays: Name -> (shape of a row, type). The type None stands for float32 for losses, int32 for `label`,
                uint64 for `key` and float16 for everything else.
            reference: The reference model: `name` and the hash of its `weights`.
            dataset: The data: `name`, `fingerprint`, and `classes` where there are any.
            preprocessing: What is done to the inputs before the model sees them.
            command: The command line, for the record; it may differ when a store is continued.
            block: How many rows belong together when several processes write: a multiple of 8.

        Raises:
            UserError: An argument is wrong, or the folder holds something else than this store.
        """
        path = Path(path)
        about = {"reference": reference, "dataset": dataset, "preprocessing": preprocessing}
        meta = make_meta(kind=kind, rows=rows, arrays=arrays, command=command, block=block, **about)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            create_files(path, meta)
        found = load_meta(path)
        difference = describe_difference(found.identity(), meta.identity())
        if difference:
            raise UserError(
                f"{path} holds a store that was made differently:\n{difference}\n"
                "Choose another folder, or delete this one to score again."
            )
        return cls(path, found, writable=True)

    @classmethod
    def open(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> Self:
        """Open a store for reading; a half-written one too (see `require_complete`).

        Args:
            path: The store's folder.
            expect: What the store must be: any of `rows`, `kind`, `classes`, `dataset` (fingerprint), `reference`
                (name) and `weights` (hash).

        Raises:
            UserError: There is no store, it is damaged, or it is not what is expected; the message says what differs.
        """
        store = cls(Path(path), load_meta(Path(path)), writable=False)
        store.check(expect or {})
        return store

    def check(self, expect: Mapping[str, Any]) -> None:
        """Compare the store with what is expected of it.

        Args:
            expect: See `Store.open`.

        Raises:
            UserError: A field differs; all that do are named.
        """
        meta = self.meta
        found = {"rows": meta.rows, "kind": meta.kind, "classes": meta.classes}
        found |= {"dataset": meta.dataset["fingerprint"], "reference": meta.reference["name"]}
        found |= {"weights": meta.reference["weights"]}
        unknown = sorted(set(expect) - set(found))
        if unknown:
            raise UserError(f"`expect` may have the keys {', '.join(found)}; found {', '.join(unknown)}.")
        difference = describe_difference({name: found[name] for name in expect}, expect)
        if difference:
            raise UserError(
                f"The reference store {self.path} was not made for this:\n{difference}\n"
                f"It holds what {meta.reference['name']!r} said about {meta.dataset['name']!r}. Point to that data and "
                "those weights, or score again into another folder (`guidestar score RECIPE`)."
            )

    def __len__(self) -> int:
        return self.meta.rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # After an I/O error the disk is not to be trusted with more; rows that are not committed stay invalid.
        if not isinstance(error, OSError):
            self.commit()
        self.close()

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        # Without this, sending a store to a data-loading process would copy every array through memory.
        return Store.open, (self.path,)

    def close(self) -> None:
        """Stop writing. The store stays readable."""
        self._files.close()

    def validity(self) -> np.ndarray:
        """Which rows have been written, bool [rows]."""
        return self._files.valid.span(0, self.meta.rows)

    def is_valid(self, start: int, stop: int) -> bool:
        """Whether all rows from `start` to `stop - 1` have been written.

        Args:
            start: The first row.
            stop: The row after the last.
        """
        return self._files.valid.all(start, stop)

    def count_valid(self) -> int:
        """How many rows have been written."""
        return self._files.valid.count()

    def require_complete(self) -> None:
        """Check that every row has been written.

        Raises:
            UserError: Rows are missing; the message says how many, which, and how to continue.
        """
        missing = self.meta.rows - self._files.valid.count()
        if not missing:
            return
        first = ", ".join(map(str, self._files.valid.missing(limit=min(5, missing))))
        raise UserError(
            f"The reference store {self.path} is half written: {missing:,} of {self.meta.rows:,} rows are missing "
            f"(the first: {first}). Continue it with `guidestar score RECIPE --resume`."
        )

    def __getitem__(self, index: Index) -> dict[str, torch.Tensor]:
        """What the reference said about some rows: every array but the join's own, floats as float32.

        Raises:
            IndexError: A row is out of range or was never written.
        """
        rows = self._readable_rows(index)
        names = [name for name in self._files.arrays if name not in _JOIN_ARRAYS]
        return {name: self._gather(name, rows, torch.float32) for name in names}

    def read(self, name: str, index: Index, dtype: torch.dtype | None = torch.float32) -> torch.Tensor:
        """One array's values for some rows.

        Args:
            name: The array.
            index: An int, a slice, or integers in a list, tensor or array of any shape.
            dtype: The type to return floats in; None leaves them as they are stored. Labels are always int64.

        Raises:
            UserError: There is no such array.
            IndexError: A row is out of range or was never written.
        """
        self._require_array(name)
        return self._gather(name, self._readable_rows(index), dtype)

    def rows_of(self, keys: Sequence[str]) -> np.ndarray:
        """The store's row for each key, int64 [len(keys)].

        Args:
            keys: Row keys, as the scored split's `keys` gave them.

        Raises:
            UserError: The store has no keys, a key is not in it, or more than one row has the same key.
        """
        self._require_array("key")
        written = self._files.valid.count()
        what = f"the reference store {self.path} of {self.meta.dataset['name']!r}"
        if written < len(self):
            what += f" (only {written:,} of its {len(self):,} rows are written)"
        return join_keys(keys, self._files.arrays["key"].data, self._files.valid.span, what)

    def losses_for(self, index: Index, labels: torch.Tensor) -> torch.Tensor:
        """The reference's loss of rows whose labels may have changed since they were scored.

        loss_i as stored where the label is the scored one, else -log softmax(logits_i)[label_i] from the stored logits.

        Args:
            index: The store's rows, [B].
            labels: Their labels now, int64 [B].

        Raises:
            UserError: A label changed and there are no logits to compute its loss from, or a label is out of range.
            IndexError: A row is out of range or was never written.
        """
        self._require_array("label")
        rows = self._readable_rows(index)
        labels = labels.detach().cpu()
        if labels.shape != rows.shape:
            raise UserError(f"`labels` must have the shape of `index`, {rows.shape}, found {tuple(labels.shape)}.")
        has_loss = "loss" in self._files.arrays
        changed = self._gather("label", rows, None) != labels if has_loss else torch.ones(rows.shape, dtype=torch.bool)
        losses = self._gather("loss", rows, torch.float32) if has_loss else torch.empty(rows.shape)
        if changed.any():
            losses[changed] = self._losses_from_logits(rows[changed.numpy()], labels[changed])
        return losses

    def _losses_from_logits(self, rows: np.ndarray, labels: torch.Tensor) -> torch.Tensor:
        if "logits" not in self._files.arrays:
            raise UserError(
                f"The labels of rows {name_rows(rows)} of the reference store {self.path} are not those that were "
                "scored, and it holds no logits to compute their losses from. Score again with logits, or with these "
                "labels."
            )
        logits = self._gather("logits", rows, torch.float32)
        if ((labels < 0) | (labels >= logits.shape[-1])).any():
            low, high = int(labels.min()), int(labels.max())
            raise UserError(f"`labels` must be between 0 and {logits.shape[-1] - 1}, found {low} to {high}.")
        return F.cross_entropy(logits, labels.long(), reduction="none")

    def _gather(self, name: str, rows: np.ndarray, dtype: torch.dtype | None) -> torch.Tensor:
        found = torch.from_numpy(np.asarray(self._files.arrays[name].data[rows]))
        if name == "label":
            return found.long()
        return found.to(dtype) if dtype is not None and found.is_floating_point() else found

    def _readable_rows(self, index: Index) -> np.ndarray:
        rows = as_rows(index, self.meta.rows)
        if not self._is_complete():
            bad = rows[~self._files.valid.get(rows)].reshape(-1)
            if len(bad):
                raise IndexError(
                    f"Rows {name_rows(bad)} of the reference store {self.path} were never written. "
                    "Continue it with `guidestar score RECIPE --resume`."
                )
        return rows

    def _is_complete(self) -> bool:
        # Counted once: the training loop reads every step. A store that was incomplete then is checked row by row.
        if self._complete is None:
            self._complete = self._files.valid.count() == self.meta.rows
        return self._complete

    def _require_array(self, name: str) -> None:
        if name not in self._files.arrays:
            names = ", ".join(self._files.arrays)
            raise UserError(f"The reference store {self.path} has no array `{name}`, only {names}.")

    def write(self, index: Index, *, commit: bool = True, **values: Values) -> None:
        """Write rows; every array of the store must be given, because validity is a property of the row.

        Args:
            index: The first of consecutive rows, or the rows themselves. Processes that write at the same time must
                each own whole blocks.
            commit: Bring the rows to the disk and make them valid now. False leaves that to the next `commit`, which
                saves time where blocks are small.
            **values: Array name -> values [m, ...].

        Raises:
            UserError: The store was not opened for writing, an array is missing or has the wrong shape, a row is given
                twice, a value is NaN or does not fit its type.
            IndexError: A row is out of range.
            OSError: The disk is full; the rows that were committed are safe.
        """
        if not self._files.writable:
            raise UserError(f"The reference store {self.path} is open for reading only; `Store.create` continues it.")
        arrays = {name: as_array(value) for name, value in values.items()}
        rows = self._rows_to_write(index, arrays)
        if (np.diff(rows) < 0).any():
            order = np.argsort(rows, kind="stable")
            rows, arrays = rows[order], {name: array[order] for name, array in arrays.items()}
        types = {name: file.data.dtype for name, file in self._files.arrays.items()}
        self._complete = None
        self._files.write(rows, {name: checked_cast(name, arrays[name], types[name], rows) for name in types})
        if commit:
            self._files.commit()

    def commit(self) -> None:
        """Bring what was written to the disk, and only then mark its rows as valid.

        Raises:
            OSError: The disk is full; the rows that were committed before are safe.
        """
        self._files.commit()
        self._complete = None

    def _rows_to_write(self, index: Index, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        if set(arrays) != set(self.meta.arrays):
            found = ", ".join(arrays) or "none"
            raise UserError(f"`write` needs the arrays {', '.join(self.meta.arrays)}; found {found}.")
        first = next(iter(arrays.values()))
        count = len(first) if first.ndim else 0
        if isinstance(index, int | np.integer):
            index = range(int(index), int(index) + count)
        rows = as_rows(index, self.meta.rows).reshape(-1)
        for name, array in arrays.items():
            expected = (len(rows), *self.meta.arrays[name][0])
            if array.shape != expected:
                raise UserError(f"`{name}` must have the shape {expected}, found {array.shape}.")
        unique, counts = np.unique(rows, return_counts=True)
        if len(unique) != len(rows):
            raise UserError(f"`index` must name a row once, found rows {name_rows(unique[counts > 1])} again.")
        return rows
