"""Every contrastive loss gives the same with and without the matrix, and the tiled one never forms it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from written_out import features

import guidestar as gs
from guidestar import losses
from guidestar.networks import TempNet
from guidestar.pairwise import tiles

ROWS, SIZE, WIDTH = 60, 37, 5  # tiles of 16 rows: 16, 16 and 5 (two views: 74 rows, the last tile has 10)


@dataclass(frozen=True)
class Kind:
    """A loss by its constructor, and what its forward takes."""

    label: str
    make: Callable[[bool], torch.nn.Module]
    reference: tuple[str, str] | None = None
    groups: bool = True
    scalars: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return self.label


def kind(cls: type, label: str, *args: Any, **settings: Any) -> Kind:
    given = {k: settings.pop(k) for k in ("reference", "groups", "scalars") if k in settings}
    return Kind(f"{cls.__name__}-{label}", lambda tiled: cls(*copy.deepcopy(args), tiled=tiled, **settings), **given)


def tempnet(tiled: bool) -> losses.TempNetLoss:
    torch.manual_seed(0)
    nets = [TempNet(WIDTH, hidden=4, tau=0.1) for _ in range(2)]
    for net in nets:
        torch.nn.init.normal_(net.last.weight)
    return losses.TempNetLoss(*nets, 0.5, num_rows=ROWS, gamma=0.5, tiled=tiled)


TOWERS, VIEWS = ("reference_image", "reference_text"), ("reference_first", "reference_second")
BALL = {"tau": 0.2, "lr": 0.05, "num_rows": ROWS}
KINDS = [
    kind(losses.CLIPLoss, "", scalars=("tau",)),
    kind(losses.CLIPLoss, "several", several_positives=True, scalars=("tau",)),
    kind(losses.InfoNCELoss, "", scalars=("tau",)),
    kind(losses.InfoNCELoss, "several", several_positives=True, scalars=("tau",)),
    kind(losses.SigLIPLoss, "", scalars=("tau", "bias")),
    kind(losses.SigLIPLoss, "several", several_positives=True, scalars=("tau", "bias")),
    kind(losses.CLIPDistillationLoss, "", 0.2, scalars=("tau",), reference=TOWERS, groups=False),
    kind(losses.DRRhoCLIPLoss, "KL", gs.KL(0.2), reference=TOWERS),
    kind(losses.DRRhoCLIPLoss, "KL apart, memory", gs.KL(0.2, ROWS, gamma=0.5), gs.KL(0.3, ROWS, gamma=0.5)),
    kind(losses.DRRhoCLIPLoss, "ball, eps", gs.KLBall(0.5, **BALL, gamma=0.5), eps=1e-3, reference=TOWERS),
    kind(losses.DRRhoCLIPLoss, "joint", gs.KLBall(0.5, **BALL), joint_temperature=True, reference=TOWERS),
    kind(losses.DRRhoCLIPLoss, "rows", gs.KLBall(0.5, **BALL, per_row=True), several_positives=True, reference=TOWERS),
    kind(losses.DRRhoCLIPLoss, "not shifted", gs.KL(0.2, ROWS, gamma=0.5), shifted=False, negatives_only=True),
    kind(losses.DRRhoContrastiveLoss, "KL", gs.KL(0.2, ROWS, gamma=0.5), reference=VIEWS),
    kind(losses.DRRhoContrastiveLoss, "several", gs.KL(0.2), several_positives=True, eps=0.1, reference=VIEWS),
    kind(losses.DRRhoContrastiveLoss, "rows", gs.KLBall(0.5, **BALL, per_row=True, gamma=0.5), reference=VIEWS),
    kind(losses.SogCLRLoss, "", ROWS),
    kind(losses.SogCLRLoss, "two", ROWS, two_towers=True),
    kind(losses.ISogCLRLoss, "", ROWS, 0.5),
    kind(losses.ISogCLRLoss, "two", ROWS, 0.5, two_towers=True, momentum=0.5),
    *(kind(losses.FastCLIPLoss, f"v{v}", ROWS, 4, version=v) for v in range(4)),
    Kind("TempNetLoss", tempnet, reference=TOWERS),
]
every = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 1)
    assert tiles.tile_rows(SIZE) == 16


def arguments(kind: Kind, seed: int, dtype: torch.dtype, extras: str, size: int = SIZE) -> tuple[list, dict]:
    """The two features with the scalars, all leaves, and what else the loss takes."""
    first, second, *reference = features(seed, size, WIDTH, dtype)
    rng = torch.Generator().manual_seed(seed)
    index = torch.randperm(max(size, ROWS), generator=rng)[:size]
    leaves, given = [first, second], {}
    for number, name in enumerate(kind.scalars):
        given[name] = torch.tensor((0.2, -1.0)[number], dtype=dtype, requires_grad=True)
        leaves.append(given[name])
    if kind.reference is not None:
        given |= dict(zip(kind.reference, reference, strict=True))
    if extras == "groups" and kind.groups:
        given["groups"] = torch.randint(12, (size,), generator=rng)
    if extras == "mask":  # with all of the first tile's rows, so that a column's first entries are all hidden
        given["mask"] = torch.rand(size, generator=rng) < 0.7
        given["mask"][:16] = False
    return leaves, {"index": index, **given}


def steps(kind: Kind, tiled: bool, dtype: torch.dtype, extras: str) -> tuple[list, dict]:
    loss = kind.make(tiled).to(dtype)
    found = []
    for seed in range(3):
        leaves, given = arguments(kind, seed, dtype, extras)
        value = loss(*leaves[:2], **given)
        gradients = torch.autograd.grad(value, [*leaves, *loss.parameters()])
        found.append((value.detach(), *gradients))
        with torch.no_grad():
            for parameter, gradient in zip(loss.parameters(), gradients[len(leaves) :], strict=True):
                parameter -= 0.1 * gradient
    return found, loss.state_dict()


@every
@pytest.mark.parametrize("extras", ["", "groups", "mask"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tiled_equals_eager(kind, extras, dtype) -> None:
    eager, tiled = (steps(kind, flag, dtype, extras) for flag in (False, True))
    # Relative to the largest entry; in float32 sums in another order, divided by tau, over three steps.
    share = 1e-11 if dtype == torch.float64 else 4e-6

    def close(left: torch.Tensor, right: torch.Tensor) -> None:
        assert torch.isfinite(right).all()
        assert float((left - right).abs().max()) <= share * max(1e-3, float(left.abs().max()))

    for one, other in zip(eager[0], tiled[0], strict=True):
        for left, right in zip(one, other, strict=True):
            close(left, right)
    for name, left in eager[1].items():
        seen = torch.isfinite(left)
        assert torch.equal(seen, torch.isfinite(tiled[1][name]))
        if seen.any():
            close(left[seen], tiled[1][name][seen])


@every
def test_twice_the_same_bits(kind) -> None:
    one, other = (steps(kind, True, torch.float32, "groups") for _ in range(2))
    for left, right in zip([t for step in one[0] for t in step], [t for step in other[0] for t in step], strict=True):
        assert torch.equal(left, right)
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


class Largest(TorchDispatchMode):
    """Records the number of entries of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


def largest(kind: Kind, tiled: bool, extras: str, size: int) -> int:
    loss = kind.make(tiled)
    leaves, given = arguments(kind, 0, torch.float32, extras, size)
    given["index"] = given["index"] % ROWS
    with Largest() as mode:
        torch.autograd.grad(loss(*leaves[:2], **given), [*leaves, *loss.parameters()])
    return mode.entries


@every
@pytest.mark.parametrize("extras", ["", "groups", "mask"])
def test_no_matrix_is_formed(kind, extras) -> None:
    size = 150
    anchors = (
        2 * size if "Contrastive" in str(kind) or "InfoNCE" in str(kind) or str(kind).endswith("CLRLoss-") else size
    )
    assert largest(kind, False, extras, size) >= anchors * size  # or this test could not fail
    assert largest(kind, True, extras, size) <= max(16 * anchors, 2 * anchors * (2 * WIDTH + 1))
