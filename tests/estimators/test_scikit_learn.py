"""scikit-learn's own checks, and the tools of scikit-learn that people put estimators into."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from guidestar import KL, CVaR, surrogates
from guidestar.estimators import (
    AUCClassifier,
    AveragePrecisionClassifier,
    DROClassifier,
    GroupDROClassifier,
    PartialAUCClassifier,
    SpectralRegressor,
)

CHECKED: list[BaseEstimator] = [
    AUCClassifier(epochs=20),
    AveragePrecisionClassifier(epochs=20),
    PartialAUCClassifier(epochs=20),
    DROClassifier(epochs=20),
    GroupDROClassifier(epochs=20),
    SpectralRegressor(epochs=20),
    AUCClassifier(hidden=(16,), epochs=20),
]
RANKING = [AUCClassifier, AveragePrecisionClassifier, PartialAUCClassifier]
CLASSIFIERS = [*RANKING, DROClassifier, GroupDROClassifier]
X, y = load_breast_cancer(return_X_y=True)


@pytest.mark.slow
@parametrize_with_checks(CHECKED)
def test_checks_of_scikit_learn(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_cross_validation_in_a_pipeline(classifier: type) -> None:
    pipeline = make_pipeline(MinMaxScaler(), classifier(epochs=5))
    assert cross_val_score(pipeline, X, y, scoring="roc_auc", cv=3).min() > 0.97


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_fit_pickle_and_clone(classifier: type) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # pyright: ignore
    model = classifier(hidden=(8,), epochs=2).fit(X, y)
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()) == before  # pyright: ignore
    expected = model.predict_proba(X)
    twin: Any = clone(model)
    copies: list[Any] = [
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        twin.fit(X, y),
        model.fit(X, y),
    ]
    for other in copies:
        assert np.array_equal(other.predict_proba(X), expected)
    assert len(model.losses_) == 2
    assert not np.array_equal(classifier(hidden=(8,), epochs=2, random_state=1).fit(X, y).predict_proba(X), expected)


def test_grid_search_over_objects() -> None:
    risks = [KL(tau=0.5, gamma=0.9), CVaR(alpha=0.5)]
    search = GridSearchCV(DROClassifier(epochs=3), {"risk": risks, "hidden": [(), (4,)]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.9
    margins = GridSearchCV(AUCClassifier(epochs=3), {"surrogate": [surrogates.squared, surrogates.hinge]}, cv=2)
    assert margins.fit(X, y).predict_proba(X).shape == (len(y), 2)


def test_calibration_and_threshold_on_rows_that_were_left_out() -> None:
    calibrated = CalibratedClassifierCV(AUCClassifier(epochs=3), cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.9
    tuned = TunedThresholdClassifierCV(AUCClassifier(epochs=3), scoring="balanced_accuracy", cv=3).fit(X, y)
    assert tuned.score(X, y) > 0.9


def test_more_classes_than_two() -> None:
    flowers, kinds = load_iris(return_X_y=True)
    assert OneVsRestClassifier(AUCClassifier(epochs=20, batch_size=16)).fit(flowers, kinds).score(flowers, kinds) > 0.8
    names = np.array(["setosa", "versicolor", "virginica"])[kinds]
    model = DROClassifier(batch_size=16).fit(flowers, names)
    assert model.score(flowers, names) > 0.93
    assert model.decision_function(flowers).shape == model.predict_proba(flowers).shape == (150, 3)
    for classifier in RANKING:
        with pytest.raises(
            ValueError, match=r"Only binary classification is supported.*multiclass.*OneVsRestClassifier"
        ):
            classifier().fit(flowers, kinds)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_weights_of_samples_are_not_supported(classifier: type) -> None:
    with pytest.raises(TypeError, match="sample_weight"):
        classifier().fit(X, y, sample_weight=np.ones(len(y)))


def test_groups_are_split_with_the_rows() -> None:
    groups = (X[:, 0] > X[:, 0].mean()).astype(int)
    scores = cross_val_score(GroupDROClassifier(epochs=3), X, y, params={"groups": groups}, cv=3)
    assert scores.min() > 0.85
    with config_context(enable_metadata_routing=True):
        model = GroupDROClassifier(epochs=3).set_fit_request(groups=True)
        assert np.array_equal(cross_val_score(model, X, y, params={"groups": groups}, cv=3), scores)


@pytest.mark.slow
def test_without_scikit_learn_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import guidestar\n"
        "from guidestar import *\n"
        "try: guidestar.estimators\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'guidestar[sklearn]'" in done.stdout
