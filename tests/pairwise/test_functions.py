"""The functions with their own gradients, against finite differences and against the plain formulas."""

from __future__ import annotations

import pytest
import torch

from guidestar import distributed
from guidestar.pairwise import tiles
from guidestar.pairwise.anchors import anchor_inner, anchor_mean, check_tau, inverse_temperature, scalar
from guidestar.pairwise.mask import HIDDEN, PairMask
from guidestar.pairwise.sigmoid import sigmoid_sums
from guidestar.pairwise.soft_labels import soft_label_divergence, tiled_soft_label_divergence
from guidestar.pairwise.statistics import Features, Side, pair_statistics

R, C, D = 21, 18, 3
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])
MASKS = {
    "none": PairMask(R, C, None),
    "own": PairMask(R, C, 0, hide_own=True),
    "shifted": PairMask(R, C, 2, hide_own=True),
    "groups": PairMask(R, C, 0, row_groups=torch.arange(R) % 6, column_groups=torch.arange(C) % 6),
    "valid": PairMask(R, C, None, row_valid=torch.arange(R) != 4, column_valid=torch.arange(C) > 2),
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 1)


def leaf(*shape: int, positive: bool = False) -> torch.Tensor:
    values = torch.randn(shape, dtype=torch.float64)
    return (values.abs() + 0.5 if positive else values).requires_grad_()


def counts(mask: PairMask) -> torch.Tensor:
    """Entry by entry, which pairs count, by the words of PairMask."""
    table = torch.zeros(mask.rows, mask.columns, dtype=torch.bool)
    for i in range(mask.rows):
        for j in range(mask.columns):
            own = mask.own is not None and j == mask.own + i
            same = mask.row_groups is not None and bool(mask.row_groups[i] == mask.column_groups[j]) and not own
            valid = mask.row_valid is None or bool(mask.row_valid[i])
            valid = valid and (mask.column_valid is None or bool(mask.column_valid[j]))
            table[i, j] = valid and not same and not (own and mask.hide_own)
    return table


@masks
def test_a_mask_is_what_its_words_say(mask) -> None:
    table = counts(mask)
    for start, stop in ((0, R), (0, 5), (16, R)):
        tile = mask.tile(start, stop)
        assert torch.equal(torch.ones(stop - start, C, dtype=torch.bool) if tile is None else tile, table[start:stop])
    assert mask.trivial == bool(table.all())


