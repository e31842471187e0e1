"""Memory with one row a sample, pair, group or node: the only code that touches it.

A row is written by index and survives everything that happens to a module: it is a buffer of its final size from the
start, part of `state_dict()`, it moves with `.to(device)`, and it stays float32 under `.half()` and `.to(bfloat16)`
because an average of many small steps is lost in 8 bits of mantissa. (`.double()` is followed: it loses nothing.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

#: What a row of a tracker holds before its first visit. No average is +inf, and `torch.equal` can compare it (not NaN).
UNSEEN = float("inf")


def _rows_of(values: Tensor, rows: Tensor) -> Tensor:
    # Not values[rows]: that is a view for an index that is a scalar, and would change with the memory.
    if rows.ndim == 1:
        return values.index_select(0, rows)
    return values.index_select(0, rows.reshape(-1)).reshape((*rows.shape, *values.shape[1:]))


# The compiler may repeat a plain `values[rows]` in the backward pass instead of saving its result, and finds rows there
# that the forward pass has changed since. An operator that it cannot look into is never repeated.
@torch.library.custom_op("guidestar::read_rows", mutates_args=())
def _read_compiled(values: Tensor, rows: Tensor) -> Tensor:
    return _rows_of(values, rows)


@_read_compiled.register_fake
def _(values: Tensor, rows: Tensor) -> Tensor:
    return values.new_empty((*rows.shape, *values.shape[1:]))


class PerSampleState(nn.Module):
    """Rows of floating-point memory, addressed by index.

    Args:
        num_rows: number of rows.
        shape: shape of one row; `()` is a scalar, 4 bytes a row.
        fill: value of every row before it is written (`UNSEEN` for an average that does not exist yet).

    State:
        `values`, float32, `[num_rows, *shape]`; the same on every rank (writers exchange their rows).

    Raises:
        ValueError: `num_rows` is not positive.

    Example:
        >>> memory = PerSampleState(3, fill=0.0)
        >>> memory.write(torch.tensor([2]), torch.tensor([5.0]))
        >>> memory.read(torch.tensor([0, 2]))
        tensor([0., 5.])
    """

    values: Tensor

    def __init__(self, num_rows: int, shape: tuple[int, ...] = (), *, fill: float = UNSEEN) -> None:
        super().__init__()
        if num_rows < 1:
            raise ValueError(f"`num_rows` must be at least 1. Found {num_rows}.")
        self.fill = float(fill)
        self.writable = True
        self.register_buffer("values", torch.full((num_rows, *shape), self.fill, dtype=torch.float32))

    def __len__(self) -> int:
        return self.values.shape[0]

    def first(self) -> Tensor | None:
        """The index of the first row: None, which is the short way without checks, or when compiling a scalar."""
        # torch.compile may read a slice of the rows again in the backward pass, where they have changed already.
        return torch.zeros((), dtype=torch.int64, device=self.values.device) if torch.compiler.is_compiling() else None

    def read(self, index: Tensor | None, *, checked: bool = False) -> Tensor:
        """A copy of the rows `index` (any shape of int64), `[*index.shape, *shape]`; None: of the first, `[*shape]`.

        `checked`: the index is what `on_device` gave, and is not checked again.
        """
        if index is None:
            return self.values[0].clone()
        rows = index if checked else self.on_device(index)
        return _read_compiled(self.values, rows) if torch.compiler.is_compiling() else _rows_of(self.values, rows)

    def write(
        self, index: Tensor | None, values: Tensor, active: Tensor | None = None, *, checked: bool = False
    ) -> None:
        """Set the rows `index` (1-D) to `values`, except where `active` is false; equal indices come with equal values.

        None, or an index that is a scalar, is a single row: `values` `[*shape]`, `active` `[]`; None is the first.
        `checked` as in `read`. A row that is not finite is not written: one bad batch must not stay for ever.
        """
        if not self.writable or (index is not None and index.numel() == 0):
            return
        if index is None:
            row, values = self.values[0], values.detach()
            if active is not None or not all_finite(values):
                values = torch.where(values.isfinite().all() & (True if active is None else active), values, row)
            row.copy_(values)
            return
        if index.ndim == 0:
            index, values = index.reshape(1), values.unsqueeze(0)
            active = None if active is None else active.reshape(1)
        rows = index if checked else self.on_device(index)
        memory, values = self.values, values.detach().to(self.values.dtype)
        if not all_finite(values):
            good = values.isfinite().reshape(len(values), -1).all(1)
            values = torch.where(expand(good, values), values, _rows_of(memory, rows))
        if active is not None and may_look(active):
            rows, values = rows[active], values[active]
        elif active is not None:
            # No data-dependent shapes: an inactive entry repeats the first active one (or what is stored, if none is).
            first = active.to(torch.int8).argmax().reshape(1)
            spare = torch.where(active.any(), values[first], memory[rows[first]])
            rows = torch.where(active, rows, rows[first])
            values = torch.where(expand(active, values), values, spare)
        memory.index_copy_(0, rows, values)

    def on_device(self, index: Tensor) -> Tensor:
        """`index` where the rows are, checked first if that costs no synchronisation (an index on the CPU).

        Raises:
            TypeError: the index is not an integer tensor.
            IndexError: an entry is negative or at least the number of rows.
        """
        if index.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"`index` must be an int64 tensor of row numbers. Found dtype {index.dtype}.")
        if may_look(index) and index.numel():
            low, high = (bound.item() for bound in (torch.aminmax(index) if index.numel() > 1 else (index, index)))
            if low < 0 or high >= len(self):
                raise IndexError(
                    f"`index` must lie in [0, {len(self)}), one row for each of the {len(self)} rows of memory. Found "
                    f"{low if low < 0 else high}. Pass each sample's row number in the data set (see "
                    "guidestar.samplers.Indexed), or construct with a larger `num_rows`."
                )
        return index.to(device=self.values.device, dtype=torch.int64)

    def seen(self) -> Tensor:
        """Which rows have been written, bool `[num_rows]` (meaningful with `fill=UNSEEN`)."""
        return (self.values != UNSEEN).flatten(1).all(1) if self.values.ndim > 1 else self.values != UNSEEN

    def reset(self) -> None:
        """Back to the state of a new object."""
        self.values.fill_(self.fill)

    def extra_repr(self) -> str:
        return f"num_rows={len(self)}, shape={tuple(self.values.shape[1:])}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PerSampleState:
        # fn may move, cast, or both. Only an empty tensor goes through it, to learn where the rows shall live and
        # whether they shall be float64; the rows themselves are never cast to fewer bits.
        probe = fn(self.values.new_empty(0))
        dtype = torch.float64 if probe.dtype == torch.float64 else torch.float32
        if self.values.is_meta and not probe.is_meta:
            self.values = torch.full(self.values.shape, self.fill, dtype=dtype, device=probe.device)
        else:
            self.values = self.values.to(device=probe.device, dtype=dtype)
        return self


class _Number(nn.Module):
    """One whole number as a buffer; 0 again where it is brought back from the meta device, which holds no values."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Number:
        lost = any(number.is_meta for number in self.buffers())
        super()._apply(fn, recurse)
        for number in self.buffers():
            if lost and not number.is_meta:
                number.zero_()
        return self


