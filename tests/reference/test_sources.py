"""Reference values for the rows of a split: from a store, joined by key, or live."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference_toy import ToySplit, make_model
from torch import nn

from guidestar.errors import UserError
from guidestar.reference import LiveReference, Store, StoredReference

Score = Callable[..., Store]


@pytest.fixture
def store(score_toy: Score, model: nn.Module, split: ToySplit) -> Store:
    return score_toy(model, split)


def expected_logits(split: ToySplit) -> torch.Tensor:
    with torch.no_grad():
        return make_model().eval()(split.inputs)


def test_rows_of_keys(store: Store, split: ToySplit) -> None:
    assert store.rows_of(["sample-9", "sample-0", "sample-99"]).tolist() == [9, 0, 99]
    with pytest.raises(UserError, match=r"1 of 2 row keys are not in the reference store .* of 'train': 'sample-100'"):
        store.rows_of(["sample-1", "sample-100"])


def test_rows_of_a_half_written_store(make_store: Score) -> None:
    from guidestar.reference.keys import hash_keys

    with make_store(arrays={"key": ((), None)}) as store:
        store.write(0, key=hash_keys([str(row) for row in range(8)]))
        assert store.rows_of(["7"]).tolist() == [7]
        with pytest.raises(UserError, match=r"only 8 of its 20 rows are written\): '9'"):
            store.rows_of(["7", "9"])


def test_rows_of_a_store_without_keys(make_store: Score) -> None:
    with make_store() as store, pytest.raises(UserError, match="has no array `key`"):
        store.rows_of(["7"])


def test_losses_for_labels_as_they_are_now(store: Store, split: ToySplit) -> None:
    rows = torch.tensor([3, 50, 7, 99])
    labels = split.labels[rows]
    assert torch.equal(store.losses_for(rows, labels), store[rows]["loss"])
    labels[1] = (labels[1] + 1) % 3
    found = store.losses_for(rows, labels)
    assert torch.equal(found[[0, 2, 3]], store[[3, 7, 99]]["loss"])
    wanted = F.cross_entropy(expected_logits(split)[rows].double(), labels, reduction="none")
    assert torch.allclose(found.double(), wanted, atol=2e-3)
    assert abs(found[1] - store[50]["loss"]) > 1e-2


def test_losses_for_without_stored_losses(make_store: Score) -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    with make_store(rows=2, arrays={"logits": ((3,), None), "label": ((), None)}) as store:
        store.write(0, logits=logits, label=torch.tensor([0, 0]))
    found = store.losses_for([1, 0], torch.tensor([2, 0]))
    assert torch.allclose(found, F.cross_entropy(logits[[1, 0]], torch.tensor([2, 0]), reduction="none"))


def test_losses_for_changed_labels_needs_logits(score_toy: Score, model: nn.Module, split: ToySplit) -> None:
    store = score_toy(model, split, arrays=("loss",))
    changed = split.labels.clone()
    changed[4] = (changed[4] + 1) % 3
    assert torch.equal(store.losses_for([3], changed[3:4]), store[[3]]["loss"])
    with pytest.raises(UserError, match=r"labels of rows 4 .* are not those that were scored, .* holds no logits"):
        store.losses_for([3, 4], changed[3:5])
    with pytest.raises(UserError, match="labels of rows 4 "):
        StoredReference(store, split.with_labels(changed))


def test_losses_for_wrong_labels(store: Store) -> None:
    with pytest.raises(UserError, match="`labels` must be between 0 and 2, found 3 to 3"):
        store.losses_for([0], torch.tensor([3]))
    with pytest.raises(UserError, match=r"`labels` must have the shape of `index`, \(2,\), found \(1,\)"):
        store.losses_for([0, 1], torch.tensor([0]))


def test_the_scored_split_itself(store: Store, split: ToySplit) -> None:
    reference = StoredReference(store, split)
    rows = torch.tensor([8, 2])
    assert torch.equal(reference.losses(rows, None, split.labels[rows]), store[rows]["loss"])
    assert torch.equal(reference.logits(rows), store[rows]["logits"])
    assert reference.forward_samples == 0


def test_a_subset_in_another_order_with_noisy_labels(store: Store, split: ToySplit) -> None:
    part = split.subset([70, 3, 41, 99, 12])
    noisy = part.labels.clone()
    noisy[2] = (noisy[2] + 1) % 3
    reference = StoredReference(store, part.with_labels(noisy))
    rows = torch.tensor([4, 2, 0])
    found = reference.losses(rows, None, noisy[rows])
    wanted = F.cross_entropy(expected_logits(split)[[12, 41, 70]], noisy[rows], reduction="none")
    assert torch.allclose(found, wanted, atol=2e-3)
    assert torch.allclose(reference.logits(rows), expected_logits(split)[[12, 41, 70]], atol=1e-3)
    losses, logits = reference.losses_and_logits(rows, None, noisy[rows])
    assert torch.equal(losses, found)
    assert torch.equal(logits, reference.logits(rows))


def test_a_join_by_position_would_be_wrong(store: Store, split: ToySplit) -> None:
    flipped = split.subset(list(range(99, -1, -1)))
    rows = torch.arange(100)
    losses = StoredReference(store, flipped).losses(rows, None, flipped.labels)
    assert torch.equal(losses, store[:]["loss"].flip(0))


def test_other_data_with_the_same_keys(store: Store) -> None:
    with pytest.raises(UserError, match=r"row keys of 'train' are in .*, but the inputs differ in .* of 64 rows"):
        StoredReference(store, ToySplit(seed=7))


def test_data_with_other_keys(store: Store, split: ToySplit) -> None:
    part = split.subset([1, 2, 3])
    part.names = ["sample-1", "other-1", "other-2"]
    with pytest.raises(UserError, match=r"2 of 3 row keys are not in .*: 'other-1', 'other-2'"):
        StoredReference(store, part)


def test_another_number_of_classes(store: Store) -> None:
    with pytest.raises(UserError, match="`classes`: the store has 3, expected 4"):
        StoredReference(store, ToySplit(num_classes=4))


def test_the_same_fingerprint_with_another_number_of_rows(store: Store, split: ToySplit) -> None:
    part = split.subset([1, 2])
    part.fingerprint = split.fingerprint  # type: ignore[method-assign]
    with pytest.raises(UserError, match="`rows`: the store has 100, expected 2"):
        StoredReference(store, part)


def test_a_half_written_store(score_toy: Score, model: nn.Module, split: ToySplit, tmp_path: Path) -> None:
    score_toy(model, split, rank=0, world=2)
    store = Store.open(tmp_path / "store")
    with pytest.raises(UserError, match=r"48 of 100 rows are missing \(the first: 16, 17"):
        StoredReference(store, split)
    # The rows that are needed are there.
    part = split.subset([0, 35])
    assert StoredReference(store, part).losses(torch.tensor([1]), None, part.labels[1:]).shape == (1,)


def test_labels_that_are_not_the_splits(store: Store, split: ToySplit) -> None:
    reference = StoredReference(store, split)
    rows = torch.tensor([8, 2])
    wrong = (split.labels[rows] + 1) % 3
    with pytest.raises(UserError, match=r"rows 8, 2 differ\. Join the reference to `split.with_labels"):
        reference.losses(rows, None, wrong)


def test_rows_out_of_range_of_the_split(store: Store, split: ToySplit) -> None:
    reference = StoredReference(store, split.subset([5, 6]))
    with pytest.raises(IndexError, match="`index` must be between 0 and 1, found rows 2"):
        reference.losses(torch.tensor([2]), None, torch.tensor([0]))
    with pytest.raises(IndexError, match="`index` must be between 0 and 1, found rows -1"):
        reference.logits(torch.tensor([-1]))


def test_stored_and_live_agree_to_the_stored_types(store: Store, split: ToySplit, model: nn.Module) -> None:
    stored, live = StoredReference(store, split), LiveReference(model)
    rows = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:40]
    inputs, labels, _ = split.__getitems__(rows.tolist())
    # float32: what differs is the size of the batch. float16: half a unit in the last of 11 bits.
    assert torch.allclose(stored.losses(rows, inputs, labels), live.losses(rows, inputs, labels), rtol=1e-6, atol=1e-6)
    assert torch.allclose(stored.logits(rows, inputs), live.logits(rows, inputs), rtol=2**-11, atol=1e-6)
    noisy = split.with_labels((split.labels + 1) % 3)
    stored = StoredReference(store, noisy)
    found, wanted = stored.losses(rows, inputs, noisy.labels[rows]), live.losses(rows, inputs, noisy.labels[rows])
    assert torch.allclose(found, wanted, atol=float(live.logits(rows, inputs).abs().max()) * 2**-10)


def test_live_is_a_frozen_copy(split: ToySplit, model: nn.Module) -> None:
    model.train()
    reference = LiveReference(model)
    inputs, labels, rows = split.__getitems__([1, 2, 3])
    before = reference.logits(rows, inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(reference.logits(rows, inputs), before)
    assert not before.requires_grad
    assert model.training
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())
    # The values can be constants in a graph that is differentiated.
    weight = torch.ones(3, requires_grad=True)
    (weight * reference.losses(rows, inputs, labels)).sum().backward()
    assert torch.equal(weight.grad, reference.losses(rows, inputs, labels))


def test_live_counts_what_it_forwards(split: ToySplit, model: nn.Module) -> None:
    reference = LiveReference(model)
    inputs, labels, rows = split.__getitems__([1, 2, 3])
    losses, logits = reference.losses_and_logits(rows, inputs, labels)
    assert reference.forward_samples == 3
    assert torch.equal(losses, F.cross_entropy(logits, labels, reduction="none"))
    assert torch.equal(reference.losses(rows, inputs, labels), losses)
    assert reference.forward_samples == 6


def test_live_has_a_precision_of_its_own(split: ToySplit, model: nn.Module) -> None:
    inputs, _, rows = split.__getitems__([1, 2, 3])
    exact = LiveReference(model).logits(rows, inputs)
    half = LiveReference(model, "bf16").logits(rows, inputs)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    assert torch.allclose(half, exact, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LiveReference(model).logits(rows, inputs), exact)
    with pytest.raises(UserError, match="`precision` must be one of fp32, bf16, found 'fp64'"):
        LiveReference(model, "fp64")
