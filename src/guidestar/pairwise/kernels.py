"""The statistics of `guidestar.pairwise.tiles` on a CUDA GPU, each direction and each gradient in one triton kernel.

No part of the matrix reaches the GPU's memory. Rows and columns, and the gradients by x and by y, are passes of their own
that make the tiles again: a single pass would need sums of each column from every block of rows, which is R C / block
numbers, more than the features have at large batches, or atomic additions, whose order varies. So results are the same in
every run, and memory beside the gradients is at most about `PROGRAMS * BLOCK_R` rows of features, whatever the batch.

Features are float32, as the losses cast them. Products are exact float32 unless TF32 is allowed for PyTorch's own
(`torch.set_float32_matmul_precision("high")`): then they are the sum of three TF32 products, nearly as exact.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import Tensor

from guidestar.pairwise.mask import HIDDEN, PairMask

# Chosen by what the compiler says for compute capabilities 8.0 to 12.0: few spilled registers, and little enough
# shared memory for every GPU.
BLOCK_R, BLOCK_D, BLOCK_OUT = 64, 16, 32
BLOCK_C = {"ieee": 128, "tf32x3": 64}
WARPS, STAGES = 8, 2

#: Programs to be launched, to fill a GPU: where there are fewer blocks of rows, the columns are split into runs.
PROGRAMS = 256

Four = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
OneSide = tuple[Tensor, Tensor, Tensor]


def usable(x: Tensor, y: Tensor) -> bool:
    """Whether the kernels run on these features; otherwise the tiles do.

    They run where the environment variable GUIDESTAR_KERNELS is 1: they agree with the tiles in triton's interpreter, and
    compile for GPUs, but their speed on one has not been measured (`benchmarks/pair_kernels.py`). Needed are float32
    features on an NVIDIA GPU of compute capability 8.0 or more, triton (the extra `kernels`), and the
    C compiler that triton calls.

    Args:
        x, y: features `[R, d]`, `[C, d]`.

    Example:
        >>> usable(torch.ones(2, 3), torch.ones(2, 3))
        False
    """
    if os.environ.get("GUIDESTAR_KERNELS") != "1":
        return False
    if not x.is_cuda or x.dtype != torch.float32 or y.dtype != torch.float32 or 0 in (x.numel(), y.numel()):
        return False
    nvidia = torch.version.hip is None and torch.cuda.get_device_capability(x.device) >= (8, 0)
    return nvidia and triton_works()


@functools.cache
def triton_works() -> bool:
    """Whether triton and a C compiler are installed.

    Example:
        >>> triton_works() in (True, False)
        True
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and importlib.util.find_spec("triton") is not None


class PairKernels(torch.autograd.Function):
    """What `guidestar.pairwise.tiles.tiled_statistics` applies where `usable`: same arguments, same results."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        reference_x: Tensor | None,
        reference_y: Tensor | None,
        row_scale: Tensor,
        column_scale: Tensor | None,
        mask: PairMask,
    ) -> tuple[Tensor, ...]:
        ctx.mask, ctx.precision = mask, _precision()
        four = _contiguous(x, y, reference_x, reference_y)
        row_scale = row_scale.contiguous()
        made = _statistics(four, row_scale, mask, ctx.precision)
        if column_scale is not None:
            column_scale = column_scale.contiguous()
            made += _statistics(_turned(four), column_scale, turned_mask(mask), ctx.precision)
        ctx.save_for_backward(*four, row_scale, column_scale, *made)
        ctx.mark_non_differentiable(*(made[i] for i in range(len(made)) if i % 3))
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *features, row_scale, column_scale = ctx.saved_tensors[:6]
        made = ctx.saved_tensors[6:]
        four: Four = (features[0], features[1], features[2], features[3])
        need_x, need_y, *_ = ctx.needs_input_grad
        rows = (row_scale, made[0], gradients[0].contiguous())
        columns = None if column_scale is None else (column_scale, made[3], gradients[3].contiguous())
        grad_x = grad_y = None
        if need_x:
            grad_x = _gradient(four, rows, columns, ctx.mask, ctx.precision)
        if need_y:
            grad_y = _gradient(_turned(four), columns, rows, turned_mask(ctx.mask), ctx.precision)
        # d log_sum / d a = the mean of L under the weights = expected / a
        grad_row = gradients[0] * made[1] / row_scale
        grad_column = None if column_scale is None else gradients[3] * made[4] / column_scale
        return grad_x, grad_y, None, None, grad_row, grad_column, None


def turned_mask(mask: PairMask) -> PairMask:
    """The mask of the transposed matrix.

    Example:
        >>> turned_mask(PairMask(2, 3, own=1, hide_own=True)).tile(0, 3)
        tensor([[ True,  True],
                [False,  True],
                [ True, False]])
    """
    own = None if mask.own is None else -mask.own
    groups, valid = (mask.column_groups, mask.row_groups), (mask.column_valid, mask.row_valid)
    return PairMask(mask.columns, mask.rows, own, mask.hide_own, *groups, *valid)


def _turned(four: Four) -> Four:
    x, y, reference_x, reference_y = four
    return y, x, reference_y, reference_x


def _contiguous(x: Tensor, y: Tensor, reference_x: Tensor | None, reference_y: Tensor | None) -> Four:
    if reference_x is None or reference_y is None:
        return x.contiguous(), y.contiguous(), None, None
    return x.contiguous(), y.contiguous(), reference_x.contiguous(), reference_y.contiguous()


def _precision() -> str:
    """How triton multiplies float32 numbers, by what PyTorch's own products may do."""
    products = torch.backends.cuda.matmul
    if hasattr(products, "fp32_precision"):
        allowed = products.fp32_precision == "tf32"
    else:
        allowed = products.allow_tf32
    return "tf32x3" if allowed else "ieee"


