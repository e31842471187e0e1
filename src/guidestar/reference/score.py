"""Scoring: the program that fills a reference store."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import nn
from torch.utils.data import DataLoader, Dataset

from guidestar.errors import UserError
from guidestar.modes import evaluating
from guidestar.reference.forward import Forward, input_mean
from guidestar.reference.keys import hash_keys
from guidestar.reference.protocols import ScorableSplit
from guidestar.reference.store import Store
from guidestar.reference.values import name_rows

KIND = "classification"
_SYNC_SHARE = 0.05  # of the time, at most, goes into waiting for the disk

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def score(
    model: nn.Module,
    split: ScorableSplit,
    path_or_store: str | Path | Store,
    *,
    batch_size: int,
    device: str | torch.device,
    reference_name: str,
    weights_hash: str,
    preprocessing: Mapping[str, Any] | None = None,
    command: str = "",
    rank: int = 0,
    world: int = 1,
    progress: bool = True,
    precision: str = "fp32",
    arrays: Sequence[str] | Mapping[str, str | None] = ("loss", "logits"),
    block: int = 4096,
    workers: int = 0,
    on_block: Callable[[int], None] | None = None,
) -> Store:
    """Write what a model says about every row of a split into a store.

    loss_i = -log softmax(model(x_i))[y_i] in float32. Beside the losses (and logits) the store gets each row's label, a
    hash of its key and the mean of its inputs, which is what a later join goes by. Blocks that are already finished are
    skipped, so that calling this again continues where a killed run stopped, with the same result.

    With several processes, each calls this with its own `rank`: process r of W writes the blocks r, r + W, ...; the
    store is complete when all of them have returned.

    Args:
        model: Gives logits [B, num_classes]; used in evaluation mode, its training flags are put back afterwards.
        split: The rows to score, without augmentation.
        path_or_store: The store's folder, which is made or continued; or a store that is open for writing.
        batch_size: Rows in a forward pass.
        device: Where the model runs; it is moved there.
        reference_name: The reference's name, for messages.
        weights_hash: The hash of the model's weights.
        preprocessing: What the model does to its inputs, for the record.
        command: The command line, for the record.
        rank: This process's number.
        world: How many processes share the work.
        progress: Whether process 0 shows a progress bar on stderr.
        precision: "fp32", or "bf16" for a forward pass under autocast.
        arrays: "loss" and, unless it is left out, "logits"; as a dict: the type of each, None for the default.
        block: How many rows are written together: a multiple of 8.
        workers: How many processes load the data.
        on_block: Called with the number of rows that this process has scored so far, after each block.

    Returns:
        The store, closed for writing.

    Raises:
        UserError: The model's number of outputs is not the split's number of classes, a label is out of range, the
            store was made for something else, a loss is not finite, or an argument is out of range.
        OSError: The disk is full.

    Example:
        >>> import tempfile
        >>> class Points:
        ...     name, num_classes, labels = "train", 2, torch.tensor([0, 1, 1])
        ...     def __len__(self): return 3
        ...     def __getitems__(self, rows): return torch.ones(len(rows), 2), self.labels[rows], torch.tensor(rows)
        ...     def keys(self, rows): return [str(row) for row in rows]
        ...     def fingerprint(self): return "f0"
        >>> model = nn.Linear(2, 2)
        >>> _ = nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        >>> store = score(model, Points(), Path(tempfile.mkdtemp()) / "store", batch_size=2, device="cpu",
        ...               reference_name="linear", weights_hash="w0", progress=False)
        >>> store[[0, 2]]["loss"]
        tensor([0.6931, 0.6931])
    """
    _check_arguments(batch_size, rank, world)
    _check_labels(split)
    device = torch.device(device)
    with evaluating(model.to(device)), torch.inference_mode():
        forward = Forward(model, device, precision)
        _check_outputs(forward, split)
        if isinstance(path_or_store, Store):
            store = path_or_store
            store.check(
                {"rows": len(split), "kind": KIND, "dataset": split.fingerprint(), "weights": weights_hash}
                | {"classes": split.num_classes}
            )
        else:
            store = Store.create(
                path_or_store,
                kind=KIND,
                rows=len(split),
                arrays=_array_specs(arrays, split.num_classes),
                reference={"name": reference_name, "weights": weights_hash},
                dataset={"name": split.name, "fingerprint": split.fingerprint(), "classes": split.num_classes},
                preprocessing=dict(preprocessing or {}) | {"precision": precision},
                command=command,
                block=block,
            )
        blocks = _Blocks(store, batch_size, rank, world)
        with store, _bar(blocks, progress and rank == 0) as advance:
            _fill(store, split, forward, blocks, workers, advance, on_block)
    return store


class _Blocks:
    """This process's unfinished blocks, cut into batches; a batch sampler for `DataLoader`."""

    def __init__(self, store: Store, batch_size: int, rank: int, world: int) -> None:
        size, rows = store.meta.block, len(store)
        self._batch_size = batch_size
        own = [(start, min(start + size, rows)) for start in range(rank * size, rows, world * size)]
        self.total = sum(stop - start for start, stop in own)
        self.todo = [(start, stop) for start, stop in own if not store.is_valid(start, stop)]
        self.done = self.total - sum(stop - start for start, stop in self.todo)

    def __iter__(self) -> Iterator[list[int]]:
        for start, stop in self.todo:
            yield from self.batches(start, stop)

    def batches(self, start: int, stop: int) -> Iterator[list[int]]:
        for first in range(start, stop, self._batch_size):
            yield list(range(first, min(first + self._batch_size, stop)))


