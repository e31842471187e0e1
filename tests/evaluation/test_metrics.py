"""Metrics against closed expressions, a slow loop, and bad input."""

import math

import pytest
import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.evaluation import classification_metrics, evaluate, per_class_accuracy


def from_probabilities(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_closed_expressions() -> None:
    # Right: rows 0, 1, 3. Class 0: 2 of 3 right; class 1: 1 of 1.
    logits = from_probabilities([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.1, 0.9]])
    labels = torch.tensor([0, 0, 0, 1])
    metrics = classification_metrics(logits, labels)
    assert metrics["accuracy"] == 0.75
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-12)
    expected = -(math.log(0.9) + math.log(0.7) + math.log(0.4) + math.log(0.9)) / 4
    assert metrics["nll"] == pytest.approx(expected, abs=1e-12)
    # Three bins: {.9, .9} all right, {.7} right, {.6} wrong.
    assert metrics["ece"] == pytest.approx(2 / 4 * 0.1 + 1 / 4 * 0.3 + 1 / 4 * 0.6, abs=1e-6)


def test_calibration_error_pools_within_a_bin() -> None:
    # .61 and .65 share the bin [.6, .6667): one right, one wrong, so |.5 - .63|.
    logits = from_probabilities([[0.61, 0.39], [0.65, 0.35]])
    assert classification_metrics(logits, torch.tensor([0, 1]))["ece"] == pytest.approx(0.13, abs=1e-6)


def slow_calibration_error(probabilities: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    error = 0.0
    for b in range(bins):
        members = [
            (float(row.max()), int(row.argmax()) == int(label))
            for row, label in zip(probabilities, labels, strict=True)
            if b / bins <= float(row.max()) < (b + 1) / bins
        ]
        if members:
            confidence = sum(c for c, _ in members) / len(members)
            accuracy = sum(right for _, right in members) / len(members)
            error += len(members) / len(labels) * abs(confidence - accuracy)
    return error


def test_random_logits_equal_the_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (200,), generator=generator)
    metrics = classification_metrics(logits, labels)
    assert metrics["ece"] == pytest.approx(slow_calibration_error(logits.softmax(1), labels), abs=1e-6)
    predictions = logits.argmax(1)
    recalls = [float((predictions[labels == c] == c).double().mean()) for c in range(5)]
    assert metrics["balanced_accuracy"] == pytest.approx(sum(recalls) / 5, abs=1e-12)
    assert per_class_accuracy(logits, labels).tolist() == pytest.approx(recalls, abs=1e-12)


def test_logits_between_zero_and_one_are_not_taken_for_probabilities() -> None:
    # softmax([1, 0]) = sigmoid(1), so the calibration error of a right answer is 1 - sigmoid(1), not 0.
    metrics = classification_metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert metrics["ece"] == pytest.approx(1 - 1 / (1 + math.exp(-1)), abs=1e-6)


def test_a_class_that_does_not_occur_is_not_counted() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]])  # class 2 is predicted and never occurs
    labels = torch.tensor([0, 0])
    assert classification_metrics(logits, labels)["balanced_accuracy"] == 0.5
    accuracies = per_class_accuracy(logits, labels)
    assert float(accuracies[0]) == 0.5
    assert accuracies[1:].isnan().all()


def test_low_precision_equals_float64_of_the_same_numbers() -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    labels = torch.arange(50) % 4
    assert classification_metrics(logits, labels) == classification_metrics(logits.double(), labels)


def test_certain_answers_and_ruled_out_classes() -> None:
    logits = torch.tensor([[1000.0, 0.0], [float("-inf"), 0.0]])
    assert classification_metrics(logits, torch.tensor([0, 1])) == {
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
        "nll": 0.0,
        "ece": 0.0,
    }


@pytest.mark.parametrize(
    ("logits", "labels", "match"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "`labels` must hold at least one sample"),
        (torch.zeros(2, 1), torch.tensor([0, 0]), "at least 2 classes.*found 1"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"`labels` must lie in \[0, 3\).*found 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 2]), r"found -1 to 2"),
        (torch.zeros(2, 3), torch.tensor([0]), r"found \[2, 3\] and \[1\]"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), torch.tensor([0, 1]), "1 of 2 rows .the first is row 1"),
        (torch.tensor([[0.0, float("inf")]]), torch.tensor([0]), "NaN or infinite"),
        (torch.full((1, 2), float("-inf")), torch.tensor([0]), "NaN or infinite"),
    ],
)
def test_bad_input(logits: torch.Tensor, labels: torch.Tensor, match: str) -> None:
    with pytest.raises(UserError, match=match):
        classification_metrics(logits, labels)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="`logits` must be floating-point"):
        classification_metrics(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([0]))
    with pytest.raises(TypeError, match="`labels` must be integers"):
        per_class_accuracy(torch.zeros(1, 2), torch.tensor([0.0]))


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


def test_evaluate_equals_one_batch_whatever_the_batches_are() -> None:
    model = small_model()
    inputs, labels = torch.randn(20, 3), torch.arange(20) % 4
    rows = torch.arange(20)
    batches = [(inputs[a:b], labels[a:b], rows[a:b]) for a, b in [(0, 7), (7, 14), (14, 20)]]
    metrics = evaluate(model, iter(batches), "cpu")
    with torch.no_grad():
        expected = classification_metrics(model.eval()(inputs), labels)
    assert metrics == pytest.approx(expected, abs=1e-6)


def test_evaluate_changes_nothing_in_the_model() -> None:
    model = small_model().train()
    model[1].eval()  # a frozen part stays frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, [(torch.randn(5, 3), torch.arange(5) % 4)], "cpu")
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluate_restores_the_mode_after_an_error() -> None:
    model = small_model().train()
    with pytest.raises(RuntimeError, match="shape"):
        evaluate(model, [(torch.randn(5, 99), torch.zeros(5, dtype=torch.int64))], "cpu")
    assert all(module.training for module in model.modules())


def test_evaluate_without_batches() -> None:
    with pytest.raises(UserError, match="`batches` must hold at least one batch"):
        evaluate(small_model(), [], "cpu")
