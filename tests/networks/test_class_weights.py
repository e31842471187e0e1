"""ClassWeights: Alg. 26, steps 4, 9 and 10, against a dense head and against loops over the classes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidestar.losses import ExtremeClassificationLoss
from guidestar.networks import ClassWeights

CLASSES, WIDTH = 12, 5
LABELS = [torch.tensor([3, 11, 3, 0, 7, 8]), torch.tensor([3, 2, 8, 8, 8, 1]), torch.tensor([0, 5, 3, 9, 0, 11])]


def make(seed: int = 0, **settings) -> ClassWeights:
    torch.manual_seed(seed)
    return ClassWeights(CLASSES, WIDTH, **{"lr": 0.5, "std": 0.7, **settings})


def features(seed: int, rows: int = 6) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def train(weights: ClassWeights, steps: range = range(3), gain: float = 1.0) -> list[Tensor]:
    """Steps of cross-entropy over the classes of the batch; the features' gradients."""
    gradients = []
    for step in steps:
        h = features(step)
        logits, columns = weights(h, LABELS[step % 3])
        (gain * functional.cross_entropy(logits, columns)).backward()
        weights.step()
        gradients.append(h.grad)
    return gradients


def written_out(weight: Tensor, step: int) -> Tensor:
    """The gradient by the whole matrix of the same loss, class by class; zero for absent classes."""
    leaf, present = weight.clone().requires_grad_(), sorted(set(LABELS[step].tolist()))
    total = torch.zeros(())
    for i, label in enumerate(LABELS[step].tolist()):
        scores = torch.stack([features(step)[i].detach() @ leaf[c] for c in present])
        total = total - torch.log_softmax(scores, 0)[present.index(label)] / 6
    return torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("adaptive", [False, True])
def test_steps_9_and_10_as_loops_over_the_classes(momentum, adaptive) -> None:
    weights = make(momentum=momentum, adaptive=adaptive)
    w, v, s = weights.weight.clone(), torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES)
    for step in range(3):
        z = written_out(w, step)
        train(weights, range(step, step + 1))
        for c in set(LABELS[step].tolist()):  # V_t[C_t] and W_t[C_t]: the others stay, their velocity too
            v[c] = (1 - (1 - momentum)) * v[c] + (1 - momentum) * z[c]
            s[c] = s[c] + (z[c] ** 2).mean()
            w[c] = w[c] - 0.5 * v[c] / (s[c].sqrt() if adaptive else 1.0)
        torch.testing.assert_close(weights.weight, w, rtol=1e-5, atol=1e-6)
    if momentum:
        torch.testing.assert_close(weights.velocity, v, rtol=1e-5, atol=1e-6)
    if adaptive:
        torch.testing.assert_close(weights.scale, s, rtol=1e-5, atol=1e-7)


def test_plain_steps_are_those_of_a_dense_head_under_sgd() -> None:
    # SCENT's gradient is zero for the classes that are not in the batch: a dense head moves the same rows.
    weights, encoder = make(), nn.Linear(3, WIDTH)
    head, other = nn.Linear(WIDTH, CLASSES, bias=False), copy.deepcopy(encoder)
    with torch.no_grad():
        head.weight.copy_(weights.weight)
    losses = [ExtremeClassificationLoss(6) for _ in range(2)]
    sparse = torch.optim.SGD(encoder.parameters(), lr=0.1)
    dense = torch.optim.SGD([{"params": other.parameters()}, {"params": head.parameters(), "lr": 0.5}], lr=0.1)
    for step in range(5):
        x, labels, index = torch.randn(6, 3), LABELS[step % 3], torch.arange(6)
        sparse.zero_grad()
        logits, columns = weights(encoder(x), labels)
        mine = losses[0](logits, columns, index)
        mine.backward()
        sparse.step()
        weights.step()
        dense.zero_grad()
        theirs = losses[1](head(other(x)), labels, index)
        theirs.backward()
        dense.step()
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(weights.weight, head.weight.detach())
        torch.testing.assert_close(encoder.weight, other.weight)


