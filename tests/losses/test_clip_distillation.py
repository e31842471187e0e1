"""CLIPDistillationLoss: KL of the teacher's matching probabilities, both ways."""

from __future__ import annotations

import pytest
import torch
from written_out import features, same_value_and_gradients

from guidestar.losses import CLIPDistillationLoss

MASK = [True, True, True, False, True]
both_paths = pytest.mark.parametrize("tiled", [False, True], ids=["eager", "tiled"])


def written(student, teacher, tau, teacher_tau, mask):
    n, total = len(student[0]), []
    valid = [i for i in range(n) if mask is None or mask[i]]
    for way in (0, 1):
        for i in valid:
            s = torch.stack([student[way][i] @ student[1 - way][j] / tau for j in valid])
            r = torch.stack([teacher[way][i] @ teacher[1 - way][j] / teacher_tau for j in valid])
            q, p = torch.exp(s) / torch.exp(s).sum(), torch.exp(r) / torch.exp(r).sum()
            total.append((p * torch.log(p / q)).sum())
    return torch.stack(total).sum() / len(valid)


@both_paths
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
def test_equals_the_divergence(tiled, mask) -> None:
    image, text, *reference = features(0)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = CLIPDistillationLoss(0.2, tiled=tiled)(
        image,
        text,
        reference_image=reference[0],
        reference_text=reference[1],
        tau=tau,
        mask=None if mask is None else torch.tensor(mask),
    )
    expected = written((image, text), reference, tau, 0.2, mask)
    same_value_and_gradients(found, expected, [image, text, tau])


@both_paths
def test_the_teacher_itself_has_no_divergence_and_no_gradient(tiled) -> None:
    image, text, *_ = features(1)
    loss = CLIPDistillationLoss(0.1, tau=0.1, tiled=tiled)
    value = loss(image, text, reference_image=image, reference_text=text)
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-12)
    for gradient in torch.autograd.grad(value, [image, text]):
        assert gradient.abs().max() < 1e-12


@both_paths
def test_the_teacher_gets_no_gradient(tiled) -> None:
    image, text, *reference = features(2)
    one, other = (r.requires_grad_() for r in reference)
    CLIPDistillationLoss(0.1, tiled=tiled)(image, text, reference_image=one, reference_text=other).backward()
    assert one.grad is None
    assert other.grad is None


@both_paths
def test_small_temperatures_stay_finite(tiled) -> None:
    image, text, *reference = features(3, dtype=torch.float32)
    loss = CLIPDistillationLoss(1e-3, tau=1e-3, tiled=tiled)
    value = loss(image, text, reference_image=reference[0], reference_text=reference[1])
    gradients = torch.autograd.grad(value, [image, text])
    assert torch.isfinite(value)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: CLIPDistillationLoss(0.0), ValueError, r"`teacher_tau` must be a positive number. Found 0\.0"),
        (lambda x: CLIPDistillationLoss(1.0, tau=-1.0), ValueError, "`tau` must be a positive number"),
        (lambda x: CLIPDistillationLoss(1.0)(x, x), ValueError, "`reference_image` and `reference_text` are needed"),
        (
            lambda x: CLIPDistillationLoss(1.0)(x, x, reference_image=x),
            ValueError,
            "`reference_text` is missing beside",
        ),
        (
            lambda x: CLIPDistillationLoss(1.0)(x, x, reference_text=x),
            ValueError,
            "`reference_image` is missing beside",
        ),
        (
            lambda x: CLIPDistillationLoss(1.0)(x, x, reference_image=x[:2], reference_text=x[:2]),
            ValueError,
            r"`reference_image` and `reference_text` must be features \[B, d'\] of one shape with B = 4",
        ),
        (
            lambda x: CLIPDistillationLoss(1.0)(x, x, reference_image=x.long(), reference_text=x),
            TypeError,
            "floating-point tensors. Found torch.int64",
        ),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(torch.ones(4, 2))
