"""How to construct each public risk and loss, and a batch for it; what the contract, resume and two-rank tests run over.

A new class in `guidestar.risks.__all__` or `guidestar.losses.__all__` needs a `Case` here or in a file `cases_*.py`
beside it (a list `CASES`): `test_contracts.py` fails until it has one.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from guidestar import KL, ChiSquare, CVaR, DRRho, GroupMean, KLBall, Mean, TopK, losses, risks, schedules
from guidestar.networks import TempNet

ROWS = 8  # rows of memory where a case has many


@dataclass(frozen=True)
class Batch:
    """The differentiable input, and what goes with it; every tensor has one entry a sample (or row) first."""

    values: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    def take(self, entries: Tensor | slice) -> Batch:
        """The batch of these entries."""
        return Batch(self.values[entries], {name: tensor[entries] for name, tensor in self.extra.items()})

    def with_values(self, values: Tensor) -> Batch:
        """The same batch with other values."""
        return Batch(values, self.extra)

    def with_extra(self, **extra: Tensor) -> Batch:
        """The same batch with these tensors as well."""
        return Batch(self.values, {**self.extra, **extra})


@dataclass(frozen=True)
class Case:
    """One configuration of one public class.

    Attributes:
        cls: the class that it is a case of.
        label: what distinguishes it from the class's other cases.
        make: gives a new object.
        batch: gives the batch of a seed.
        row_bytes: bytes of per-row memory that the object may hold.
        mask_dims: how many dimensions of the values a mask has.
        pairs: the values are the features of two towers (or views) side by side; each pair is an anchor of its own.
        learns: the object has parameters.
        epochs: how many of its trackers depend on the epoch.
    """

    cls: type
    label: str
    make: Callable[[], nn.Module]
    batch: Callable[[int], Batch]
    row_bytes: int
    mask_dims: int = 1
    pairs: bool = False
    learns: bool = False
    epochs: int = 0

    def __str__(self) -> str:
        return f"{self.cls.__name__}-{self.label}"

    @property
    def many_rows(self) -> bool:
        """Whether the entries are rows of memory (else they are the losses of a single row)."""
        return self.mask_dims == 2

    def call(self, module: nn.Module, batch: Batch) -> Tensor:
        """The module's output for the batch."""
        if self.pairs:
            return module(*batch.values.chunk(2, dim=1), **batch.extra)
        return module(batch.values, **batch.extra)

    def mask(self, batch: Batch, value: bool = True) -> Tensor:
        """A mask for the batch that is `value` everywhere."""
        return torch.full(batch.values.shape[: self.mask_dims], value)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_row(seed: int) -> Batch:
    """Losses of one set."""
    return Batch(torch.randn(6, generator=generator(seed)) + 0.3)


def rows(seed: int) -> Batch:
    """Losses of four of the `ROWS` sets."""
    rng = generator(seed)
    return Batch(torch.randn(4, 5, generator=rng) + 0.3, {"index": torch.randperm(ROWS, generator=rng)[:4]})


def plain_rows(seed: int) -> Batch:
    """Losses of four sets that nothing is remembered of."""
    return Batch(rows(seed).values)


def logits(seed: int) -> Batch:
    """Logits, labels and reference losses."""
    rng = generator(seed)
    return Batch(
        torch.randn(6, 3, generator=rng),
        {"labels": torch.randint(3, (6,), generator=rng), "reference_losses": torch.rand(6, generator=rng)},
    )


def two_logits(seed: int) -> Batch:
    """Logits of a student and of a teacher."""
    rng = generator(seed)
    return Batch(torch.randn(6, 3, generator=rng), {"teacher_logits": torch.randn(6, 3, generator=rng)})


def referenced(seed: int) -> Batch:
    """Losses and reference losses of one set."""
    rng = generator(seed)
    return Batch(torch.randn(6, generator=rng), {"reference_losses": torch.rand(6, generator=rng)})


def grouped(seed: int) -> Batch:
    """The same, and the group of each loss."""
    rng = generator(seed + 1)
    return referenced(seed).with_extra(index=torch.randint(3, (6,), generator=rng))


def pairs(seed: int) -> Batch:
    """Features of six pairs, side by side, and their rows."""
    rng = generator(seed)
    values = 0.6 * torch.randn(6, 6, generator=rng)
    return Batch(values, {"index": torch.randperm(ROWS, generator=rng)[:6]})


def grouped_pairs(seed: int) -> Batch:
    """The same, and groups."""
    return pairs(seed).with_extra(groups=torch.tensor([0, 1, 2, 0, 1, 3]))


def steered(names: tuple[str, str], batch: Callable[[int], Batch] = pairs, width: int = 3) -> Callable[[int], Batch]:
    """The same, and features of a reference."""

    def make(seed: int) -> Batch:
        reference = 0.6 * torch.randn(2, 6, width, generator=generator(seed + 100))
        return batch(seed).with_extra(**dict(zip(names, reference, strict=True)))

    return make


towers = steered(("reference_image", "reference_text"))
views = steered(("reference_first", "reference_second"))