def test_rows_that_are_not_in_the_batch_stay_bit_by_bit() -> None:
    weights = make(momentum=0.5, adaptive=True)
    train(weights)
    before = copy.deepcopy(weights.state_dict())
    train(weights, range(1))
    others = sorted(set(range(CLASSES)) - set(LABELS[0].tolist()))
    for name, values in weights.state_dict().items():
        assert torch.equal(values[others], before[name][others])
        assert not torch.equal(values, before[name])


def test_gradients_of_several_batches_add_up() -> None:
    once, twice = make(momentum=0.5), make(momentum=0.5)
    h, labels = torch.cat([features(0), features(1)]), torch.cat(LABELS[:2])
    rows, columns = once.rows(labels)
    (h.detach() * rows[columns]).square().sum().backward()
    once.step()
    for step in range(2):
        rows, columns = twice.rows(LABELS[step])
        (features(step).detach() * rows[columns]).square().sum().backward()
    twice.step()
    torch.testing.assert_close(once.weight, twice.weight)
    torch.testing.assert_close(once.velocity, twice.velocity)


def test_files_are_continued_and_equal_memory(tmp_path) -> None:
    settings = {"momentum": 0.5, "adaptive": True}
    memory, mapped = make(**settings), make(**settings, path=tmp_path / "weights")
    assert not mapped.state_dict()
    train(memory)
    train(mapped)
    mapped.flush()
    del mapped
    again = make(seed=1, **settings, path=tmp_path / "weights")  # the initial weights of this seed are not used
    train(memory)
    train(again)
    for name, values in memory.state_dict().items():
        assert torch.equal(values, getattr(again, name))
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["scale.npy", "velocity.npy", "weight.npy"]


