"""Means over the pairs of an anchor: by loops over the pairs, and every path equal to every other."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar import surrogates
from guidestar.ranking import closed, rows, slopes, tiles

SURROGATES = {
    "squared": surrogates.squared,
    "squared, margin": functools.partial(surrogates.squared, margin=-0.5),
    "hinge": surrogates.hinge,
    "hinge, margin": functools.partial(surrogates.hinge, margin=0.5),
    "squared hinge": surrogates.squared_hinge,
    "squared hinge, margin": functools.partial(surrogates.squared_hinge, margin=2),
    "logistic": surrogates.logistic,
    "own": lambda t: torch.tanh(t) + 0.1 * t,
}
PATHS = ("matrix", "closed", "slopes", "slopes in tiles", "tiles")
every = pytest.mark.parametrize("name", SURROGATES)


def use(monkeypatch, path: str) -> None:
    """Take this path whatever the number of pairs."""
    never, always = (1 << 60,) * 2, (0, 0)
    monkeypatch.setattr(rows, "CLOSED_FROM", always if path == "closed" else never)
    monkeypatch.setattr(rows, "TILES_FROM", always if path == "tiles" else never)
    for name in ("SLOPES_FROM", "EXCESS_SLOPES_FROM"):
        monkeypatch.setattr(rows, name, always if path.startswith("slopes") else never)
    if path == "slopes in tiles":
        monkeypatch.setattr(slopes, "KEEP", (0, 0))
        monkeypatch.setattr(slopes, "TILE", (5, 5))
    monkeypatch.setattr(tiles, "TILE", (5, 5))  # less than a row: one anchor at a time


def inputs(kind: str, lead: tuple[int, ...], p: int = 4, n: int = 6, dtype=torch.float64):
    """Anchors, others and thresholds: drawn, or from a coarse grid on which there are ties and pairs at the kink."""
    made = [2 * torch.randn(*lead, size, dtype=torch.float64) for size in (p, n, p)]
    if kind == "ties":
        made = [(2 * x).round() / 2 for x in made]
    return [x.to(dtype).requires_grad_() for x in made]


def some_weights(kind: str, lead: tuple[int, ...], n: int = 6):
    if kind == "mask":
        return torch.rand(*lead, n) > 0.4
    return torch.rand(*lead, n, dtype=torch.float64) if kind == "weights" else None


def by_loops(anchors, others, weights, function) -> torch.Tensor:
    """Sum over j of w_j function(i, s_j - s_i), for single rows."""
    weights = torch.ones_like(others) if weights is None else weights.to(others.dtype)
    return torch.stack(
        [sum(weights[j] * function(i, others[j] - anchors[i]) for j in range(len(others))) for i in range(len(anchors))]
    )


def compare(found, expected, leaves, *, tolerance: float = 1e-10) -> None:
    """Values and gradients (of some function of them) agree."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    given = [
        torch.autograd.grad(x.sin().sum(), leaves, allow_unused=True, retain_graph=True) for x in (found, expected)
    ]
    for left, right in zip(*given, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


@every
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weighting", ["none", "mask", "weights"])
def test_each_path_is_the_loop(name, path, weighting, monkeypatch) -> None:
    use(monkeypatch, path)
    f, (a, b, nu), weights = SURROGATES[name], inputs("drawn", ()), some_weights(weighting, ())
    total = len(b) if weights is None else weights.sum()
    compare(rows.row_sums(a, b, f, weights=weights), by_loops(a, b, weights, lambda i, t: f(t)), (a, b))
    compare(rows.row_means(a, b, f, weights=weights), by_loops(a, b, weights, lambda i, t: f(t)) / total, (a, b))
    inner = by_loops(a, b, weights, lambda i, t: (f(t) / 0.7).exp()) / total
    compare(rows.row_log_mean_exp(a, b, f, 0.7, weights=weights), inner.log(), (a, b))
    found = rows.row_hinge_means(a, b, f, nu, weights=weights)
    compare(found.mean, by_loops(a, b, weights, lambda i, t: (f(t) - nu[i]).relu()) / total, (a, b, nu))
    share = by_loops(a, b, weights, lambda i, t: (f(t) > nu[i]).to(t.dtype)) / total
    torch.testing.assert_close(found.slope, -share, rtol=1e-12, atol=1e-12)
    assert not found.slope.requires_grad


@every
@pytest.mark.parametrize("path", ["closed", "tiles"])
@pytest.mark.parametrize("kind", ["drawn", "ties"])
@pytest.mark.parametrize("weighting", ["none", "mask"])
def test_each_path_is_the_matrix_for_many_labels(name, path, kind, weighting, monkeypatch) -> None:
    lead = (2, 3)
    f, (a, b, nu), weights = SURROGATES[name], inputs(kind, lead), some_weights(weighting, lead)

    def all_of_them() -> list[torch.Tensor]:
        hinged = rows.row_hinge_means(a, b, f, nu, weights=weights)
        mean_exp = rows.row_log_mean_exp(a, b, f, nu.detach().exp(), weights=weights)
        return [rows.row_sums(a, b, f, weights=weights), mean_exp, hinged.mean, hinged.mean + hinged.slope]

    use(monkeypatch, "matrix")
    expected = all_of_them()
    use(monkeypatch, path)
    for left, right in zip(all_of_them(), expected, strict=True):
        compare(left, right, (a, b, nu))


scores = st.lists(st.sampled_from([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1e3]), min_size=1, max_size=7)


@settings(deadline=None, max_examples=60)
@given(scores, scores, st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.sampled_from([1, 2]), st.floats(-1.0, 3.0))
def test_closed_form_on_any_scores(anchors, others, margin, power, nu) -> None:
    a = torch.tensor(anchors, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(others, dtype=torch.float64, requires_grad=True)
    threshold = torch.full_like(a, round(2 * nu) / 2)
    pairs = (margin + b - a.unsqueeze(1)).relu() ** power
    form = closed.Polynomial(power, margin, cut=True)
    compare(closed.hinge_sums(a, b, None, form)[0], pairs.sum(1), (a, b), tolerance=1e-8)
    over = pairs - threshold.unsqueeze(1)
    found, above = closed.hinge_sums(a, b, None, form, threshold)
    compare(found, over.relu().sum(1), (a, b), tolerance=1e-8)
    assert torch.equal(above, (over > 0).sum(1).double())


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("weighting", ["none", "weights"])
def test_gradients_of_the_closed_form(power, weighting) -> None:
    a, b, nu = inputs("drawn", (2,))
    weights, form = some_weights(weighting, (2,)), closed.Polynomial(power, 1.0, cut=True)
    assert torch.autograd.gradcheck(lambda *x: closed.hinge_sums(x[0], x[1], weights, form, x[2])[0], (a, b, nu))
    assert torch.autograd.gradcheck(lambda *x: closed.hinge_sums(*x, weights, form)[0], (a, b))
    assert torch.autograd.gradcheck(lambda *x: closed.squared_sums(*x, weights, 0.5), (a, b))


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("name", ["squared", "hinge", "squared hinge"])
def test_float32_loses_nothing_to_large_scores(name, shift) -> None:
    torch.manual_seed(1)
    a, b, _ = [(x.detach() + shift).requires_grad_() for x in inputs("drawn", (), 300, 500, torch.float32)]
    exact = [x.detach().double().requires_grad_() for x in (a, b)]
    pairs = SURROGATES[name](exact[1] - exact[0].unsqueeze(1))
    found = rows.row_means(a, b, SURROGATES[name])
    assert a.numel() * b.numel() > rows.CLOSED_FROM[0]
    torch.testing.assert_close(found.double(), pairs.mean(1), rtol=1e-6, atol=1e-9)
    found.sum().backward()
    pairs.mean(1).sum().backward()
    for x, y in zip((a, b), exact, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-6, atol=1e-6)


@every
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("side", [0, 1])
def test_a_nan_reaches_the_output(name, path, side, monkeypatch) -> None:
    use(monkeypatch, path)
    given = [x.detach() for x in inputs("drawn", ())]
    for position in (0, 3):
        given[side][position] = math.nan
        a, b, nu = given
        f, every_anchor = SURROGATES[name], slice(None) if side else position
        assert rows.row_sums(a, b, f)[every_anchor].isnan().all()
        assert rows.row_log_mean_exp(a, b, f, 1.0)[every_anchor].isnan().all()
        found = rows.row_hinge_means(a, b, f, nu)
        assert found.mean[every_anchor].isnan().all()
        assert found.slope[every_anchor].isnan().all()


@every
@pytest.mark.parametrize("path", PATHS)
def test_empty_sides_and_weights_of_zero(name, path, monkeypatch) -> None:
    use(monkeypatch, path)
    f = SURROGATES[name]
    a, b, nu = inputs("drawn", (2,))
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    for others, weights in ((b[:, :0], None), (b, nothing), (b[:, :0], nothing[:, :0])):
        made = [
            rows.row_sums(a, others, f, weights=weights),
            rows.row_means(a, others, f, weights=weights),
            rows.row_log_mean_exp(a, others, f, 0.5, weights=weights),
            *rows.row_hinge_means(a, others, f, nu, weights=weights),
        ]
        for found in made:
            assert torch.equal(found, torch.zeros_like(found))
        for gradient in torch.autograd.grad(sum(x.sum() for x in made[:4]), (a, b), allow_unused=True):
            assert gradient is None or not gradient.any()
    assert rows.row_means(a[:, :0], b, f).shape == (2, 0)


@pytest.mark.parametrize("name", ["hinge", "squared hinge"])
def test_equal_scores(name, monkeypatch) -> None:
    use(monkeypatch, "closed")
    a, b = torch.full((3,), 7.0), torch.full((4,), 7.0)
    assert rows.row_means(a, b, SURROGATES[name]).tolist() == [1.0, 1.0, 1.0]
    assert rows.row_means(a + 1, b, SURROGATES[name]).tolist() == [0.0, 0.0, 0.0]  # at the kink


def test_which_surrogates_have_a_closed_form() -> None:
    def partial(*arguments, **settings):
        return closed.polynomial(functools.partial(surrogates.hinge, *arguments, **settings))

    assert closed.polynomial(surrogates.squared) == closed.Polynomial(2, 1.0, cut=False)
    assert closed.polynomial(surrogates.squared_hinge) == closed.Polynomial(2, 1.0, cut=True)
    assert partial() == closed.Polynomial(1, 1.0, cut=True)
    assert partial(margin=3) == closed.Polynomial(1, 3.0, cut=True)
    assert partial(torch.zeros(1)) is partial(margin=torch.tensor(1.0)) is partial(other=1) is None
    assert closed.polynomial(surrogates.logistic) is closed.polynomial(torch.relu) is None


@pytest.mark.parametrize("name", ["squared hinge", "logistic"])
@pytest.mark.parametrize("path", ["closed", "slopes in tiles", "tiles"])
def test_a_second_derivative_is_refused_not_wrong(name, path, monkeypatch) -> None:
    if (name, path) == ("logistic", "closed"):
        name = "hinge"
    use(monkeypatch, path)
    a, b, _ = inputs("drawn", ())
    (gradient,) = torch.autograd.grad(rows.row_sums(a, b, SURROGATES[name]).sin().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@every
@pytest.mark.parametrize("weights", [None, "weights"])
@pytest.mark.parametrize("thresholds", [False, True])
def test_a_second_derivative_of_few_pairs(name, weights, thresholds, monkeypatch) -> None:
    def second(path: str) -> list[torch.Tensor]:
        use(monkeypatch, path)
        torch.manual_seed(0)
        a, b, nu = inputs("drawn", (2,))
        w = some_weights(weights, (2,))
        value = rows.row_hinge_means(a, b, SURROGATES[name], nu, weights=w).mean if thresholds else None
        value = rows.row_sums(a, b, SURROGATES[name], weights=w) if value is None else value
        first = torch.autograd.grad(value.sin().sum(), (a, b), create_graph=True)
        return list(torch.autograd.grad(sum(part.square().sum() for part in first), (a, b)))

    for left, right in zip(second("slopes"), second("matrix"), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_a_nan_is_not_hidden_by_slopes(monkeypatch) -> None:
    use(monkeypatch, "slopes")
    a, b = torch.zeros(1, 2), torch.tensor([[0.0, float("nan"), 1.0]])
    for name in ("hinge", "squared hinge", "squared", "logistic"):
        assert rows.row_means(a, b, SURROGATES[name]).isnan().all()
        found = rows.row_hinge_means(a, b, SURROGATES[name], torch.zeros(2))
        assert found.mean.isnan().all()
        assert found.slope.isnan().all()


def test_the_logistic_surrogate_of_large_differences(monkeypatch) -> None:
    use(monkeypatch, "slopes in tiles")
    b = torch.linspace(-500, 500, 1001).unsqueeze(0).requires_grad_()
    found = rows.row_sums(torch.zeros(1, 1), b, functools.partial(surrogates.logistic, scale=3.0))
    expected = surrogates.logistic(b.double(), 3.0).sum()
    torch.testing.assert_close(found.double().squeeze(), expected)
    found.sum().backward()
    torch.testing.assert_close(b.grad, torch.sigmoid(3.0 * b.detach()))


@pytest.mark.parametrize("kind", ["drawn", "ties", "all equal"])
@pytest.mark.parametrize("merge_from", [0, 1 << 60])
def test_what_is_below_an_edge(kind, merge_from, monkeypatch) -> None:
    monkeypatch.setattr(closed, "MERGE_FROM", merge_from)
    edges, values = torch.randn(3, 40, dtype=torch.float64), torch.randn(3, 60, dtype=torch.float64)
    if kind == "ties":
        edges, values = (2 * edges).round(), (2 * values).round()
    if kind == "all equal":
        edges, values = torch.ones_like(edges), torch.ones_like(values)
    found = closed._count_below(edges, values.sort(-1).values)
    assert torch.equal(found, (values.unsqueeze(1) < edges.unsqueeze(2)).sum(2))
