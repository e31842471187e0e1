"""Prospect: the update's lines by hand, the exact optimum where in-batch weights stall, resume, and errors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

import guidestar as gs
from guidestar.optim import Prospect
from guidestar.risks import spectra
from guidestar.risks.spectral import spectral_weights

F64 = torch.float64
N, WIDTH, L2, NU = 40, 3, 0.02, 0.5
SPECTRUM = spectra.superquantile(0.5)


def regression() -> tuple[Tensor, Tensor]:
    """Inputs, and targets whose noise is skewed and larger for some, so that the mean and the tail want other weights."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(N, WIDTH, generator=rng, dtype=F64)
    noise = torch.randn(N, generator=rng, dtype=F64).exp() * (1.0 + (x[:, 0] > 0.5))
    return x, x @ torch.tensor([1.0, -2.0, 0.5], dtype=F64) + noise


X, Y = regression()


def losses(model: nn.Linear, index: Tensor) -> Tensor:
    return (model(X[index]).squeeze(1) - Y[index]).square() / 2


def linear() -> nn.Linear:
    model = nn.Linear(WIDTH, 1).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def optimum(risk: gs.risks.Risk) -> Tensor:
    """The minimiser of the exact objective over all samples, by L-BFGS."""
    model = linear()

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        nn.utils.vector_to_parameters(torch.from_numpy(w), model.parameters())
        model.zero_grad()
        value = risk(losses(model, torch.arange(N))) + L2 / 2 * sum(p.square().sum() for p in model.parameters())
        value.backward()
        return float(value.detach()), torch.cat([p.grad.reshape(-1) for p in model.parameters()]).numpy()

    found = minimize(
        objective,
        np.zeros(WIDTH + 1),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-12, "ftol": 1e-16, "maxiter": 5000},
    )
    return torch.from_numpy(found.x)


def filled(model: nn.Linear, risk: gs.risks.Risk, lr: float = 0.01) -> Prospect:
    prospect = Prospect(model.parameters(), risk, num_rows=N, lr=lr, l2=L2)
    for index in torch.arange(N).split(16):
        prospect.fill(losses(model, index), index)
    return prospect


