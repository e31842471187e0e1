"""The pairwise AUC loss: written out, for one and many labels, small and large batches."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from guidestar import surrogates
from guidestar.losses import PairwiseAUCLoss
from guidestar.ranking import rows

SURROGATES = {
    "squared hinge": surrogates.squared_hinge,
    "squared": surrogates.squared,
    "hinge": functools.partial(surrogates.hinge, margin=0.5),
    "barrier": surrogates.barrier_hinge,
    "logistic": surrogates.logistic,
    "sigmoid": functools.partial(surrogates.sigmoid, scale=2.0),
    "exponential": surrogates.exponential,
}
every = pytest.mark.parametrize("name", SURROGATES)


def written_out(scores, labels, surrogate) -> torch.Tensor:
    """Section 6.4.1, method 1, for one label."""
    positives = [s for s, y in zip(scores, labels, strict=True) if y == 1]
    negatives = [s for s, y in zip(scores, labels, strict=True) if y == 0]
    return sum(sum(surrogate(sj - si) for sj in negatives) / len(negatives) for si in positives) / len(positives)


def drawn(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 2, shape)
    labels[0], labels[1] = 1, 0
    return scores, labels


def compare(found, expected, scores) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(found, scores), torch.autograd.grad(expected, scores), rtol=1e-10, atol=1e-10
    )


@every
def test_one_label(name) -> None:
    scores, labels = drawn(9)
    compare(PairwiseAUCLoss(SURROGATES[name])(scores, labels), written_out(scores, labels, SURROGATES[name]), scores)


@every
def test_many_labels_are_averaged(name) -> None:
    scores, labels = drawn(9, 4)
    labels = labels.double()
    labels[2, 1] = torch.nan
    labels[:, 3] = 1  # has no negative, and does not count
    each = [written_out(scores[:, n], labels[:, n], SURROGATES[name]) for n in range(3)]
    loss = PairwiseAUCLoss(SURROGATES[name])
    compare(loss(scores, labels), sum(each) / 3, scores)
    assert loss.metrics() == {"empty": 1.0}


@every
@pytest.mark.parametrize("labels_too", [False, True])
def test_large_batches_take_other_paths_to_the_same(name, labels_too, monkeypatch) -> None:
    scores, labels = drawn(150, 3) if labels_too else drawn(150)
    loss = PairwiseAUCLoss(SURROGATES[name])
    expected = loss(scores, labels)
    monkeypatch.setattr(rows, "CLOSED_FROM", (0, 0))
    monkeypatch.setattr(rows, "TILES_FROM", (0, 0))
    compare(loss(scores, labels), expected, scores)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor):
                self.size = max(self.size, each.numel())
        return made


@pytest.mark.parametrize(("name", "limit"), [("squared hinge", 8001), ("squared", 8001), ("logistic", 1 << 18)])
def test_no_matrix_of_all_pairs(name, limit) -> None:
    scores, labels = torch.randn(8000, requires_grad=True), torch.arange(8000) % 2
    with Largest() as largest:
        PairwiseAUCLoss(SURROGATES[name])(scores, labels).backward()
    assert 4000 <= largest.size <= limit


def test_weak_pairs_of_many_are_seen_exactly() -> None:
    # One negative in 50,000 is above its margin, by little: a sum over all in float32 would lose it.
    scores = torch.cat([torch.tensor([0.0]), torch.full((50_000,), -300.0), torch.tensor([-0.999])])
    labels = torch.zeros(50_002)
    labels[0] = 1
    value = PairwiseAUCLoss()(torch.cat([scores, scores[:1]]), torch.cat([labels, labels[:1]]))
    torch.testing.assert_close(value.double(), torch.tensor(0.001**2 / 50_001).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_a_zero_in_the_graph(label) -> None:
    # Peers stop the training here, or return NaN.
    scores, loss = torch.randn(5, requires_grad=True), PairwiseAUCLoss()
    value = loss(scores, torch.full((5,), label))
    value.backward()
    assert value == 0
    assert not scores.grad.any()
    assert loss.metrics() == {"empty": 1.0}


def test_a_score_of_zero_counts() -> None:
    scores = torch.zeros(4, requires_grad=True)
    value = PairwiseAUCLoss()(scores, torch.tensor([1, 1, 0, 0]))
    value.backward()
    assert value == 1
    assert scores.grad.tolist() == [-1, -1, 1, 1]


def test_evaluation_counts_nothing() -> None:
    loss = PairwiseAUCLoss().eval()
    loss(torch.zeros(3), torch.zeros(3))
    with torch.no_grad():
        loss.train()(torch.zeros(3), torch.zeros(3))
    assert loss.metrics() == {"empty": 0.0}


def test_golden_numbers() -> None:
    scores, labels = torch.tensor([1.5, -0.5, 0.25, 1.0, -2.0]), torch.tensor([1, 0, 1, 0, 0])
    assert PairwiseAUCLoss()(scores, labels).item() == pytest.approx(0.5625)
    assert PairwiseAUCLoss(surrogates.hinge)(scores, labels).item() == pytest.approx(2.5 / 6)
    assert PairwiseAUCLoss(surrogates.logistic)(scores, labels).item() == pytest.approx(0.375784, abs=1e-6)


def test_a_name_is_no_surrogate() -> None:
    with pytest.raises(TypeError, match=r"`surrogate` must be a function .* Found str"):
        PairwiseAUCLoss("squared_hinge")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("name", ["squared hinge", "squared", "hinge"])
def test_compiled_closed_forms(name, monkeypatch) -> None:
    monkeypatch.setattr(rows, "CLOSED_FROM", (0, 0))
    torch._dynamo.reset()
    loss = PairwiseAUCLoss(SURROGATES[name])
    scores, labels = drawn(12, 3)
    compare(torch.compile(loss, backend="aot_eager", fullgraph=True)(scores, labels), loss(scores, labels), scores)
