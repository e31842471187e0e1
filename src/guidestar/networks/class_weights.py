"""ClassWeights: a matrix of class weights that stays on the CPU or in a file; a step touches only the batch's classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from guidestar import distributed
from guidestar.state import math_dtype

#: Entries of the matrix that `logits` brings to the features' device at a time: 64 MB.
CHUNK = 2**24


class ClassWeights(nn.Module):
    r"""The linear head of a classifier whose classes are too many for the accelerator: millions of rows in host memory.

    In training, the weights $W[C_t]$ of the classes $C_t$ that occur in a batch come to the features' device as a leaf;
    after `backward`, `step()` moves these rows alone:

    - $V[C_t] \leftarrow \beta V[C_t] + (1 - \beta) Z[C_t]$ with $\beta$ = `momentum`,
    - $W[C_t] \leftarrow W[C_t] - \eta V[C_t]$ with $\eta$ = `lr`; `adaptive` divides each row's step by
      $\sqrt{\sum_t \mathrm{mean}(z_c^2)}$, the row-wise Adagrad, for classes of unequal frequency.

    Time and memory of a step depend on the batch and the width, not on the number of classes. Another optimizer does
    not see the matrix: it is no `nn.Parameter`. Between `forward` and `step` there may be several batches (their
    gradients add up, as everywhere in torch).

    Equations:
        Section 6.3; Alg. 26, steps 4, 9 and 10 (SCENT with `guidestar.losses.ExtremeClassificationLoss`).

    Args:
        num_classes: K.
        width: d, of the features.
        lr: $\eta$; the attribute `lr` may be set before each step (a schedule).
        momentum: in [0, 1); needs a second matrix.
        adaptive: row-wise Adagrad; needs K numbers more.
        std: standard deviation of the initial weights, by torch's global generator; 0 for zeros.
        path: a folder for memory-mapped files, which are continued if they exist; None keeps all in memory. With
            several ranks each needs files of its own: a path with `{rank}` in it.

    Shapes:
        `features` `[B, d]`, `labels` int64 `[B]` -> logits `[B, U]` over the U classes of the batch in increasing order,
        and `columns` int64 `[B]`, each sample's own. With several ranks U counts the classes of all ranks' batches, the
        same on each.

    State:
        `weight` float32 `[K, d]`, `velocity` `[K, d]` with momentum, `scale` `[K]` if adaptive. They stay float32 on the
        CPU whatever `.to()` says. In memory they are in `state_dict()`. With a `path` they are not: the files are the
        state, as of the last step; `flush()` when you write a checkpoint, and copy the folder with it if a resumed run
        must start from exactly there. All ranks hold the same: gradients are averaged, labels gathered.

    Raises:
        ValueError: a setting out of range, features of another width, files of another size.
        TypeError: labels that are not int64.
        IndexError: a label (on any device) is no class.
        RuntimeError: `step()` without `backward()` before it.

    Source:
        Wei et al., 2026 (Alg. 26 of the book); Duchi et al., "Adaptive Subgradient Methods", JMLR 2011, one number a row.

    Example:
        >>> from guidestar.losses import ExtremeClassificationLoss
        >>> weights, loss = ClassWeights(num_classes=1000, width=4, lr=0.1), ExtremeClassificationLoss(num_rows=50)
        >>> features, index = torch.ones(3, 4, requires_grad=True), torch.tensor([12, 0, 49])
        >>> logits, columns = weights(features, torch.tensor([7, 999, 7]))
        >>> logits.shape, columns
        (torch.Size([3, 2]), tensor([0, 1, 0]))
        >>> loss(logits, columns, index).backward()
        >>> weights.step()
    """

    weight: Tensor
    velocity: Tensor | None
    scale: Tensor | None

    def __init__(
        self,
        num_classes: int,
        width: int,
        *,
        lr: float = 0.1,
        momentum: float = 0.0,
        adaptive: bool = False,
        std: float = 0.01,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1 or width < 1:
            raise ValueError(f"`num_classes` and `width` must be at least 1. Found {num_classes} and {width}.")
        if not 0 < lr < float("inf"):
            raise ValueError(f"`lr` must be positive and finite. Found {lr}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Found {momentum}.")
        if not 0 <= std < float("inf"):
            raise ValueError(f"`std` must be 0 or more, and finite. Found {std}.")
        self.num_classes, self.width = num_classes, width
        self.lr, self.momentum = float(lr), float(momentum)
        self.folder = None if path is None else _own_folder(os.fspath(path))
        self._maps: list[np.memmap] = []
        self._pending: list[tuple[Tensor, Tensor]] = []
        shape = (num_classes, width)
        self._keep("weight", shape, lambda values: values.normal_(0.0, std) if std > 0 else values)
        self._keep("velocity", shape if momentum > 0 else None)
        self._keep("scale", (num_classes,) if adaptive else None)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits over the classes of the batch, and the column of each sample's own class."""
        self._check_features(features)
        if labels.shape != features.shape[:1]:
            raise ValueError(
                f"`labels` must have one class for each row of `features`, shape ({len(features)},). Found "
                f"{tuple(labels.shape)}."
            )
        rows, columns = self.rows(labels, features.device)
        return features @ rows.to(features.dtype).T, columns

    def rows(self, labels: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """For another head than the inner product: the weights of the batch's classes, a leaf, and the columns.

        Args:
            labels: int64 `[B]`.
            device: where the rows shall be, the features' device.

        Returns:
            rows float32 `[U, d]`, whose gradient `step()` takes, and columns int64 `[B]`: the class of sample i is
            `rows[columns[i]]`. In training they wait for `step()`, or for `zero_grad()` where none follows.
        """
        learning = self.training and torch.is_grad_enabled()
        count = len(labels)
        host = (distributed.gather(labels.to(device)) if learning else labels.detach()).cpu()
        self._check_labels(host)
        classes, columns = torch.unique(host, return_inverse=True)  # C_t of Alg. 26, step 4
        if learning:
            columns = columns[distributed.rank() * count :][:count]
        leaf = self.weight[classes].to(device).requires_grad_(learning)
        if learning:
            self._pending.append((classes, leaf))
        return leaf, columns.to(device)

    @torch.no_grad()
    def step(self) -> None:
        """Move the rows that were given out since the last step, by the gradients that `backward` left in them."""
        pending, self._pending = self._pending, []
        if all(leaf.grad is None for _, leaf in pending):
            raise RuntimeError("`step()` found no gradient: call `backward()` on a loss of the logits before it.")
        given = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for _, leaf in pending]
        parts = torch.cat([distributed.mean(part).cpu() for part in given])
        classes, where = torch.unique(torch.cat([part for part, _ in pending]), return_inverse=True)
        gradient = parts.new_zeros((len(classes), self.width)).index_add_(0, where, parts)  # Z_t[C_t]
        direction = gradient
        if self.velocity is not None:
            direction = torch.lerp(gradient, self.velocity[classes], self.momentum)  # Alg. 26, step 9
            self.velocity.index_copy_(0, classes, direction)
        if self.scale is not None:
            squares = self.scale[classes] + gradient.square().mean(1)
            self.scale.index_copy_(0, classes, squares)
            direction = direction / squares.sqrt().clamp(min=1e-10).unsqueeze(1)
        self.weight.index_add_(0, classes, direction, alpha=-self.lr)  # Alg. 26, step 10

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the rows that were given out since the last step, and their gradients."""
        super().zero_grad(set_to_none)
        self._pending = []

    @torch.no_grad()
    def logits(self, features: Tensor, chunk: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """The logits over all classes, `chunk` classes at a time: pairs of the first class and `[B, chunk]`.

        The matrix streams through the features' device; all logits at once are never there. `chunk` defaults to 64 MB
        of weights.
        """
        self._check_features(features)
        features = features.to(math_dtype(features))
        size = max(1, CHUNK // self.width) if chunk is None else chunk
        if size < 1:
            raise ValueError(f"`chunk` must be at least 1. Found {chunk}.")
        for start in range(0, self.num_classes, size):
            yield start, features @ self.weight[start : start + size].to(features).T

    @torch.no_grad()
    def top(self, features: Tensor, k: int = 1, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """The k best classes of each sample: logits `[B, k]`, best first, and classes int64 `[B, k]`."""
        if not 1 <= k <= self.num_classes:
            raise ValueError(f"`k` must be in [1, {self.num_classes}], the number of classes. Found {k}.")
        best, classes = (
            features.new_zeros((len(features), 0)),
            features.new_zeros((len(features), 0), dtype=torch.int64),
        )
        for start, block in self.logits(features, chunk):
            values, places = block.topk(min(k, block.shape[1]), dim=1)
            values, places = torch.cat([best.to(values), values], 1), torch.cat([classes, places + start], 1)
            best, order = values.topk(min(k, values.shape[1]), dim=1)
            classes = places.gather(1, order)
        return best, classes

    @torch.no_grad()
    def cross_entropy(self, features: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
        """The cross-entropy of each sample over all K classes, `[B]`, the number that the sampled losses stand for."""
        self._check_labels(labels.cpu())
        total = None
        for _, block in self.logits(features, chunk):
            part = torch.logsumexp(block, 1)
            total = part if total is None else torch.logaddexp(total, part)
        own = (features.to(math_dtype(features)) * self.weight[labels.cpu()].to(features.device)).sum(1)
        return own.neg() if total is None else total - own

    def flush(self) -> None:
        """Write what the operating system still holds of the memory-mapped files to the disk."""
        for mapped in self._maps:
            mapped.flush()

    def _keep(self, name: str, shape: tuple[int, ...] | None, fill: Callable[[Tensor], Tensor] | None = None) -> None:
        if shape is None:
            self.register_buffer(name, None)
            return
        if self.folder is None:
            values = torch.zeros(shape)
            self.register_buffer(name, fill(values) if fill else values)
            return
        mapped = _open(self.folder / f"{name}.npy", shape, fill)
        self._maps.append(mapped)
        self.register_buffer(name, torch.from_numpy(mapped), persistent=False)

    def _check_features(self, features: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.width:
            raise ValueError(
                f"`features` must be [B, {self.width}], the `width` of the weights. Found {tuple(features.shape)}."
            )

    def _check_labels(self, labels: Tensor) -> None:
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise TypeError(f"`labels` must be an int64 tensor [B]. Found {labels.dtype} {tuple(labels.shape)}.")
        if labels.numel():
            low, high = (int(bound) for bound in torch.aminmax(labels))
            if low < 0 or high >= self.num_classes:
                raise IndexError(
                    f"`labels` must lie in [0, {self.num_classes}), the number of classes. Found "
                    f"{low if low < 0 else high}."
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClassWeights:
        return self  # the rows stay where they are: the batch's go to the features

    def extra_repr(self) -> str:
        where = "in memory" if self.folder is None else f"in {self.folder}"
        return f"num_classes={self.num_classes}, width={self.width}, lr={self.lr}, momentum={self.momentum}, {where}"


def _own_folder(path: str) -> Path:
    if distributed.world_size() > 1 and "{rank}" not in path:
        raise ValueError(
            "`path` must contain {rank} where there are several ranks: each applies every step to files of its own. Found "
            f"{path}."
        )
    return Path(path.replace("{rank}", str(distributed.rank())))


def _open(path: Path, shape: tuple[int, ...], fill: Callable[[Tensor], Tensor] | None) -> np.memmap:
    """The file, mapped; one that is not there is made aside first, so that it is never half filled."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        mapped = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float32, shape=shape)
        if fill is not None:
            fill(torch.from_numpy(mapped))
        mapped.flush()
        del mapped
        os.replace(aside, path)
    try:
        found = np.load(path, mmap_mode="r")  # opened for writing, a file that was cut short would be made longer
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"`path` holds {path.name}, which is no whole .npy file: {error}. Delete it, or pass another folder."
        ) from error
    if found.shape != shape or found.dtype != np.float32:
        raise ValueError(
            f"`path` holds {path.name} of shape {found.shape}, {found.dtype}; `num_classes` and `width` ask for {shape}, "
            "float32. Pass the settings that it was made with, or another folder."
        )
    return np.lib.format.open_memmap(path, mode="r+")