def order(steps: int, size: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randperm(N, generator=rng)[:size] for _ in range(steps)]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("penalty", ["chi_square", "kl"])
def test_it_does_the_lines_of_the_update(size, penalty) -> None:
    model, lr = linear(), 0.01
    prospect = filled(model, gs.Spectral(SPECTRUM, nu=NU, penalty=penalty), lr)
    w = torch.zeros(WIDTH + 1, dtype=F64)
    features = torch.cat([X, torch.ones(N, 1, dtype=F64)], dim=1)
    remembered = (features @ w - Y).square() / 2
    rho, table, average = (
        torch.zeros(N, dtype=F64),
        torch.zeros(N, WIDTH + 1, dtype=F64),
        torch.zeros(WIDTH + 1, dtype=F64),
    )
    for index in order(8, size):
        prospect.step(losses(model, index), index)
        q = spectral_weights(remembered, SPECTRUM, NU, penalty)
        v, change = average.clone(), torch.zeros_like(average)
        for i in index.tolist():
            error = features[i] @ w - Y[i]
            v += N / size * (q[i] * error * features[i] - rho[i] * table[i])
            change += q[i] * error * features[i] - rho[i] * table[i]
            remembered[i], rho[i], table[i] = error**2 / 2, q[i], error * features[i]
        average = average + change
        w = (w - lr * v) / (1 + lr * L2)
        torch.testing.assert_close(flat(model), w, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(prospect.losses.values, remembered, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(prospect.average.values[0], rho @ table, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "risk",
    [gs.Spectral(SPECTRUM, nu=NU), gs.Spectral(spectra.extremile(2.0), nu=2.0, penalty="kl")],
    ids=["superquantile", "extremile"],
)
def test_it_converges_linearly_where_in_batch_weights_stall(risk) -> None:
    best, model = optimum(risk), linear()
    prospect, distances = filled(model, risk, lr=0.02), [float(optimum(risk).norm())]
    for step, index in enumerate(order(600, 4)):
        prospect.step(losses(model, index), index)
        if step % 200 == 199:
            distances.append(float((flat(model) - best).norm()))
    # Each 200 steps divide the distance by a constant.
    assert all(after < 0.2 * before for before, after in pairwise(distances))
    assert distances[-1] < 1e-4

    model, average = linear(), torch.zeros(WIDTH + 1, dtype=F64)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=L2)
    for step, index in enumerate(order(1000, 2)):
        sgd.zero_grad()
        risk(losses(model, index)).backward()
        sgd.step()
        average += flat(model) / 500 if step >= 500 else 0.0
    # The mean iterate has no noise left, only the bias of weights within so few losses.
    assert float((average - best).norm()) > 0.05


def test_resumed_equals_uninterrupted(tmp_path) -> None:
    def make() -> tuple[nn.Linear, Prospect]:
        model = linear()
        return model, Prospect(model.parameters(), gs.Spectral(SPECTRUM, nu=NU), num_rows=N, lr=0.02, l2=L2)

    model, prospect = make()
    prospect.fill(losses(model, torch.arange(N)), torch.arange(N))
    steps = order(10, 4)
    for index in steps[:5]:
        prospect.step(losses(model, index), index)
    torch.save([model.state_dict(), prospect.state_dict()], tmp_path / "state.pt")
    for index in steps[5:]:
        prospect.step(losses(model, index), index)

    twin, resumed = make()
    for part, state in zip((twin, resumed), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    for index in steps[5:]:
        resumed.step(losses(twin, index), index)
    assert torch.equal(flat(model), flat(twin))
    assert all(
        torch.equal(left, right)
        for left, right in zip(prospect.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_memory_is_float32_for_other_models_and_can_be_reset() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, 2), nn.Tanh(), nn.Linear(2, 1))
    prospect = Prospect(model.parameters(), gs.Spectral(SPECTRUM, nu=NU), num_rows=4, lr=0.1)
    fresh = {name: value.clone() for name, value in prospect.state_dict().items()}
    assert prospect.gradients.values.shape == (4, WIDTH * 2 + 2 + 2 + 1)
    assert all(value.dtype in (torch.float32, torch.int64) for value in prospect.state_dict().values())
    index = torch.arange(4)
    for _ in range(2):
        outputs = (model(X[:4].float()).squeeze(1) - Y[:4].float()).square()
        prospect.fill(outputs, index)
        prospect.step(outputs, index)
    assert prospect.gradients.values.any()
    prospect.reset()
    assert all(torch.equal(value, fresh[name]) for name, value in prospect.state_dict().items())


def test_no_samples_are_no_step() -> None:
    model = linear()
    prospect = filled(model, gs.Spectral(SPECTRUM, nu=NU))
    index = torch.empty(0, dtype=torch.int64)
    prospect.step(losses(model, index), index)
    assert not flat(model).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "`lr` must be a positive number. Found 0.0"),
        ({"l2": -1.0}, "`l2` must be at least 0 and finite. Found -1.0"),
        ({"num_rows": 0}, "`num_rows` must be at least 1. Found 0"),
        ({"params": []}, "`params` must hold a parameter that requires a gradient"),
        ({"risk": gs.KL(1.0, gamma=0.5)}, "`risk` must be exact within a batch.*Found KL with memory of its own"),
        ({"risk": gs.CVaR(0.5)}, "Found CVaR with memory of its own"),
    ],
)
def test_bad_settings(settings, message) -> None:
    given = {"params": linear().parameters(), "risk": gs.Mean(), "num_rows": N, "lr": 0.1, **settings}
    with pytest.raises(ValueError, match=message):
        Prospect(given.pop("params"), given.pop("risk"), **given)


def test_bad_input() -> None:
    model = linear()
    with pytest.raises(TypeError, match="`risk` must be a risk such as"):
        Prospect(model.parameters(), gs.Mean, num_rows=N, lr=0.1)
    prospect = Prospect(model.parameters(), gs.Mean(), num_rows=N, lr=0.1)
    index = torch.tensor([0, 1])
    prospect.fill(losses(model, index), index)
    with pytest.raises(RuntimeError, match=f"needs a loss of each of the {N} samples: {N - 2} have none. Call `fill"):
        prospect.step(losses(model, index), index)
    with pytest.raises(ValueError, match=r"`losses` must be \[B\].*Found \(2,\) and \(3,\)"):
        prospect.step(losses(model, index), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"Found \(\) and \(2,\)"):
        prospect.step(losses(model, index).mean(), index)
    with pytest.raises(ValueError, match="`index` must not hold a sample twice"):
        prospect.fill(losses(model, index), torch.tensor([1, 1]))
    with pytest.raises(IndexError, match=rf"`index` must lie in \[0, {N}\).*Found {N}"):
        prospect.fill(losses(model, index), torch.tensor([0, N]))
    with pytest.raises(TypeError, match="must be floating-point tensors"):
        prospect.fill(torch.tensor([1, 2]), index)