class Epoch(_Number):
    """The number of the epoch, as a buffer, for what depends on it (`guidestar.schedules.Cosine`).

    Example:
        >>> epoch = Epoch()
        >>> set_epoch(epoch, 3)
        >>> int(epoch.number)
        3
    """

    number: Tensor

    def __init__(self) -> None:
        super().__init__("number")


class Stateful(nn.Module):
    """A module whose memory can be reset and which can be told the epoch; base of trackers, duals, risks and losses."""

    def reset(self) -> None:
        """Forget everything: the module is then equal to a newly constructed one."""
        reset(self)

    def set_epoch(self, epoch: int) -> None:
        """Tell every schedule inside that epoch `epoch` (from 0) begins."""
        set_epoch(self, epoch)


def reset(module: nn.Module) -> None:
    """Reset every memory inside `module`, whatever class `module` is."""
    for child in module.modules():
        if isinstance(child, PerSampleState):
            child.reset()
        elif isinstance(child, Epoch):
            child.number.zero_()
        elif isinstance(child, Counter):
            child.count.zero_()


def set_epoch(module: nn.Module, epoch: int) -> None:
    """Tell every schedule inside `module`, whatever class it is, that epoch `epoch` (from 0) begins.

    Raises:
        ValueError: `epoch` is negative.
    """
    if epoch < 0 or int(epoch) != epoch:
        raise ValueError(f"`epoch` must be 0 or more, a whole number. Found {epoch}.")
    for child in module.modules():
        if isinstance(child, Epoch):
            child.number.fill_(epoch)