def runs(rows: int, columns: int) -> tuple[int, int]:
    """Into how many runs the columns are split, and how many columns a run has.

    Example:
        >>> runs(32768, 32768), runs(128, 4096)
        ((1, 32768), (32, 128))
    """
    step = max(BLOCK_C.values())
    blocks, steps = -(-rows // BLOCK_R), -(-columns // step)
    run = -(-steps // min(steps, max(1, PROGRAMS // blocks)))
    return -(-steps // run), run * step


def _common(four: Four, mask: PairMask, precision: str) -> dict[str, Any]:
    """The arguments that both kernels take."""
    x, y, reference_x, reference_y = four
    grouped = mask.row_groups is not None and mask.column_groups is not None
    row_groups, column_groups = (mask.row_groups, mask.column_groups) if grouped else (None, None)
    return {
        "x": x,
        "y": y,
        "reference_x": reference_x,
        "reference_y": reference_y,
        "row_groups": None if row_groups is None else row_groups.contiguous(),
        "column_groups": None if column_groups is None else column_groups.contiguous(),
        # triton has no bool pointers of its own
        "row_valid": None if mask.row_valid is None else mask.row_valid.contiguous().view(torch.uint8),
        "column_valid": None if mask.column_valid is None else mask.column_valid.contiguous().view(torch.uint8),
        "row_count": mask.rows,
        "column_count": mask.columns,
        "width": x.shape[1],
        "reference_width": 0 if reference_x is None else reference_x.shape[1],
        "own": mask.own or 0,
        "HAS_OWN": mask.own is not None,
        "HIDE_OWN": mask.hide_own,
        "BLOCK_R": BLOCK_R,
        "BLOCK_C": BLOCK_C[precision],
        "BLOCK_D": BLOCK_D,
        "PRECISION": precision,
        "num_warps": WARPS,
        "num_stages": STAGES,
    }


def _statistics(four: Four, scale: Tensor, mask: PairMask, precision: str) -> OneSide:
    """Log-sums, expectations and counts of the rows, `[R]` each."""
    from guidestar.pairwise.kernel_code import statistics_kernel

    x = four[0]
    splits, run = runs(mask.rows, mask.columns)
    top, total, weighted, count = x.new_empty(4, splits, mask.rows).unbind()
    with torch.cuda.device_of(x):
        statistics_kernel[-(-mask.rows // BLOCK_R), splits](
            **_common(four, mask, precision),
            scale=scale,
            top_out=top,
            total_out=total,
            weighted_out=weighted,
            count_out=count,
            run=run,
            HIDDEN=HIDDEN,
        )
    highest = top.amax(0)
    shift = (top - highest).clamp(min=-1e4)
    shrink = shift.exp()
    weighted = ((weighted + shift * total) * shrink).sum(0)
    total = (total * shrink).sum(0)
    return highest + total.log(), highest + weighted / total, count.sum(0)


def _gradient(four: Four, rows: OneSide | None, columns: OneSide | None, mask: PairMask, precision: str) -> Tensor:
    """The gradient by x `[R, d]`; `rows` and `columns`: scales, log-sums and their gradients."""
    from guidestar.pairwise.kernel_code import gradient_kernel

    x = four[0]
    splits, run = runs(mask.rows, mask.columns)
    parts = x.new_zeros(splits, *x.shape)
    own, other = rows or (None, None, None), columns or (None, None, None)
    with torch.cuda.device_of(x):
        gradient_kernel[-(-mask.rows // BLOCK_R), splits](
            **_common(four, mask, precision),
            row_scale=own[0],
            row_log_sum=own[1],
            row_gradient=own[2],
            column_scale=other[0],
            column_log_sum=other[1],
            column_gradient=other[2],
            out=parts,
            run=run,
            BLOCK_OUT=BLOCK_OUT,
        )
    return parts[0] if splits == 1 else parts.sum(0)