def test_resumed_equals_uninterrupted(tmp_path) -> None:
    straight, first = make(momentum=0.5, adaptive=True), make(momentum=0.5, adaptive=True)
    train(straight)
    train(first)
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    resumed = make(seed=1, momentum=0.5, adaptive=True)
    resumed.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    train(straight)
    train(resumed)
    assert all(torch.equal(straight.state_dict()[name], values) for name, values in resumed.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        ClassWeights(CLASSES + 1, WIDTH, momentum=0.5, adaptive=True).load_state_dict(straight.state_dict())


def test_a_step_writes_only_the_rows_of_the_batch(tmp_path) -> None:
    # 1 GB of weights of which the file system holds only what was written.
    weights = ClassWeights(1_000_000, 256, std=0.0, path=tmp_path / "many")
    logits, columns = weights(torch.ones(3, 256), torch.tensor([5, 999_999, 500_000]))
    functional.cross_entropy(logits + torch.eye(3), columns).backward()
    weights.step()
    weights.flush()
    file = (tmp_path / "many" / "weight.npy").stat()
    assert file.st_size > 1_000_000_000
    assert file.st_blocks * 512 < 1_000_000
    assert sorted(weights.weight[[5, 999_999, 500_000]].abs().sum(1).bool().tolist()) == [True] * 3


def test_the_weights_stay_where_they_are_and_no_optimizer_sees_them() -> None:
    model = nn.ModuleDict({"head": make(), "body": nn.Linear(2, 2)})
    before = model["head"].weight.clone()
    model.to(torch.bfloat16).to("meta")
    assert torch.equal(model["head"].weight, before)
    assert [name for name, _ in model.named_parameters()] == ["body.weight", "body.bias"]


def test_half_precision_features() -> None:
    weights, h = make(), features(0).detach().bfloat16().requires_grad_()
    logits, columns = weights(h, LABELS[0])
    assert logits.dtype == torch.bfloat16
    before = weights.weight.clone()
    functional.cross_entropy(logits.float(), columns).backward()
    weights.step()
    assert weights.weight.dtype == torch.float32
    assert not torch.equal(weights.weight, before)
    assert h.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("chunk", [None, 1, 5, 12])
def test_evaluation_streams_over_all_classes(chunk) -> None:
    weights, h = make(), features(3).detach()
    dense = h @ weights.weight.T
    values, classes = weights.top(h, 3, chunk)
    torch.testing.assert_close(values, dense.topk(3).values)
    assert torch.equal(classes, dense.topk(3).indices)
    torch.testing.assert_close(
        weights.cross_entropy(h, LABELS[0], chunk), functional.cross_entropy(dense, LABELS[0], reduction="none")
    )
    assert [start for start, _ in weights.logits(h, 5)] == [0, 5, 10]


def test_evaluation_gives_out_no_leaf() -> None:
    weights = make()
    weights.eval()
    logits, columns = weights(features(0), LABELS[0])
    classes = torch.unique(LABELS[0])
    torch.testing.assert_close(logits, features(0) @ weights.weight[classes].T)
    assert torch.equal(classes[columns], LABELS[0])
    weights.train()
    with torch.no_grad():
        weights(features(0), LABELS[0])
    with pytest.raises(RuntimeError, match=r"`step\(\)` found no gradient: call `backward\(\)`"):
        weights.step()


def test_zero_grad_forgets_what_was_given_out() -> None:
    weights = make()
    logits, columns = weights(features(0), LABELS[0])
    functional.cross_entropy(logits, columns).backward()
    weights.zero_grad()
    expected = make()
    train(weights, range(1, 2))
    train(expected, range(1, 2))
    assert torch.equal(weights.weight, expected.weight)


def test_an_empty_batch() -> None:
    weights, loss = make(), ExtremeClassificationLoss(6)
    h = torch.zeros(0, WIDTH, requires_grad=True)
    logits, columns = weights(h, torch.zeros(0, dtype=torch.int64))
    value = loss(logits, columns, torch.zeros(0, dtype=torch.int64))
    value.backward()
    before = weights.weight.clone()
    weights.step()
    assert float(value.detach()) == 0.0
    assert torch.equal(weights.weight, before)


def test_errors(tmp_path) -> None:
    weights = make(path=tmp_path)
    for settings, message in (
        ({"num_classes": 0, "width": 2}, "`num_classes` and `width` must be at least 1. Found 0 and 2"),
        ({"num_classes": 2, "width": 2, "lr": 0.0}, "`lr` must be positive and finite. Found 0"),
        ({"num_classes": 2, "width": 2, "momentum": 1.0}, r"`momentum` must be in \[0, 1\). Found 1"),
        ({"num_classes": 2, "width": 2, "std": -1.0}, "`std` must be 0 or more, and finite. Found -1"),
        ({"num_classes": 2, "width": WIDTH, "path": tmp_path}, r"`path` holds weight.npy of shape \(12, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ClassWeights(**settings)
    with pytest.raises(ValueError, match=r"`features` must be \[B, 5\], the `width` of the weights. Found \(6, 4\)"):
        weights(torch.zeros(6, 4), LABELS[0])
    with pytest.raises(ValueError, match=r"`labels` must have one class for each row of `features`, shape \(2,\)"):
        weights(torch.zeros(2, 5), LABELS[0])
    with pytest.raises(IndexError, match=r"`labels` must lie in \[0, 12\), the number of classes. Found 12"):
        weights(features(0), LABELS[0] + 1)
    with pytest.raises(IndexError, match="Found -1"):
        weights.cross_entropy(features(0), LABELS[0] - 1)
    with pytest.raises(TypeError, match="`labels` must be an int64 tensor"):
        weights(features(0), LABELS[0].float())
    with pytest.raises(ValueError, match=r"`k` must be in \[1, 12\], the number of classes. Found 13"):
        weights.top(features(0), 13)
    with pytest.raises(ValueError, match=r"`chunk` must be at least 1. Found 0"):
        weights.top(features(0), chunk=0)
    path = tmp_path / "weight.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"`path` holds weight.npy, which is no whole .npy file"):
        make(path=tmp_path)
