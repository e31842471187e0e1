"""Contrastive losses on two ranks with half of the pairs each do what one process does with all of them.

The features come from two linear towers whose parameters' gradients are averaged over the ranks, as DDP does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import guidestar as gs
from guidestar import distributed, losses
from guidestar.networks import TempNet
from guidestar.pairwise import tiles

ROWS, SIZE = 30, 24  # 12 pairs a rank
TOWERS, VIEWS = ("reference_image", "reference_text"), ("reference_first", "reference_second")
BALL = {"tau": 0.3, "lr": 0.05, "num_rows": ROWS}


@dataclass(frozen=True)
class Kind:
    """A loss by its constructor, and what its forward takes."""

    label: str
    make: Callable[[bool], nn.Module]
    reference: tuple[str, str] | None = None
    groups: bool = True
    tau: bool = False
    tiled: bool = True

    def __str__(self) -> str:
        return self.label


def tempnet(tiled: bool) -> nn.Module:
    torch.manual_seed(1)
    nets = [TempNet(3, hidden=4, tau_min=0.1, tau_max=0.6, tau=0.3) for _ in range(2)]
    for net in nets:
        nn.init.normal_(net.last.weight)
    return losses.TempNetLoss(*nets, 0.5, num_rows=ROWS, gamma=0.5, tiled=tiled)


def maps(tiled: bool) -> nn.Module:
    torch.manual_seed(1)
    return losses.FeatureDistillationLoss(3, 4)


CLIP, ONE = losses.DRRhoCLIPLoss, losses.DRRhoContrastiveLoss
KINDS = [
    Kind("CLIP", lambda tiled: losses.CLIPLoss(tiled=tiled), tau=True),
    Kind("CLIP several", lambda tiled: losses.CLIPLoss(tiled=tiled, several_positives=True), tau=True),
    Kind("SigLIP", lambda tiled: losses.SigLIPLoss(tiled=tiled), tau=True),
    Kind("SigLIP several", lambda tiled: losses.SigLIPLoss(tiled=tiled, several_positives=True), tau=True),
    Kind("InfoNCE", lambda tiled: losses.InfoNCELoss(tiled=tiled), tau=True),
    Kind("InfoNCE several", lambda tiled: losses.InfoNCELoss(tiled=tiled, several_positives=True), tau=True),
    Kind("soft labels", lambda tiled: losses.CLIPDistillationLoss(0.2, tiled=tiled), TOWERS, groups=False, tau=True),
    Kind("features", maps, TOWERS, groups=False, tiled=False),
    Kind("KL", lambda tiled: CLIP(gs.KL(0.3), tiled=tiled), TOWERS),
    Kind("KL, eps, memory", lambda tiled: CLIP(gs.KL(0.3, ROWS, gamma=0.5), eps=0.1, tiled=tiled), TOWERS),
    Kind(
        "not shifted", lambda tiled: CLIP(gs.KL(0.3, ROWS, gamma=0.5), shifted=False, negatives_only=True, tiled=tiled)
    ),
    Kind("apart", lambda tiled: CLIP(gs.KLBall(0.5, **BALL), tiled=tiled), TOWERS),
    Kind("joint", lambda tiled: CLIP(gs.KLBall(0.5, gamma=0.5, **BALL), joint_temperature=True, tiled=tiled), TOWERS),
    Kind(
        "rows",
        lambda tiled: CLIP(gs.KLBall(0.5, gamma=0.5, per_row=True, momentum=0.5, **BALL), tiled=tiled),
        TOWERS,
    ),
    Kind("several", lambda tiled: CLIP(gs.KLBall(0.5, **BALL), several_positives=True, tiled=tiled), TOWERS),
    # Smoothed: at the first threshold, 0, the own pair's loss of 0 would be on either side by rounding alone.
    Kind("CVaR", lambda tiled: CLIP(gs.CVaR(0.5, lr=0.1, num_rows=ROWS, smoothing=0.5)), TOWERS, tiled=False),
    Kind("ball", lambda tiled: CLIP(gs.ChiSquare(0.3), several_positives=True), TOWERS, tiled=False),
    Kind("views", lambda tiled: ONE(gs.KL(0.3, ROWS, gamma=0.5), eps=0.1, tiled=tiled), VIEWS),
    Kind("views, rows", lambda tiled: ONE(gs.KLBall(0.5, per_row=True, gamma=0.5, **BALL), tiled=tiled), VIEWS),
    Kind("views, several", lambda tiled: ONE(gs.KLBall(0.5, **BALL), several_positives=True, tiled=tiled), VIEWS),
    Kind("SogCLR", lambda tiled: losses.SogCLRLoss(ROWS, 0.3, 0.5, tiled=tiled)),
    Kind("iSogCLR", lambda tiled: losses.ISogCLRLoss(ROWS, 0.5, two_towers=True, tiled=tiled)),
    Kind("FastCLIP", lambda tiled: losses.FastCLIPLoss(ROWS, 4, lr=0.01, tiled=tiled)),
    Kind("FastCLIP v0", lambda tiled: losses.FastCLIPLoss(ROWS, 4, version=0, tiled=tiled)),
    Kind("TempNet", tempnet, TOWERS),
]


def batch(kind: Kind, step: int) -> dict[str, Tensor]:
    """Inputs of both towers and everything else that has an entry a pair; masks differ between the ranks."""
    rng = torch.Generator().manual_seed(step)
    made = {
        "one": torch.randn(SIZE, 4, generator=rng, dtype=torch.float64),
        "two": torch.randn(SIZE, 4, generator=rng, dtype=torch.float64),
        "index": torch.randperm(ROWS, generator=rng)[:SIZE],
    }
    if kind.reference is not None:
        for name in kind.reference:
            made[name] = torch.randn(SIZE, 4, generator=rng, dtype=torch.float64) / 2
    groups = torch.randint(10, (SIZE,), generator=rng)
    if kind.groups and step != 1:
        made["groups"] = groups
    if step > 0:
        made["mask"] = torch.ones(SIZE, dtype=torch.bool)
        made["mask"][[1, 2, 3, 14]] = False
    if step == 3:  # nothing on the first rank
        made["mask"][:12] = False
    return made


def train(kind: Kind, tiled: bool, rank: int | None) -> dict[str, Tensor]:
    """Values, the parameters' gradients (averaged over the ranks) and the state after four steps."""
    torch.manual_seed(0)
    tiles.TILE = 1  # in processes of their own, or put back by the fixture
    towers = nn.ModuleList([nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)]).double()
    loss = kind.make(tiled).double()
    log_tau = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    learnt = [*towers.parameters(), *loss.parameters(), *([log_tau] if kind.tau else [])]
    own = slice(None) if rank is None else slice(12 * rank, 12 * rank + 12)
    found: dict[str, Tensor] = {}
    for step in range(4):
        loss.set_epoch(step)
        given = {name: value[own] for name, value in batch(kind, step).items()}
        features = [tower(given.pop(name)) for tower, name in zip(towers, ("one", "two"), strict=True)]
        if kind.tau:
            given["tau"] = log_tau.exp()
        value = loss(*(each / each.norm(dim=1, keepdim=True) for each in features), **given)
        found[f"value {step}"] = value.detach()
        for number, gradient in enumerate(torch.autograd.grad(value, learnt)):
            mean = distributed.mean(gradient)
            found[f"gradient {step} {number}"] = mean
            with torch.no_grad():
                learnt[number] -= 0.1 * mean
    found |= {name: value for name, value in loss.state_dict().items() if not name.endswith("count")}
    return found


