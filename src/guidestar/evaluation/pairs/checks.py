"""What embeddings and their labels must look like."""

from collections.abc import Iterator

import torch

from guidestar.errors import UserError

# Similarities of unit-norm float32 vectors are exact to about this; what is closer counts as equal.
TIE = 1e-6
# Similarities that are held at once, at most: 64 MiB in float32.
BLOCK = 2**24


def check_embeddings(name: str, value: torch.Tensor) -> torch.Tensor:
    """Embeddings, detached, in float32 or float64.

    Args:
        name: the argument's name.
        value: [n, d], any floating dtype.

    Returns:
        The same numbers; lower precisions widened to float32.

    Raises:
        TypeError: the embeddings are not floating-point numbers.
        UserError: they are not a matrix with at least one row, or hold NaN or infinite numbers.

    Example:
        >>> check_embeddings("image", torch.ones(2, 3, dtype=torch.float16)).dtype
        torch.float32
    """
    if not value.is_floating_point():
        raise TypeError(f"`{name}` must be floating-point numbers, found {value.dtype}.")
    if value.ndim != 2 or 0 in value.shape:
        raise UserError(f"`{name}` must be [rows, width] with at least one of each, found {list(value.shape)}.")
    bad = ~value.isfinite().all(dim=1)
    if bool(bad.any()):
        raise UserError(
            f"`{name}` must be finite, found NaN or infinite numbers in {int(bad.sum())} of {len(value)} rows (the "
            f"first is row {int(bad.nonzero()[0])}): the model has probably diverged."
        )
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def check_same_width(first_name: str, first: torch.Tensor, second_name: str, second: torch.Tensor) -> None:
    """Both have the same number of columns.

    Args:
        first_name: the first argument's name.
        first: [n, d].
        second_name: the second argument's name.
        second: [m, d].

    Raises:
        UserError: the widths differ.

    Example:
        >>> check_same_width("image", torch.ones(2, 3), "text", torch.ones(4, 3))
    """
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"`{first_name}` and `{second_name}` must have the same width, found {first.shape[1]} and "
            f"{second.shape[1]}: were they made by the same model?"
        )


def check_classes(name: str, value: torch.Tensor, rows: int, classes: int | None, device: torch.device) -> torch.Tensor:
    """Class ids or row numbers, one for each row.

    Args:
        name: the argument's name.
        value: [rows], integers.
        rows: how many there must be.
        classes: ids lie in [0, classes); None where there is no upper end.
        device: where they are wanted.

    Returns:
        int64 [rows].

    Raises:
        TypeError: they are not integers.
        UserError: the shape is another or an id is out of range.

    Example:
        >>> check_classes("labels", torch.tensor([0, 1]), 2, 2, torch.device("cpu")).tolist()
        [0, 1]
    """
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"`{name}` must be integers, found {value.dtype}.")
    if value.shape != (rows,):
        raise UserError(f"`{name}` must be [{rows}], one for each row, found {list(value.shape)}.")
    low, high = int(value.min()), int(value.max())
    if low < 0 or (classes is not None and high >= classes):
        end = "" if classes is None else f" and below {classes}"
        raise UserError(f"`{name}` must be at least 0{end}, found {low} to {high}.")
    return value.to(device, torch.int64)


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Consecutive rows of a matrix in blocks that fit in memory.

    Args:
        rows: rows of the matrix.
        columns: columns of the matrix.

    Returns:
        Slices that cover all rows in order.

    Example:
        >>> [(part.start, part.stop) for part in blocks(5, BLOCK // 2)]
        [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