def temperature_networks() -> losses.TempNetLoss:
    """A TempNetLoss whose temperatures differ from pair to pair, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [TempNet(3, hidden=4, tau_min=0.1, tau_max=0.6, tau=0.3) for _ in range(2)]
        for net in nets:
            nn.init.normal_(net.last.weight)
    return losses.TempNetLoss(nets[0], nets[1], 0.25, num_rows=ROWS, gamma=0.5)


def linear_maps() -> losses.FeatureDistillationLoss:
    """A FeatureDistillationLoss between widths 3 and 4, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return losses.FeatureDistillationLoss(3, 4)


RISKS = [
    Case(Mean, "one row", lambda: Mean(), one_row, 0),
    Case(Mean, "rows", lambda: Mean(), plain_rows, 0, 2),
    Case(KL, "mini-batch", lambda: KL(0.5), one_row, 0),
    Case(KL, "tracked", lambda: KL(0.5, gamma=0.5), one_row, 4),
    Case(KL, "cosine", lambda: KL(0.5, gamma=schedules.Cosine(0.25, 3)), one_row, 4, epochs=1),
    Case(KL, "rows", lambda: KL(0.5, ROWS, gamma=0.5), rows, 4 * ROWS, 2),
    Case(KL, "scent", lambda: KL(0.5, ROWS, gamma=schedules.Scent(2.0)), rows, 4 * ROWS, 2),
    Case(KL, "rows, mini-batch", lambda: KL(0.5), plain_rows, 0, 2),
    Case(KLBall, "mini-batch", lambda: KLBall(0.25, tau=0.5), one_row, 4),
    Case(KLBall, "momentum", lambda: KLBall(0.25, tau=0.5, lr=0.125, momentum=0.5, gamma=0.5), one_row, 12),
    Case(KLBall, "one tau", lambda: KLBall(0.25, num_rows=ROWS, gamma=0.5), rows, 4 * ROWS + 4, 2),
    Case(
        KLBall,
        "tau a row",
        lambda: KLBall(0.25, per_row=True, num_rows=ROWS, gamma=0.5, momentum=0.5, lr=0.125),
        rows,
        12 * ROWS,
        2,
    ),
    Case(CVaR, "one row", lambda: CVaR(0.25, lr=0.125), one_row, 4),
    Case(CVaR, "smooth", lambda: CVaR(0.25, lr=0.125, smoothing=0.5), one_row, 4),
    Case(CVaR, "rows", lambda: CVaR(0.5, num_rows=ROWS, lr=0.125), rows, 4 * ROWS, 2),
    Case(CVaR, "rows, one nu", lambda: CVaR(0.5, lr=0.125), plain_rows, 4, 2),
    Case(TopK, "one row", lambda: TopK(0.4), one_row, 0),
    Case(TopK, "rows", lambda: TopK(0.4), plain_rows, 0, 2),
    Case(ChiSquare, "ball", lambda: ChiSquare(0.3), one_row, 0),
    Case(ChiSquare, "ball, rows", lambda: ChiSquare(0.3), plain_rows, 0, 2),
    Case(ChiSquare, "penalty", lambda: ChiSquare(0.3, ball=False), one_row, 0),
    Case(ChiSquare, "penalty, rows", lambda: ChiSquare(0.3, ball=False), plain_rows, 0, 2),
    Case(ChiSquare, "tracked ball", lambda: ChiSquare(0.3, lr=0.125, gamma=0.5), one_row, 8),
    Case(ChiSquare, "tracked penalty", lambda: ChiSquare(0.3, ball=False, lr=0.125), one_row, 4),
    Case(ChiSquare, "tracked rows", lambda: ChiSquare(0.3, lr=0.125, gamma=0.5, num_rows=ROWS), rows, 8 * ROWS, 2),
]

LOSSES = [
    Case(losses.DRRhoCrossEntropyLoss, "KL", lambda: losses.DRRhoCrossEntropyLoss(KL(0.5, gamma=0.5)), logits, 4),
    Case(losses.DRRhoCrossEntropyLoss, "CVaR", lambda: losses.DRRhoCrossEntropyLoss(CVaR(0.5)), logits, 4),
    Case(losses.DRRhoCrossEntropyLoss, "ball", lambda: losses.DRRhoCrossEntropyLoss(ChiSquare(0.3)), logits, 0),
    Case(losses.DistillationLoss, "", lambda: losses.DistillationLoss(2.0), two_logits, 0),
]

BALL = {"tau": 0.5, "lr": 0.125, "num_rows": ROWS, "gamma": 0.5}
wide_towers = steered(("reference_image", "reference_text"), width=4)
grouped_towers = steered(("reference_image", "reference_text"), grouped_pairs)


def pair_case(cls: type, label: str, make: Callable[[], nn.Module], batch, row_bytes: int = 0, **settings) -> Case:
    """A case of two towers or two views."""
    return Case(cls, label, make, batch, row_bytes, pairs=True, **settings)


