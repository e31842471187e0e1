"""Spectra: the weights of the ranks, against the definitions of the papers read from the smallest loss upwards."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from guidestar.risks import spectra

F64 = torch.float64


def superquantile(q: float, n: int) -> torch.Tensor:
    """Prospect's: 0 below n q, a fraction of 1 / (n (1 - q)) at the edge, then 1 / (n (1 - q)); ascending."""
    edge = math.floor(n * q)
    sigma = torch.zeros(n, dtype=F64)
    sigma[edge:] = 1.0 / (n * (1.0 - q))
    sigma[edge] = 1.0 - float(sigma[edge + 1 :].sum())
    return sigma


def extremile(r: float, n: int) -> torch.Tensor:
    return torch.tensor([(i / n) ** r - ((i - 1) / n) ** r for i in range(1, n + 1)], dtype=F64)


def esrm(rho: float, n: int) -> torch.Tensor:
    parts = [math.exp(rho * i / n) - math.exp(rho * (i - 1) / n) for i in range(1, n + 1)]
    return math.exp(-rho) * torch.tensor(parts, dtype=F64) / (1 - math.exp(-rho))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # Prospect's q is one minus the worst share.
        (spectra.superquantile(0.5), lambda n: superquantile(0.5, n)),
        (spectra.superquantile(0.75), lambda n: superquantile(0.25, n)),
        (spectra.superquantile(0.25), lambda n: superquantile(0.75, n)),
        (spectra.extremile(1.5), lambda n: extremile(1.5, n)),
        (spectra.extremile(2.5), lambda n: extremile(2.5, n)),
        (spectra.esrm(0.5), lambda n: esrm(0.5, n)),
        (spectra.esrm(2.0), lambda n: esrm(2.0, n)),
    ],
)
def test_the_weights_are_the_papers_read_backwards(found, expected, n) -> None:
    torch.testing.assert_close(spectra.weights(found, n), expected(n).flip(0), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "spectrum",
    [spectra.superquantile(1.0), spectra.extremile(1.0), spectra.esrm(1e-9), spectra.table(torch.ones(3) / 3)],
)
def test_the_mean_is_a_limit_of_each(spectrum) -> None:
    torch.testing.assert_close(spectra.weights(spectrum, 6), torch.full((6,), 1 / 6, dtype=F64))


def test_an_extremile_of_two_is_the_mean_of_the_larger_of_two_draws() -> None:
    losses = torch.tensor([0.3, 2.0, -1.0, 0.7], dtype=F64)
    pairs = torch.maximum(losses[:, None], losses[None, :]).mean()
    torch.testing.assert_close(
        (spectra.weights(spectra.extremile(2.0), 4) * losses.sort(descending=True)[0]).sum(), pairs
    )


@pytest.mark.parametrize("m", [1, 3, 4, 8, 9])
def test_the_weights_of_each_row_follow_its_own_number(m) -> None:
    spectrum = spectra.extremile(2.0)
    rows = spectra.weights(spectrum, torch.tensor([[m], [2]]), places=9)
    torch.testing.assert_close(rows[0, :m], spectra.weights(spectrum, m))
    assert not rows[0, m:].any()
    assert not rows[1, 2:].any()
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, dtype=F64))


def test_a_table_is_its_weights_at_its_own_size_in_any_order() -> None:
    sigma = torch.tensor([0.1, 0.6, 0.3], dtype=F64)
    torch.testing.assert_close(spectra.weights(spectra.table(sigma), 3), torch.tensor([0.6, 0.3, 0.1], dtype=F64))
    # Each weight is shared by two of six losses, and one loss has all.
    torch.testing.assert_close(
        spectra.weights(spectra.table(sigma), 6), torch.tensor([0.3, 0.3, 0.15, 0.15, 0.05, 0.05], dtype=F64)
    )
    torch.testing.assert_close(spectra.weights(spectra.table(sigma), 1), torch.ones(1, dtype=F64))


@pytest.mark.parametrize("make", [lambda: spectra.esrm(2.0), lambda: spectra.table(torch.tensor([0.5, 0.5]))])
def test_spectra_can_be_copied_and_stored(make) -> None:
    expected = spectra.weights(make(), 5)
    for twin in (copy.deepcopy(make()), pickle.loads(pickle.dumps(make()))):
        assert torch.equal(spectra.weights(twin, 5), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spectra.superquantile(0.0), r"`alpha` is a share and must be in \(0, 1\]. Found 0.0"),
        (lambda: spectra.superquantile(1.5), "`alpha` is a share"),
        (lambda: spectra.extremile(0.5), r"`r` must be at least 1 \(the mean\).*Found 0.5"),
        (lambda: spectra.extremile(float("nan")), "`r` must be a positive number"),
        (lambda: spectra.esrm(0.0), "`rho` must be a positive number. Found 0.0"),
        (lambda: spectra.table(torch.ones(2, 2) / 4), r"must have shape \[M\], M at least 1. Found \(2, 2\)"),
        (lambda: spectra.table(torch.ones(0)), r"M at least 1. Found \(0,\)"),
        (lambda: spectra.table(torch.tensor([1.5, -0.5])), "must be at least 0. Found -0.5"),
        (lambda: spectra.table(torch.tensor([1.0, float("nan")])), "must be at least 0. Found nan"),
        (lambda: spectra.table(torch.tensor([1.0, 2.0])), "must have the sum 1. Found 3. Divide them by it"),
        (lambda: spectra.as_spectrum(lambda t: t.square()), "must be concave and not fall"),
        (lambda: spectra.as_spectrum(lambda t: 1.5 - (t - 0.5).abs()), r"T\(0\) = 0 to T\(1\) = 1. Found 1 and 1"),
        (lambda: spectra.as_spectrum(lambda t: t / 2), "Found 0 and 0.5"),
        (lambda: spectra.as_spectrum(lambda t: t * float("nan")), "Found nan and nan"),
        (lambda: spectra.as_spectrum(lambda t: t.sum()), r"a tensor of the shape of its shares, \(129,\). Found \(\)"),
        (lambda: spectra.as_spectrum(lambda t: 1.0), "Found float"),
    ],
)
def test_what_is_no_spectrum_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_name_is_no_spectrum() -> None:
    with pytest.raises(TypeError, match=r"`spectrum` must be one of guidestar.risks.spectra.*Found str"):
        spectra.as_spectrum("superquantile")