@both_paths
@masks
@pytest.mark.parametrize("steered", [False, True], ids=["", "reference"])
def test_statistics_are_the_plain_formulas(tiled, mask, steered) -> None:
    reference = (torch.randn(R, 4).double(), torch.randn(C, 4).double()) if steered else (None, None)
    made = Features(leaf(R, D), leaf(C, D), *reference)
    a, b = leaf(R, positive=True), leaf(C, positive=True)
    rows, columns = pair_statistics(made, a, b, mask, tiled=tiled)
    table = counts(mask)
    matrix = made.x @ made.y.T - (reference[0] @ reference[1].T if steered else 0.0)
    for side, scaled, dim in ((rows, matrix * a.unsqueeze(1), 1), (columns, matrix * b, 0)):
        some = table.any(dim)
        shown = scaled.masked_fill(~table, -float("inf"))
        expected = torch.logsumexp(shown, dim)
        torch.testing.assert_close(side.log_sum[some], expected[some], rtol=1e-12, atol=1e-12)
        assert (side.log_sum[~some] < HIDDEN / 2).all()
        mean = (torch.softmax(shown, dim) * scaled).sum(dim)
        torch.testing.assert_close(side.expected[some], mean[some].detach(), rtol=1e-12, atol=1e-12)
        assert torch.equal(torch.as_tensor(side.count).expand(len(some)).double(), table.sum(dim).double())
        inputs = [made.x, made.y, a if dim == 1 else b]
        weight = torch.randn(len(expected), dtype=torch.float64)[some]
        for left, right in zip(
            torch.autograd.grad((side.log_sum[some] * weight).sum(), inputs, retain_graph=True),
            torch.autograd.grad((expected[some] * weight).sum(), inputs, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


@both_paths
@masks
def test_gradients_of_the_statistics(tiled, mask) -> None:
    some = counts(mask)

    def sums(x, y, a, b):
        rows, columns = pair_statistics(Features(x, y), a, b, mask, tiled=tiled)
        return rows.log_sum[some.any(1)], columns.log_sum[some.any(0)]

    assert torch.autograd.gradcheck(sums, (leaf(R, D), leaf(C, D), leaf(R, positive=True), leaf(C, positive=True)))


@both_paths
def test_gradients_with_one_scale_for_both_directions(tiled) -> None:
    def sums(x, y, a):
        reference = torch.linspace(-1, 1, R * 2, dtype=torch.float64).reshape(R, 2)
        rows, columns = pair_statistics(Features(x, y, reference, reference[:C]), a, a, PairMask(R, C), tiled=tiled)
        return rows.log_sum, columns.log_sum

    assert torch.autograd.gradcheck(sums, (leaf(R, D), leaf(C, D), leaf(positive=True)))


@both_paths
@masks
@pytest.mark.parametrize("matching", [False, True])
def test_gradients_of_the_sigmoid_sums(tiled, mask, matching) -> None:
    def sums(x, y, a, b):
        return sigmoid_sums(Features(x, y), a, b, mask, matching=matching, tiled=tiled)

    assert torch.autograd.gradcheck(sums, (leaf(R, D), leaf(C, D), leaf(positive=True), leaf()))


@pytest.mark.parametrize("divergence", [soft_label_divergence, tiled_soft_label_divergence])
@masks
def test_gradients_of_the_divergence(divergence, mask) -> None:
    teacher = torch.randn(R, 2, dtype=torch.float64), torch.randn(C, 2, dtype=torch.float64)

    def sums(x, y, a):
        return divergence(x, y, *teacher, a, 1.5, mask)

    assert torch.autograd.gradcheck(sums, (leaf(R, D), leaf(C, D), leaf(positive=True)))


@both_paths
def test_only_one_of_the_features_learns(tiled) -> None:
    x, y = leaf(R, D), leaf(C, D)
    whole = pair_statistics(Features(x, y), torch.tensor(2.0).double(), None, PairMask(R, C), tiled=tiled)[0]
    expected = torch.autograd.grad(whole.log_sum.sum(), [x, y])
    for number, (one, other) in enumerate(((x, y.detach()), (x.detach(), y))):
        side, none = pair_statistics(
            Features(one, other), torch.tensor(2.0).double(), None, PairMask(R, C), tiled=tiled
        )
        assert none is None
        (gradient,) = torch.autograd.grad(side.log_sum.sum(), one if number == 0 else other)
        torch.testing.assert_close(gradient, expected[number], rtol=1e-12, atol=1e-12)


@both_paths
def test_what_counts_after_a_tile_in_which_nothing_does(tiled) -> None:
    # float32: the first tile's 16 rows are all hidden; the columns' statistics must not keep a trace of it.
    x, y = torch.randn(40, 4).requires_grad_(), torch.randn(30, 4)
    mask = PairMask(40, 30, None, row_valid=torch.arange(40) >= 20)
    a = torch.full((40,), 3.0, requires_grad=True)
    b = torch.full((30,), 3.0, requires_grad=True)
    rows, columns = pair_statistics(Features(x, y), a, b, mask, tiled=tiled)
    expected = torch.logsumexp(x[20:] @ y.T * 3.0, 0)
    torch.testing.assert_close(columns.log_sum, expected)
    weights = torch.softmax(x[20:] @ y.T * 3.0, 0)
    torch.testing.assert_close(columns.expected, (weights * (x[20:] @ y.T * 3.0)).sum(0).detach())
    weight = torch.where(torch.arange(40) >= 20, 1.0, 0.0)
    gradients = torch.autograd.grad((rows.log_sum * weight).sum() + columns.log_sum.sum(), [x, a, b])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert not gradients[0][:20].any()


def test_log_sum_exp_slice_and_gather_of_a_single_process() -> None:
    values = leaf(4)
    assert distributed.log_sum_exp_slice(values) is values
    assert distributed.gather_summed(values) is values


def test_the_mean_over_the_anchors_that_count() -> None:
    values = leaf(4)
    active = torch.tensor([True, False, True, False])
    torch.testing.assert_close(anchor_mean(values, active, spread=False), (values[0] + values[2]) / 2)
    torch.testing.assert_close(anchor_mean(values, None, spread=False), values.mean())
    assert anchor_mean(values, ~active & active, spread=False) == 0
    nothing = anchor_mean(values[:0], None, spread=False)
    assert nothing == 0
    assert nothing.requires_grad


def test_the_inner_function_of_an_anchor() -> None:
    logits = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    scale, positive = torch.tensor(4.0, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    scaled = scale * logits
    side = Side(torch.logsumexp(scaled, 0)[None], (torch.softmax(scaled, 0) * scaled).sum()[None], 3.0)
    for shifted in (False, True):
        exponents = scale * (logits - positive) if shifted else scaled
        inner, expected = anchor_inner(side, positive, scale, shifted=shifted, norm=3.0)
        torch.testing.assert_close(inner[0], exponents.exp().mean().log())
        torch.testing.assert_close(expected[0], (torch.softmax(exponents, 0) * exponents).sum())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: inverse_temperature(torch.ones(2), 0.1, torch.ones(1)), ValueError, "`tau` must be a scalar tensor"),
        (
            lambda: inverse_temperature(torch.tensor(0.0), 0.1, torch.ones(1)),
            ValueError,
            "`tau` must be positive. Found 0",
        ),
        (lambda: scalar("bias", torch.tensor(1)), TypeError, "floating-point tensors. Found torch.int64"),
        (lambda: check_tau("image_tau", 0.5), TypeError, "floating-point tensors. Found float"),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