CLIP, ONE = losses.DRRhoCLIPLoss, losses.DRRhoContrastiveLoss
PAIRS = [
    pair_case(losses.CLIPLoss, "", lambda: losses.CLIPLoss(0.5), pairs),
    pair_case(losses.CLIPLoss, "several", lambda: losses.CLIPLoss(0.5, several_positives=True), grouped_pairs),
    pair_case(losses.InfoNCELoss, "groups", lambda: losses.InfoNCELoss(0.5), grouped_pairs),
    pair_case(losses.SigLIPLoss, "", lambda: losses.SigLIPLoss(0.5, -1.0), grouped_pairs),
    pair_case(losses.CLIPDistillationLoss, "", lambda: losses.CLIPDistillationLoss(0.5, tau=0.5), wide_towers),
    pair_case(losses.FeatureDistillationLoss, "", lambda: losses.FeatureDistillationLoss(), towers),
    pair_case(losses.FeatureDistillationLoss, "maps", linear_maps, wide_towers, learns=True),
    pair_case(CLIP, "KL", lambda: CLIP(KL(0.5)), grouped_towers),
    pair_case(CLIP, "memory", lambda: CLIP(KL(0.5, ROWS, gamma=0.5), negatives_only=True), towers, 8 * ROWS),
    pair_case(CLIP, "joint", lambda: CLIP(KLBall(0.25, **BALL), joint_temperature=True), towers, 8 * ROWS + 4),
    pair_case(CLIP, "rows", lambda: CLIP(KLBall(0.25, per_row=True, **BALL), eps=0.1), wide_towers, 16 * ROWS),
    pair_case(
        CLIP, "rows, tiled", lambda: CLIP(KLBall(0.25, per_row=True, **BALL), tiled=True), grouped_towers, 16 * ROWS
    ),
    pair_case(CLIP, "CVaR", lambda: CLIP(CVaR(0.5, lr=0.125, num_rows=ROWS)), grouped_towers, 8 * ROWS),
    pair_case(ONE, "KL", lambda: ONE(KL(0.5, ROWS, gamma=0.5)), views, 4 * ROWS),
    pair_case(
        ONE,
        "several, tiled",
        lambda: ONE(KLBall(0.25, **BALL), several_positives=True, tiled=True),
        views,
        4 * ROWS + 4,
    ),
    pair_case(losses.SogCLRLoss, "", lambda: losses.SogCLRLoss(ROWS, 0.5, 0.5), grouped_pairs, 4 * ROWS),
    pair_case(
        losses.SogCLRLoss, "two towers", lambda: losses.SogCLRLoss(ROWS, 0.5, 0.5, two_towers=True), pairs, 8 * ROWS
    ),
    pair_case(losses.ISogCLRLoss, "", lambda: losses.ISogCLRLoss(ROWS, 0.25, tau=0.5, momentum=0.5), pairs, 12 * ROWS),
    pair_case(
        losses.FastCLIPLoss, "v0", lambda: losses.FastCLIPLoss(ROWS, 4, version=0), pairs, 8 * ROWS + 4, epochs=2
    ),
    pair_case(losses.FastCLIPLoss, "v3", lambda: losses.FastCLIPLoss(ROWS, 4, tau=0.5), pairs, 8 * ROWS + 4, epochs=2),
    pair_case(losses.TempNetLoss, "", temperature_networks, towers, 8 * ROWS + 8, learns=True),
]

STEERING = [
    Case(DRRho, "KL", lambda: DRRho(KL(0.5, gamma=0.5)), referenced, 4),
    Case(DRRho, "groups, KLBall", lambda: DRRho(KLBall(0.25), groups=GroupMean(3, gamma=0.5)), grouped, 16),
    Case(DRRho, "groups, CVaR", lambda: DRRho(CVaR(0.5), groups=GroupMean(3, gamma=0.5)), grouped, 16),
    Case(DRRho, "groups, TopK", lambda: DRRho(TopK(0.5), groups=GroupMean(3, gamma=0.5)), grouped, 12),
]


def _more() -> list[Case]:
    """The cases of the files beside this one, which import what they need from `guidestar_contract_cases`."""
    found = []
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += module.CASES
    return found


CASES = RISKS + LOSSES + PAIRS + STEERING + _more()


def missing() -> list[str]:
    """Public risks and losses that have no case."""
    public = [getattr(module, name) for module in (risks, losses) for name in module.__all__]
    covered = {case.cls for case in CASES}
    classes = [cls for cls in public if inspect.isclass(cls) and not inspect.isabstract(cls)]
    return [cls.__name__ for cls in classes if cls not in covered]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_state(left: dict[str, Tensor], right: dict[str, Tensor], *, but: str = "\0") -> bool:
    """Whether two states are bit by bit equal, apart from names that end in `but`."""
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype
        for name in left
        if not name.endswith(but)
    )


def step(case: Case, module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Output and gradient (of the output's sum) of one training step."""
    values = batch.values.detach().clone().requires_grad_()
    output = case.call(module, batch.with_values(values))
    (gradient,) = torch.autograd.grad(output.sum(), values)
    return output.detach(), gradient
