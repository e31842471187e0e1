"""DRO, group DRO and spectral risks: closed expressions, what they protect, errors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from guidestar import CVaR, Mean, TopK
from guidestar.estimators import DROClassifier, GroupDROClassifier, SpectralRegressor

WHOLE = {"batch_size": 1000, "weight_decay": 0.0, "epochs": 400, "standardize": False}


def table(n: int = 60, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(n, 3))
    return X, (X @ random.normal(size=(3, classes)) + 2 * random.gumbel(size=(n, classes))).argmax(axis=1)


def cue(n: int = 1200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A strong cue that is the other way round for a tenth of the rows, and a weaker one that always holds."""
    random = np.random.default_rng(0)
    y, minority = random.integers(0, 2, n), random.random(n) < 0.1
    core = 2.0 * y - 1.0 + random.normal(size=n)
    strong = np.where(minority, -2.0, 2.0) * (2 * y - 1) + 0.5 * random.normal(size=n)
    return np.stack([core, strong], axis=1), y, 2 * minority + y


@pytest.mark.parametrize("classes", [2, 3])
def test_mean_risk_is_logistic_regression(classes: int) -> None:
    X, y = table(90, classes)
    model = DROClassifier(risk=Mean(), **WHOLE).fit(X, y)
    expected = LogisticRegression(C=np.inf, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(X), atol=1e-4)


def test_probabilities_are_the_softmax_of_what_decides() -> None:
    X, y = table(90, 3)
    model = DROClassifier(epochs=3).fit(X, y)
    odds = np.exp(model.decision_function(X))
    np.testing.assert_allclose(model.predict_proba(X), odds / odds.sum(axis=1, keepdims=True))
    assert np.array_equal(model.predict(X), model.predict_proba(X).argmax(axis=1))
    X, y = table(90)
    model = DROClassifier(epochs=3).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-model.decision_function(X))))
    assert np.array_equal(model.predict(X), model.decision_function(X) > 0)


def test_a_robust_risk_lowers_the_largest_losses() -> None:
    X, y, _ = cue()
    tails = {}
    for name, risk in {"mean": Mean(), "kl": None, "tail": TopK(0.1)}.items():
        model = DROClassifier(risk=risk, batch_size=1200, epochs=150).fit(X, y)
        losses = np.sort(-np.log(model.predict_proba(X)[np.arange(len(y)), y]))
        tails[name] = losses[-120:].mean()
    assert tails["tail"] < 0.6 * tails["mean"]
    assert tails["kl"] < 0.8 * tails["mean"]


def test_the_parameter_is_left_as_it_is() -> None:
    X, y = table()
    risk = CVaR(0.5)
    before = {name: value.clone() for name, value in risk.state_dict().items()}
    first = DROClassifier(risk=risk, epochs=3).fit(X, y).predict_proba(X)
    assert all(bool((value == before[name]).all()) for name, value in risk.state_dict().items())
    assert np.array_equal(DROClassifier(risk=risk, epochs=3).fit(X, y).predict_proba(X), first)


def test_the_worst_group_gains() -> None:
    X, y, groups = cue()
    worst = {}
    for name, model in {
        "mean": DROClassifier(risk=Mean()).fit(X, y),
        "groups": GroupDROClassifier().fit(X, y, groups=groups),
        "classes": GroupDROClassifier().fit(X, y),
    }.items():
        worst[name] = min(model.score(X[groups == group], y[groups == group]) for group in range(4))
    assert worst["mean"] < 0.6
    assert worst["classes"] < 0.6  # without groups, the classes are the groups
    assert worst["groups"] > 0.8


def test_groups_of_any_kind() -> None:
    X, y, groups = cue(300)
    expected = GroupDROClassifier(epochs=3).fit(X, y, groups=groups)
    assert expected.groups_.tolist() == [0, 1, 2, 3]
    for other in (groups - 2.0, np.array(list("abcd"))[groups], groups.tolist()):
        model = GroupDROClassifier(epochs=3).fit(X, y, groups=other)
        assert np.array_equal(model.predict_proba(X), expected.predict_proba(X))
    many = GroupDROClassifier(epochs=3, batch_size=16).fit(X, y, groups=np.arange(300) // 2)
    assert len(many.groups_) == 150
    assert np.isfinite(many.predict_proba(X)).all()


def test_mean_of_squares_is_least_squares() -> None:
    X, _ = table()
    y = X @ [1.0, 2.0, 3.0] + 40.0 + np.random.default_rng(1).normal(size=60)
    design = np.column_stack([X, np.ones(60)])
    expected = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    model = SpectralRegressor(risk=Mean(), **WHOLE).fit(X, y)
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-4)


def test_a_spectral_risk_lowers_the_largest_errors() -> None:
    random = np.random.default_rng(1)
    X = random.normal(size=(400, 3))
    y = X @ [1.0, 2.0, 3.0] + np.where(random.random(400) < 0.1, 8.0, 0.0) + 0.3 * random.normal(size=400)
    tails = []
    for risk in (Mean(), None):
        errors = np.sort((SpectralRegressor(risk=risk, batch_size=400, epochs=200).fit(X, y).predict(X) - y) ** 2)
        tails.append(errors[-40:].mean())
    assert tails[1] < 0.85 * tails[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (GroupDROClassifier(alpha=0.0), "alpha"),
        (GroupDROClassifier(gamma=2.0), "gamma"),
        (GroupDROClassifier(epochs=0), "`epochs` must be at least 1"),
        (DROClassifier(lr=-1.0), "`lr` must be positive"),
        (SpectralRegressor(batch_size=0), "`batch_size` must be at least 2"),
    ],
)
def test_settings_that_do_not_work(model: DROClassifier, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.fit(*table())


def test_data_and_types_that_do_not_work() -> None:
    X, y = table()
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        GroupDROClassifier().fit(X, y, groups=y[:-1])
    with pytest.raises(ValueError, match=r"`y` has 1 class, .*nothing to learn"):
        DROClassifier().fit(X, np.ones(len(X)))
    with pytest.raises(TypeError, match="risk"):
        DROClassifier(risk="cvar").fit(X, y)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="risk"):
        SpectralRegressor(risk=0.5).fit(X, y)  # pyright: ignore[reportArgumentType]