def _fill(
    store: Store,
    split: ScorableSplit,
    forward: Forward,
    blocks: _Blocks,
    workers: int,
    advance: Callable[[int], None],
    on_block: Callable[[int], None] | None,
) -> None:
    batches = iter(_loader(split, blocks, workers))
    done, next_commit = 0, 0.0
    for start, stop in blocks.todo:
        parts: list[dict[str, torch.Tensor]] = []
        for asked in blocks.batches(start, stop):
            inputs, labels, rows = next(batches)
            if rows.tolist() != asked:
                raise UserError(
                    f"`split` {split.name!r} was asked for the rows {name_rows(asked)} and gave {name_rows(rows.numpy())}."
                )
            parts.append(_score_batch(forward, inputs, labels, store))
            advance(len(asked))
        # One transfer from the device for a whole block.
        values: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if "key" in store.meta.arrays:
            values["key"] = hash_keys(split.keys(list(range(start, stop))))
        store.write(start, commit=False, **values)
        now = time.perf_counter()
        if now >= next_commit:
            # Waiting for a slow disk after each small block could take longer than scoring it.
            store.commit()
            waited = time.perf_counter() - now
            next_commit = now + waited / _SYNC_SHARE
        done += stop - start
        if on_block is not None:
            on_block(done)


def _score_batch(forward: Forward, inputs: torch.Tensor, labels: torch.Tensor, store: Store) -> dict[str, torch.Tensor]:
    logits = forward(inputs)
    loss = F.cross_entropy(logits, labels.to(logits.device, non_blocking=True), reduction="none")
    values = {"loss": loss, "logits": logits, "label": labels}
    if "input_mean" in store.meta.arrays:
        values["input_mean"] = input_mean(inputs)
    return {name: value for name, value in values.items() if name in store.meta.arrays}


def _loader(split: ScorableSplit, blocks: _Blocks, workers: int) -> DataLoader[Batch]:
    dataset: Dataset[Batch] = split  # type: ignore[assignment]  # a map-style data set by its methods
    # Its own generator: the loader would otherwise draw a seed from the global one, and what trains next would differ.
    return DataLoader(
        dataset, batch_sampler=blocks, num_workers=workers, collate_fn=_as_is, generator=torch.Generator()
    )


def _as_is(batch: Any) -> Any:
    return batch


def _array_specs(
    arrays: Sequence[str] | Mapping[str, str | None], num_classes: int
) -> dict[str, tuple[tuple[int, ...], str | None]]:
    dtypes = dict(arrays) if isinstance(arrays, Mapping) else dict.fromkeys(arrays)
    if "loss" not in dtypes or set(dtypes) - {"loss", "logits"}:
        raise UserError(f'`arrays` must be "loss", or "loss" and "logits"; found {", ".join(dtypes) or "none"}.')
    shapes: dict[str, tuple[int, ...]] = {"loss": (), "logits": (num_classes,)}
    specs: dict[str, tuple[tuple[int, ...], str | None]] = {name: (shapes[name], dtypes[name]) for name in dtypes}
    return specs | {"label": ((), None), "key": ((), None), "input_mean": ((), None)}


def _check_arguments(batch_size: int, rank: int, world: int) -> None:
    if batch_size < 1:
        raise UserError(f"`batch_size` must be at least 1, found {batch_size}.")
    if not 0 <= rank < world:
        raise UserError(f"`rank` must be between 0 and `world` - 1, found rank {rank} of world {world}.")


def _check_labels(split: ScorableSplit) -> None:
    if not len(split):
        raise UserError(f"`split` {split.name!r} is empty: there is nothing to score.")
    bad = ((split.labels < 0) | (split.labels >= split.num_classes)).nonzero().flatten()
    if len(bad):
        row = int(bad[0])
        raise UserError(
            f"The labels of `split` {split.name!r} must be between 0 and {split.num_classes - 1}; {len(bad):,} are "
            f"not, the first is {int(split.labels[row])} in row {row} (key {split.keys([row])[0]!r})."
        )


def _check_outputs(forward: Forward, split: ScorableSplit) -> None:
    shape = tuple(forward(split.__getitems__([0])[0]).shape)
    if shape != (1, split.num_classes):
        found = f"{shape[1]} outputs" if len(shape) == 2 else f"outputs of shape {shape} for one row"
        raise UserError(
            f"The reference model has {found}, but `split` {split.name!r} has {split.num_classes} classes. "
            "Use a reference that was trained on these classes."
        )


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s")


@contextlib.contextmanager
def _bar(blocks: _Blocks, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RowsPerSecond())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("scoring", total=blocks.total, completed=blocks.done)
        yield lambda rows: bar.update(task, advance=rows)
