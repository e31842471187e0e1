"""AUC, AP and partial AUC: closed expressions, what each of them is better at, probabilities, errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score, roc_auc_score

from guidestar import surrogates
from guidestar.estimators import AUCClassifier, AveragePrecisionClassifier, PartialAUCClassifier
from guidestar.estimators.ranking import platt, sigmoid

RANKING = [AUCClassifier, AveragePrecisionClassifier, PartialAUCClassifier]


def table(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, 3))
    return X, (X @ [1.0, -1.0, 0.5] + random.normal(size=n) > 0.5).astype(int)


def hard_negatives(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """15 % of the negatives look like positives in the first column, and only these differ in the second."""
    random = np.random.default_rng(0)
    y, hard = (random.random(n) < 0.3).astype(int), random.random(n) < 0.15
    alike = (y == 1) | hard
    first = np.where(alike, 2.0 + 0.7 * random.normal(size=n), random.normal(size=n))
    return np.stack([first, np.where(hard & (y == 0), -1.0, 1.0) + random.normal(size=n)], axis=1), y


def test_squared_surrogate_is_least_squares_over_all_pairs() -> None:
    X, y = table()
    pairs = (X[y == 1][:, None] - X[y == 0]).reshape(-1, 3)
    expected = np.linalg.lstsq(pairs, np.ones(len(pairs)), rcond=None)[0]
    model = AUCClassifier(
        surrogate=surrogates.squared,
        batch_size=60,
        rate=y.mean(),
        weight_decay=0.0,
        epochs=400,
        standardize=False,
    ).fit(X, y)
    np.testing.assert_allclose(next(model.network_.parameters()).numpy()[0], expected, atol=1e-4)


def test_standardising_gives_the_same_model_of_a_table_in_other_units() -> None:
    X, y = table()
    first = AUCClassifier(epochs=5).fit(X, y)
    second = AUCClassifier(epochs=5).fit(X * [1.0, 1000.0, 0.01] + [5.0, 0.0, -3.0], y)
    other = second.decision_function(X * [1.0, 1000.0, 0.01] + [5.0, 0.0, -3.0])
    np.testing.assert_allclose(first.decision_function(X), other, atol=1e-4)
    for value in (7.0, 0.1):  # the spread of a column of 0.1 is a rounding error, not 0
        wider = np.column_stack([X, np.full(len(X), value)])
        constant = AUCClassifier(epochs=5).fit(wider, y).decision_function(wider)
        np.testing.assert_allclose(constant, first.decision_function(X), atol=1e-4)


@pytest.mark.slow
def test_each_estimator_is_best_at_its_own_measure() -> None:
    X, y = hard_negatives()
    auc, precision, partial = (
        model.fit(X, y).decision_function(X)
        for model in (AUCClassifier(), AveragePrecisionClassifier(), PartialAUCClassifier(max_fpr=0.05))
    )
    assert roc_auc_score(y, auc) > max(roc_auc_score(y, precision), roc_auc_score(y, partial))
    assert roc_auc_score(y, partial, max_fpr=0.05) > roc_auc_score(y, auc, max_fpr=0.05) + 0.01
    assert average_precision_score(y, precision) > average_precision_score(y, auc) + 0.003


def test_whole_partial_area_is_the_area() -> None:
    X, y = hard_negatives(600)
    whole = PartialAUCClassifier(max_fpr=1.0, threshold_lr=1e-9, surrogate=surrogates.squared_hinge).fit(X, y)
    plain = AUCClassifier().fit(X, y)
    np.testing.assert_allclose(whole.decision_function(X), plain.decision_function(X), atol=1e-3)


@pytest.mark.parametrize("positives", [1, 3, 50])
@pytest.mark.parametrize("classifier", RANKING)
def test_few_rows_of_a_class(classifier: type, positives: int) -> None:
    X, _ = table(80)
    y = np.array(["no"] * (80 - positives) + ["yes"] * positives)
    X[-positives:] += 3.0
    for labels in (y, np.where(y == "no", "yes", "no")):
        model = classifier(epochs=20).fit(X, labels)
        assert roc_auc_score(labels == "yes", model.decision_function(X)) > 0.95


def test_probabilities_classes_and_scores_agree() -> None:
    X, y = table(300)
    model = AUCClassifier(hidden=(8,), epochs=5).fit(X, np.where(y == 1, "b", "a"))
    decision, probability = model.decision_function(X), model.predict_proba(X)
    np.testing.assert_allclose(probability[:, 1], sigmoid(decision))
    np.testing.assert_allclose(probability.sum(axis=1), 1.0)
    assert np.array_equal(model.predict(X), np.where(probability[:, 1] > 0.5, "b", "a"))
    scores = model._outputs(X)[:, 0]
    assert np.array_equal(np.argsort(decision), np.argsort(scores))
    assert abs(probability[:, 1].mean() - y.mean()) < 0.01


@pytest.mark.parametrize("separated", [False, True])
def test_platt_minimises_the_cross_entropy_of_his_targets(separated: bool) -> None:
    random = np.random.default_rng(0)
    labels = (random.random(200) < 0.2).astype(int)
    scores = 50.0 + 0.1 * (labels * (10.0 if separated else 1.0) + random.normal(size=200))
    a, b = platt(scores, labels)
    target = np.where(labels == 1, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((1 - labels).sum() + 2))
    residual = sigmoid(a * scores + b) - target  # the gradient by b, and by a, is 0
    assert abs(residual.sum()) < 1e-3
    assert abs(residual @ (scores - scores.mean())) < 1e-3
    assert a > 0

    def objective(ab: np.ndarray) -> float:
        logits = ab[0] * (scores - 50.0) + ab[1]
        return float(np.sum(np.logaddexp(0.0, logits) - target * logits))

    best = minimize(
        objective, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000}
    )
    assert objective(np.array([a, b + 50.0 * a])) <= best.fun + 1e-6


def test_platt_never_turns_the_order_around() -> None:
    a, b = platt(np.arange(10.0), (np.arange(10) < 3).astype(int))
    assert 0 < a < 1e-3
    share = (3 * 4 / 5 + 7 * 1 / 9) / 10  # of his targets
    np.testing.assert_allclose(sigmoid(a * np.arange(10.0) + b), share, atol=1e-3)
    a, b = platt(np.zeros(10), (np.arange(10) < 3).astype(int))
    assert np.isfinite([a, b]).all()
    assert sigmoid(np.array([-1e9, 1e9])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, found 0"),
        ({"batch_size": 1}, "`batch_size` must be at least 2, found 1"),
        ({"rate": 1.0}, "`rate` is the fraction of positives"),
        ({"lr": 0.0}, r"`lr` must be positive, found 0\.0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0"),
        ({"hidden": (8, 0)}, "`hidden` must be at least 1, found 0"),
        ({"lr": 1e38, "hidden": (4,)}, "The training diverged with `lr` = 1e"),
        ({"lr": 1e38, "hidden": (4,), "standardize": False}, "Use a smaller `lr` and `standardize=True`"),
    ],
)
def test_settings_that_do_not_work(settings: dict, message: str) -> None:
    X, y = table()
    with pytest.raises(ValueError, match=message):
        AUCClassifier(**settings).fit(X, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 8}, r"`hidden` must be a tuple of widths, such as \(\) or \(64,\). Found 8"),
        ({"lr": "0.1"}, "`lr` must be a number. Found '0.1'"),
        ({"weight_decay": None}, "`weight_decay` must be a number. Found None"),
    ],
)
def test_settings_of_another_type(settings: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        AUCClassifier(**settings).fit(*table())


def test_a_table_with_column_names_fits_without_a_warning() -> None:
    frame = pytest.importorskip("pandas").DataFrame
    X, y = table()
    X = frame(X, columns=[f"column {number}" for number in range(X.shape[1])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AUCClassifier(epochs=1).fit(X, y)
        assert model.feature_names_in_.tolist() == list(X.columns)
        assert model.predict(X).shape == y.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_fpr": 0.0}, r"`max_fpr` must lie in \(0, 1\], found 0\.0"),
        ({"max_fpr": 1.1}, "`max_fpr` must lie in"),
        ({"threshold_lr": 0.0}, "`threshold_lr` must be positive"),
    ],
)
def test_settings_of_the_partial_area(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartialAUCClassifier(**settings).fit(*table())


def test_types_that_do_not_work() -> None:
    X, y = table()
    with pytest.raises(TypeError, match="`epochs` must be an integer"):
        AUCClassifier(epochs=2.5).fit(X, y)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="surrogate"):
        AUCClassifier(surrogate="hinge").fit(X, y)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="gamma"):
        AveragePrecisionClassifier(gamma=0.0).fit(X, y)
    with pytest.raises(ValueError, match=r"`y` has 1 class, .*nothing to rank"):
        AUCClassifier().fit(X, np.ones(len(X)))