@pytest.fixture(autouse=True)
def same_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", tiles.TILE)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])
def test_two_ranks_equal_one(kind, tiled, two_ranks) -> None:
    if tiled and not kind.tiled:
        pytest.skip("has no tiled path")
    expected = train(kind, tiled, None)
    for found in two_ranks(lambda rank: train(kind, tiled, rank)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_a_rank_alone_may_evaluate(two_ranks) -> None:
    def evaluate(rank: int) -> list[Tensor]:
        values = []
        for kind in KINDS if rank == 0 else []:
            loss = kind.make(False).double()
            given = batch(kind, 2)
            features = [given.pop(name)[:, :3] for name in ("one", "two")]
            with torch.no_grad():
                values.append(loss(*features, **given))
            values.append(loss.eval()(*features, **given))
        return values

    values = two_ranks(evaluate)[0]
    assert len(values) == 2 * len(KINDS)
    for quiet, evaluated in zip(values[::2], values[1::2], strict=True):
        assert torch.equal(quiet, evaluated)


def test_the_collectives_of_pairs(two_ranks) -> None:
    # The objective is the mean over the ranks of w_r . f(x): the gradient of each rank's own slice is summed over them.
    def talk(rank: int) -> dict[str, Tensor]:
        x = torch.tensor([1.0 + rank, 2.0], dtype=torch.float64, requires_grad=True)
        everyone = distributed.gather_summed(x)
        (everyone * torch.arange(4).double() * (rank + 1)).sum().backward()
        parts = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64) * (rank + 1)
        parts.requires_grad_()
        mine = distributed.log_sum_exp_slice(parts)
        (mine * torch.tensor([1.0, 5.0]).double() * (rank + 1)).sum().backward()
        return {"everyone": everyone.detach(), "grad": x.grad, "mine": mine.detach(), "parts": parts.grad}

    both = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64) * torch.tensor([[1.0], [2.0]])
    total, share = torch.logsumexp(both, 0), torch.softmax(both, 0)
    weights = torch.tensor([1.0, 5.0, 2.0, 10.0], dtype=torch.float64)
    for rank, found in enumerate(two_ranks(talk)):
        assert found["everyone"].tolist() == [1.0, 2.0, 2.0, 2.0]
        assert found["grad"].tolist() == [3.0 * (2 * rank), 3.0 * (2 * rank + 1)]
        torch.testing.assert_close(found["mine"], total[2 * rank : 2 * rank + 2])
        torch.testing.assert_close(found["parts"], weights * share[rank])
