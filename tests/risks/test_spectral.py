"""Spectral: the exact inner solution, its identities with other risks, and the factor of two between paper and code."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

import guidestar as gs
from guidestar.risks import spectra
from guidestar.risks.chi_square import divergence
from guidestar.risks.isotonic import permutahedron_weights
from guidestar.risks.spectral import kl_divergence, spectral_weights

F64 = torch.float64
SETS = {
    "distinct": [0.3, -1.2, 2.5, 0.9, 1.1, -0.4],
    "ties at the top": [1.0, 2.0, 2.0, 0.0, -1.0, 2.0],
    "ties below": [1.0, 1.0, 3.0, 1.0, 0.0, 0.0, 0.5],
    "equal": [0.7] * 6,
    "one outlier": [0.0, 0.001, -0.001, 0.0005, 100.0, 0.0, 0.0, 0.1],
    "far from zero": [1e4 + 1, 1e4 + 2, 1e4 + 3, 1e4 - 1, 1e4, 1e4 + 0.5],
    "two": [1.0, 0.0],
    "one": [4.0],
    "many": torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=F64).tolist(),
}
SPECTRA = {
    "superquantile": spectra.superquantile(0.4),
    "largest": spectra.superquantile(1e-6),
    "extremile": spectra.extremile(2.0),
    "esrm": spectra.esrm(2.0),
    "table": spectra.table(torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=F64)),
}
sets = pytest.mark.parametrize("losses", [torch.tensor(v, dtype=F64) for v in SETS.values()], ids=SETS.keys())
all_spectra = pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
penalties = pytest.mark.parametrize("penalty", ["chi_square", "kl"])
prices = pytest.mark.parametrize("nu", [1e-6, 0.01, 0.3, 1.0, 5.0, 1e4])


def slope(losses: torch.Tensor, q: torch.Tensor, nu: float, penalty: str) -> torch.Tensor:
    """The gradient by q of q . l - nu D(q)."""
    m = len(q)
    return losses - nu * ((m * q - 1) if penalty == "chi_square" else torch.log(m * q) + 1)


def gap(gradient: torch.Tensor, q: torch.Tensor, sigma: torch.Tensor) -> float:
    """The Frank-Wolfe gap: how much the best vertex of the permutahedron gains to first order; 0 iff q is optimal."""
    return float((gradient.sort(descending=True).values * sigma).sum() - (gradient * q).sum())


@sets
@all_spectra
@penalties
@prices
def test_the_weights_are_optimal(losses, spectrum, penalty, nu) -> None:
    q = spectral_weights(losses, spectrum, nu, penalty)
    sigma = spectra.weights(spectrum, len(losses))
    # Feasible: no k weights have more than the k largest of the spectrum, and all have the same sum.
    over = q.sort(descending=True).values.cumsum(0) - sigma.cumsum(0)
    assert float(over.max()) <= 1e-10
    scale = max(1.0, nu, float(losses.abs().max()))
    assert float(q.sum()) == pytest.approx(1.0, abs=1e-10 + 1e-15 * scale / nu)  # the exponents' own rounding
    assert float(q.min()) >= 0.0
    q = q.clamp(min=1e-300)  # the entropy's weights are positive, but may be too small for a float
    assert gap(slope(losses, q, nu, penalty), q, sigma) <= 1e-9 * scale


def test_the_gap_sees_weights_that_are_not_optimal() -> None:
    losses, sigma = torch.tensor([0.0, 1.0, 3.0], dtype=F64), spectra.weights(spectra.extremile(2.0), 3)
    q = spectral_weights(losses, spectra.extremile(2.0), 1.0)
    worse = 0.99 * q + 0.01 / 3
    assert gap(slope(losses, worse, 1.0, "chi_square"), worse, sigma) > 1e-3


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 33, 200])
@penalties
def test_the_passes_pool_what_a_loop_over_neighbours_pools(m, penalty) -> None:
    rng = torch.Generator().manual_seed(m)
    for trial in range(20):
        z = torch.randn(m, generator=rng, dtype=F64).sort(descending=True).values * (0.05 + trial) / m
        sigma = torch.rand(m, generator=rng, dtype=F64).pow(3).sort(descending=True).values
        sigma[m // 2 + 1 :] *= trial % 2
        sigma = sigma / sigma.sum()
        top, bottom = (z, sigma) if penalty == "chi_square" else (z.exp(), sigma)
        blocks: list[list[float]] = []  # sums over the block, and its size
        for k in range(m):
            new = [float(top[k]), float(bottom[k]), 1]
            while blocks and rises(blocks[-1], new, penalty):
                new = [left + right for left, right in zip(blocks.pop(), new, strict=True)]
            blocks.append(new)
        expected, start = [], 0
        for over, under, size in blocks:
            part = z[start : start + size]
            expected.append(part - (over - under) / size if penalty == "chi_square" else part.exp() * under / over)
            start += size
        torch.testing.assert_close(permutahedron_weights(z, sigma, penalty), torch.cat(expected), rtol=1e-9, atol=1e-13)


def rises(left: list[float], right: list[float], penalty: str) -> bool:
    """Whether the level of the block on the right is above that on the left."""
    if penalty == "chi_square":
        return (left[0] - left[1]) / left[2] < (right[0] - right[1]) / right[2]
    return left[0] * right[1] < right[0] * left[1]


@sets
@all_spectra
def test_without_a_price_it_is_the_weighted_sum_of_the_sorted_losses(losses, spectrum) -> None:
    expected = (spectra.weights(spectrum, len(losses)) * losses.sort(descending=True).values).sum()
    torch.testing.assert_close(gs.Spectral(spectrum)(losses), expected, rtol=1e-12, atol=1e-12)


@all_spectra
def test_without_a_price_it_is_the_largest_over_all_orders(spectrum) -> None:
    losses = torch.tensor(SETS["distinct"], dtype=F64)
    sigma = spectra.weights(spectrum, 6)
    largest = max(float(sigma @ losses[list(order)]) for order in permutations(range(6)))
    assert float(gs.Spectral(spectrum)(losses)) == pytest.approx(largest, abs=1e-12)


@sets
@pytest.mark.parametrize("alpha", [0.05, 0.25, 0.3, 0.5, 1.0])
def test_the_superquantile_is_top_k(losses, alpha) -> None:
    risk, top = gs.Spectral(spectra.superquantile(alpha)), gs.TopK(alpha)
    torch.testing.assert_close(risk(losses), top(losses), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        risk.weights(losses).sort().values, top.weights(losses).sort().values, rtol=0, atol=1e-12
    )
    mask = torch.arange(len(losses)) % 3 != 1
    torch.testing.assert_close(risk(losses, mask=mask), top(losses, mask=mask), rtol=1e-9, atol=1e-12)


@sets
@pytest.mark.parametrize("nu", [1e-6, 0.3, 1.0, 50.0])
def test_all_weight_on_one_rank_is_the_simplex(losses, nu) -> None:
    spectrum = spectra.superquantile(1e-6)
    for risk, other in (
        (gs.Spectral(spectrum, nu=nu), gs.ChiSquare(nu, ball=False)),
        (gs.Spectral(spectrum, nu=nu, penalty="kl"), gs.KL(tau=nu)),
    ):
        torch.testing.assert_close(risk(losses), other(losses), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(risk.weights(losses), other.weights(losses), rtol=1e-6, atol=1e-10)


@sets
@penalties
def test_a_uniform_spectrum_or_a_large_price_is_the_mean(losses, penalty) -> None:
    mean = losses.mean()
    torch.testing.assert_close(gs.Spectral(spectra.superquantile(1.0), nu=0.5, penalty=penalty)(losses), mean)
    risk = gs.Spectral(spectra.extremile(3.0), nu=1e9, penalty=penalty)
    torch.testing.assert_close(risk(losses), mean, rtol=1e-6, atol=1e-6)


@sets
@all_spectra
@penalties
def test_a_small_price_is_nearly_none_and_ties_share(losses, spectrum, penalty) -> None:
    free, cheap = gs.Spectral(spectrum), gs.Spectral(spectrum, nu=1e-9, penalty=penalty)
    torch.testing.assert_close(cheap(losses), free(losses), rtol=1e-7, atol=1e-7)
    weights = cheap.weights(losses)
    for value in losses.unique():
        tied = weights[losses == value]
        torch.testing.assert_close(tied, tied[:1].expand_as(tied), rtol=1e-6, atol=1e-12)


def test_the_factor_of_two_between_the_paper_and_its_code() -> None:
    losses, spectrum = torch.tensor(SETS["distinct"], dtype=F64), spectra.superquantile(0.5)
    n, sigma, price = 6, spectra.weights(spectrum, 6), 0.7
    q = gs.Spectral(spectrum, nu=price).weights(losses)
    # The code: (n nu / 2) |q - 1/n|^2 with the same number.
    value = q @ losses - (n * price / 2) * (q - 1 / n).square().sum()
    torch.testing.assert_close(gs.Spectral(spectrum, nu=price)(losses), value, rtol=1e-12, atol=1e-12)
    assert gap(losses - n * price * (q - 1 / n), q, sigma) <= 1e-12
    # The paper: nu n |q - 1/n|^2, so twice the paper's number.
    q = gs.Spectral(spectrum, nu=2 * price).weights(losses)
    value = q @ losses - price * n * (q - 1 / n).square().sum()
    torch.testing.assert_close(gs.Spectral(spectrum, nu=2 * price)(losses), value, rtol=1e-12, atol=1e-12)
    assert gap(losses - 2 * n * price * (q - 1 / n), q, sigma) <= 1e-12
    # And it matters: with the paper's own number the weights are others.
    other = gs.Spectral(spectrum, nu=price).weights(losses)
    assert gap(losses - 2 * n * price * (other - 1 / n), other, sigma) > 1e-2


@penalties
def test_the_value_is_the_objective_at_its_weights(penalty) -> None:
    losses = torch.randn(4, 9, dtype=F64)
    risk = gs.Spectral(spectra.extremile(2.0), nu=0.4, penalty=penalty)
    q = risk.weights(losses)
    distance = divergence(q) if penalty == "chi_square" else kl_divergence(q)
    torch.testing.assert_close(risk(losses), (q * losses).sum(-1) - 0.4 * distance, rtol=1e-12, atol=1e-12)


@penalties
def test_the_value_is_differentiated_exactly(penalty) -> None:
    losses = torch.randn(3, 7, dtype=F64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    risk = gs.Spectral(spectra.superquantile(0.4), nu=0.8, penalty=penalty)
    torch.autograd.gradcheck(lambda x: risk(x), losses)


@penalties
@pytest.mark.parametrize("nu", [0.0, 0.6])
def test_masked_rows_are_their_short_selves(penalty, nu) -> None:
    losses = torch.randn(5, 7, dtype=F64, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor(
        [[True] * 7, [True, False] * 3 + [True], [False] * 6 + [True], [False] * 7, [False] + [True] * 6]
    )
    losses[~mask] = float("nan")
    risk = gs.Spectral(spectra.extremile(2.0), nu=nu, penalty=penalty)
    value, weights = risk(losses, mask=mask), risk.weights(losses, mask=mask)
    for row in (0, 1, 2, 4):
        short = losses[row, mask[row]]
        torch.testing.assert_close(value[row], risk(short), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(weights[row, mask[row]], risk.weights(short), rtol=1e-9, atol=1e-12)
    assert not weights[~mask].any()
    assert value[3] == 0.0


@penalties
def test_adding_a_number_moves_the_value_and_not_the_weights(penalty) -> None:
    losses = torch.tensor(SETS["many"], dtype=F64)
    risk = gs.Spectral(spectra.esrm(3.0), nu=0.2, penalty=penalty)
    torch.testing.assert_close(risk(losses + 1e3), risk(losses) + 1e3, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(risk.weights(losses + 1e3), risk.weights(losses), rtol=1e-8, atol=1e-12)


@penalties
def test_losses_that_are_far_apart_keep_exact_weights(penalty) -> None:
    # exp(l / nu) is 0 for the smaller ones, and l / (nu m) is 1e10: neither may cost the digits of the weights.
    losses = torch.tensor([1e4, 0.0, -1e4, 2e4], dtype=F64)
    q = spectral_weights(losses, spectra.extremile(2.0), 1e-6, penalty)
    torch.testing.assert_close(q, spectral_weights(losses, spectra.extremile(2.0), 0.0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nu": -1.0}, "`nu` is a price and must be at least 0 and finite. Found -1.0"),
        ({"nu": float("inf")}, "`nu` is a price"),
        ({"nu": float("nan")}, "`nu` is a price"),
        ({"penalty": "l1"}, "`penalty` must be 'chi_square' or 'kl'. Found 'l1'"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        gs.Spectral(spectra.superquantile(0.5), **settings)


def test_what_is_no_spectrum_is_refused() -> None:
    with pytest.raises(ValueError, match="must be concave"):
        gs.Spectral(lambda t: t**2)
    with pytest.raises(TypeError, match="Found float"):
        gs.Spectral(0.5)