class Counter(_Number):
    """A count that survives a checkpoint (of rows that had nothing to learn from).

    Example:
        >>> counter = Counter()
        >>> counter.add(torch.tensor([True, False, True]))
        >>> int(counter.count)
        2
    """

    count: Tensor

    def __init__(self) -> None:
        super().__init__("count")
        self.writable = True

    def add(self, happened: Tensor) -> None:
        """Add the number of true entries."""
        if self.writable:
            self.count.add_(happened.sum())


@contextmanager
def read_only(module: nn.Module) -> Iterator[None]:
    """Inside the block, nothing in `module` is written: its forward says what it would return, and stays as it was.

    Example:
        >>> memory = PerSampleState(1, fill=0.0)
        >>> with read_only(memory):
        ...     memory.write(torch.tensor([0]), torch.tensor([1.0]))
        >>> memory.values
        tensor([0.])
    """
    inside = [child for child in module.modules() if isinstance(child, PerSampleState | Counter)]
    before = [child.writable for child in inside]
    for child in inside:
        child.writable = False
    try:
        yield
    finally:
        for child, writable in zip(inside, before, strict=True):
            child.writable = writable


def math_dtype(values: Tensor) -> torch.dtype:
    """The dtype in which a loss is computed: float64 for float64 input, else float32.

    Raises:
        TypeError: `values` is not a floating-point tensor.

    Example:
        >>> math_dtype(torch.zeros(1, dtype=torch.bfloat16))
        torch.float32
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        found = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"losses and estimates must be floating-point tensors. Found {found}.")
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def expand(flags: Tensor, like: Tensor) -> Tensor:
    """`flags` `[R]` with trailing dimensions of size 1, so that it broadcasts against `like` `[R, ...]`."""
    return flags.reshape((*flags.shape, *([1] * (like.ndim - flags.ndim))))


def may_look(values: Tensor) -> bool:
    """Whether looking at values costs no synchronisation and no graph break: on a CPU, and not compiling."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def all_finite(values: Tensor) -> bool:
    """Whether all of `values` are known to be finite: where looking is free, and their sum does not overflow."""
    return may_look(values) and math.isfinite(values.sum().item())


def distinct(index: Tensor) -> bool:
    """Whether it is known that no two entries of `index` `[R]` are equal."""
    if may_look(index) and len(index) > 256:
        ordered = np.sort(index.numpy())  # several times faster than torch's
        return not (ordered[1:] == ordered[:-1]).any()
    return may_look(index) and len(set(index.tolist())) == len(index)


def merge_duplicates(index: Tensor, values: Tensor, *, active: Tensor | None = None, log_space: bool = False) -> Tensor:
    """The mean of `values` `[R, ...]` over equal entries of `index` `[R]`, at each of them.

    Entries where `active` `[R]` is false keep their own value and count in no other's mean.
    In log space the mean is that of exp(values). The shapes do not depend on the data, and neither cost nor memory on
    the number of rows that exist: the indices are sorted and equal neighbours share a segment.

    Example:
        >>> merge_duplicates(torch.tensor([4, 1, 4]), torch.tensor([1.0, 5.0, 3.0]))
        tensor([2., 5., 2.])
    """
    if index.numel() < 2:
        return values
    if active is not None:  # a number of its own for each that does not count, below all rows
        index = torch.where(active, index, -1 - torch.arange(len(index), device=index.device))
    if distinct(index):
        return values
    order = torch.argsort(index, stable=True)
    ordered = index[order]
    segment = torch.zeros_like(index)
    segment[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    segment = torch.empty_like(segment).scatter_(0, order, segment)
    flat = values.reshape(len(index), -1)
    where = segment.unsqueeze(1).expand_as(flat)
    count = torch.zeros_like(flat).scatter_add_(0, where, torch.ones_like(flat))
    if log_space:
        top = torch.full_like(flat, -float("inf")).scatter_reduce_(0, where, flat, "amax").gather(0, where)
        total = torch.zeros_like(flat).scatter_add_(0, where, torch.exp(flat - top)).gather(0, where)
        merged = top + torch.log(total / count.gather(0, where))
    else:
        total = torch.zeros_like(flat).scatter_add_(0, where, flat).gather(0, where)
        merged = total / count.gather(0, where)
    return merged.reshape(values.shape)
