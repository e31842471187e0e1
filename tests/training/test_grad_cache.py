"""Chunks give the gradient of the whole batch, in float64, with temperatures, references and dropout."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.risks import KL
from guidestar.training.grad_cache import cached_backward


class Towers(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, 3))
        self.text = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, 3))
        self.log_scale = nn.Parameter(torch.tensor(1.5))
        self.double()

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return functional.normalize(self.image(images), dim=1), functional.normalize(self.text(tokens), dim=1)


def clip(model: Towers, image: Tensor, text: Tensor) -> Tensor:
    logits, target = image @ text.T * model.log_scale.exp(), torch.arange(len(image))
    return functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros(()) if p.grad is None else p.grad for name, p in model.named_parameters()}


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(10, 5, dtype=torch.float64), torch.randn(10, 4, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 3, 5, 10, 20])
def test_it_is_the_gradient_of_the_whole_batch(chunk: int) -> None:
    model, (images, tokens) = Towers(), data()
    expected = clip(model, *model(images, tokens))
    expected.backward()
    whole = gradients(model)
    model.zero_grad()
    chunks = list(zip(images.split(chunk), tokens.split(chunk), strict=True))
    loss, image, text = cached_backward(
        model, chunks, lambda image, text: clip(model, image, text), shared=[model.log_scale]
    )
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    assert (image.shape, text.shape) == ((10, 3), (10, 3))
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-10, atol=1e-12)
    assert float(whole["log_scale"].abs()) > 1e-3  # the temperature's gradient was not idle


def test_it_holds_for_a_steered_loss_with_memory_which_moves_once() -> None:
    model, (images, tokens) = Towers(), data()
    reference = [functional.normalize(torch.randn(10, 6, dtype=torch.float64), dim=1) for _ in range(2)]
    index = torch.arange(10)

    def make() -> DRRhoCLIPLoss:
        loss = DRRhoCLIPLoss(KL(0.1, 10, gamma=0.5), KL(0.1, 10, gamma=0.5))
        loss(torch.eye(10, 3).double(), torch.eye(10, 3).double(), index)  # a memory that is not the first visit's
        return loss

    def loss_of(loss: DRRhoCLIPLoss):
        return lambda image, text: loss(image, text, index, reference_image=reference[0], reference_text=reference[1])

    first, second = make(), make()
    loss_of(first)(*model(images, tokens)).backward()
    whole = gradients(model)
    model.zero_grad()
    chunks = list(zip(images.split(4), tokens.split(4), strict=True))
    cached_backward(model, chunks, loss_of(second))
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-10, atol=1e-12)
    left, right = first.state_dict(), second.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-12, atol=1e-12)


def test_the_second_pass_draws_the_random_numbers_of_the_first() -> None:
    model, (images, tokens) = Towers(dropout=0.5), data()
    chunks = list(zip(images.split(4), tokens.split(4), strict=True))
    torch.manual_seed(3)
    parts = [model(*chunk) for chunk in chunks]
    after = torch.get_rng_state()
    expected = clip(model, torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]))
    expected.backward()
    whole = gradients(model)
    model.zero_grad()
    torch.manual_seed(3)
    loss, _, _ = cached_backward(model, chunks, lambda image, text: clip(model, image, text), shared=[model.log_scale])
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-10, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), after)  # and leaves them as one pass does


def test_the_losss_own_parameters_and_what_is_there_already() -> None:
    model, (images, tokens) = Towers(), data()
    own = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    unused = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    chunks = list(zip(images.split(4), tokens.split(4), strict=True))

    def loss_of(image: Tensor, text: Tensor) -> Tensor:
        return own**2 * clip(model, image, text)

    loss_of(*model(images, tokens)).backward()
    whole, expected = gradients(model), own.grad
    assert expected is not None
    model.zero_grad()
    own.grad = None
    for _ in range(2):  # as with accumulated mini-batches
        cached_backward(model, chunks, loss_of, shared=[model.log_scale], own=[own, unused])
    torch.testing.assert_close(own.grad, 2 * expected)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, 2 * whole[name], rtol=1e-10, atol=1e-12)


def test_processes_exchange_gradients_in_the_last_chunk_of_the_last_batch_only() -> None:
    model, (images, tokens) = Towers(), data()
    chunks = list(zip(images.split(4), tokens.split(4), strict=True))
    alone: list[int] = []

    @contextmanager
    def no_sync():
        alone.append(1)
        yield

    def run(last: bool) -> int:
        alone.clear()
        cached_backward(model, chunks, lambda i, t: clip(model, i, t), no_sync=no_sync, last=last)
        return len(alone)

    assert (run(last=True), run(last=False)) == (2, 3)
