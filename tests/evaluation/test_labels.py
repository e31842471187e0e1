"""`per_label`: a metric of each column, without the labels that are missing."""

import math

import pytest
import torch

from guidestar import UserError
from guidestar.evaluation import auc, average_precision, partial_auc, per_label

NAN = float("nan")


def test_each_column_is_the_metric_of_its_known_samples() -> None:
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 3, generator=rng)
    labels = (torch.rand(40, 3, generator=rng) < 0.3).float()
    labels[::5, 1] = NAN
    known = ~labels[:, 1].isnan()
    for metric, settings in ((auc, ()), (average_precision, ()), (partial_auc, (0.3,))):
        found = per_label(metric, scores, labels, *settings)
        expected = [
            metric(scores[:, 0], labels[:, 0], *settings),
            metric(scores[known, 1], labels[known, 1], *settings),
            metric(scores[:, 2], labels[:, 2], *settings),
        ]
        assert found.per_label.tolist() == expected
        assert found.mean == pytest.approx(sum(expected) / 3, rel=1e-12)
        assert found.excluded == 0


def test_named_settings_reach_the_metric() -> None:
    scores, labels = torch.tensor([[0.1], [0.6], [0.5], [0.8]]), torch.tensor([[0], [0], [1], [1]])
    assert per_label(partial_auc, scores, labels, max_fpr=0.5, standardised=False).mean == 0.5


def test_a_label_without_both_classes_is_excluded_and_not_zero() -> None:
    labels = torch.tensor([[1.0, NAN, 0.0], [1.0, 1.0, 1.0]])
    found = per_label(auc, torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), labels)
    assert found.per_label[:2].isnan().all()
    assert (found.mean, found.excluded) == (1.0, 2)
    assert math.isnan(per_label(auc, torch.zeros(2, 1), torch.ones(2, 1)).mean)


def test_one_column_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"must both have shape \[n, L\]. Found \[3\] and \[3\]"):
        per_label(auc, torch.zeros(3), torch.zeros(3))
