"""Scoring a split with a model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_toy import ToySplit, make_model
from torch import nn

from guidestar.errors import UserError
from guidestar.reference import Store
from guidestar.reference.keys import hash_keys

Score = Callable[..., Store]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_losses_are_cross_entropy_in_closed_form(score_toy: Score) -> None:
    split = ToySplit(3, features=3)
    split.inputs = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 4.0], [5.0, 0.0, 0.0]])
    split.labels = torch.tensor([1, 2, 1])
    store = score_toy(nn.Identity(), split)
    e = np.exp
    expected = [np.log(3), -np.log(e(4.0) / (e(1.0) + e(2.0) + e(4.0))), -np.log(1 / (e(5.0) + 2))]
    np.testing.assert_allclose(store[:]["loss"].double().numpy(), expected, rtol=1e-6)
    assert torch.equal(store[:]["logits"], split.inputs)
    assert store[:]["label"].tolist() == [1, 2, 1]
    assert store[:]["label"].dtype == torch.int64


def test_every_row_is_scored_once_whatever_the_batch(score_toy: Score, model: nn.Module, split: ToySplit) -> None:
    store = score_toy(model, split)
    store.require_complete()
    model.eval()
    with torch.no_grad():
        logits = model(split.inputs)
    assert torch.allclose(store[:]["loss"], F.cross_entropy(logits, split.labels, reduction="none"), atol=1e-6)
    assert torch.allclose(store[:]["logits"], logits, atol=1e-3)
    assert store.read("key", slice(None), dtype=None).numpy().tolist() == hash_keys(split.names).tolist()
    assert torch.allclose(store.read("input_mean", slice(None)), split.inputs.mean(dim=1))


def test_the_store_says_what_it_is(score_toy: Score, model: nn.Module, split: ToySplit) -> None:
    store = score_toy(model, split, preprocessing={"mean": [0.5]}, command="guidestar score r.yaml")
    expect = {"rows": 100, "classes": 3, "dataset": split.fingerprint(), "weights": "w0", "kind": "classification"}
    Store.open(store.path, expect=expect)
    assert store.meta.preprocessing == {"mean": [0.5], "precision": "fp32"}
    assert store.meta.command == "guidestar score r.yaml"


def test_training_flags_and_the_global_generator_are_left_as_found(
    score_toy: Score, model: nn.Module, split: ToySplit
) -> None:
    model.train()
    model[0].eval()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    score_toy(model, split)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == [True, False, True, True, True]


def test_precision_bf16_is_autocast_and_losses_stay_float32(score_toy: Score, split: ToySplit) -> None:
    seen: list[torch.dtype] = []

    class Spy(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            out = super().forward(inputs)
            seen.append(out.dtype)
            return out

    store = score_toy(Spy(4, 3), split, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    assert store.read("loss", 0, dtype=None).dtype == torch.float32
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        score_toy(Spy(4, 3), split, store.path.parent / "plain")
    assert set(seen) == {torch.float32}


def test_losses_only_and_other_types(score_toy: Score, model: nn.Module, split: ToySplit, tmp_path: Path) -> None:
    store = score_toy(model, split, arrays=("loss",))
    assert set(store[:]) == {"loss", "label"}
    store = score_toy(model, split, tmp_path / "wide", arrays={"loss": None, "logits": "float32"})
    assert store.read("logits", 0, dtype=None).dtype == torch.float32


def test_logits_that_overflow_float16(score_toy: Score, split: ToySplit, tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    nn.init.constant_(model.weight, 0.0)
    nn.init.constant_(model.bias, 1e5)
    with pytest.raises(
        UserError, match=r"`logits` is too large for float16 .* rows 0, 1, .* Store `logits` as float32"
    ):
        score_toy(model, split)
    score_toy(model, split, tmp_path / "wide", arrays={"loss": None, "logits": "float32"}).require_complete()


def test_nan_losses_name_their_rows_and_keep_the_blocks_before(
    score_toy: Score, model: nn.Module, split: ToySplit, tmp_path: Path
) -> None:
    split.inputs[37] = torch.nan
    with pytest.raises(UserError, match="`loss` is NaN for rows 37:"):
        score_toy(model, split)
    assert np.flatnonzero(Store.open(tmp_path / "store").validity()).tolist() == list(range(32))


def test_resume_scores_only_what_is_missing(
    score_toy: Score, model: nn.Module, split: ToySplit, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(rows: int) -> None:
        if rows >= 48:
            raise Stop

    whole = files_of(score_toy(model, split, tmp_path / "whole").path)
    with pytest.raises(Stop):
        score_toy(model, split, on_block=stop)
    assert Store.open(tmp_path / "store").count_valid() == 48
    scored: list[int] = []
    store = score_toy(model, split, on_block=scored.append)
    assert scored == [16, 32, 48, 52]
    assert files_of(store.path) == whole
    assert score_toy(model, split, on_block=scored.append).count_valid() == 100
    assert scored == [16, 32, 48, 52]


def test_ranks_write_disjoint_blocks(score_toy: Score, model: nn.Module, split: ToySplit, tmp_path: Path) -> None:
    whole = files_of(score_toy(model, split, tmp_path / "whole").path)
    first = score_toy(model, split, rank=0, world=3).validity()
    assert np.flatnonzero(first).tolist() == [*range(0, 16), *range(48, 64), *range(96, 100)]
    score_toy(model, split, rank=2, world=3)
    store = score_toy(model, split, rank=1, world=3)
    assert files_of(store.path) == whole


def test_a_rank_without_a_block_has_nothing_to_do(score_toy: Score, model: nn.Module, split: ToySplit) -> None:
    assert score_toy(model, split, rank=40, world=41).count_valid() == 0


def test_data_loading_processes_give_the_same(
    score_toy: Score, model: nn.Module, split: ToySplit, tmp_path: Path
) -> None:
    whole = files_of(score_toy(model, split, tmp_path / "whole").path)
    assert files_of(score_toy(model, split, workers=1).path) == whole


def test_an_open_store_can_be_filled(score_toy: Score, model: nn.Module, split: ToySplit, make_store: Score) -> None:
    dataset = {"name": "train", "fingerprint": split.fingerprint(), "classes": 3}
    store = make_store(rows=100, dataset=dataset)
    assert score_toy(model, split, store) is store
    store.require_complete()
    assert set(store[0]) == {"loss", "logits"}
    message = "was not made for this:\n  `weights`: the store has w0, expected w9"
    with make_store(rows=100, dataset=dataset) as store, pytest.raises(UserError, match=message):
        score_toy(model, split, store, weights_hash="w9")


def test_a_store_for_other_data_or_weights(score_toy: Score, model: nn.Module, split: ToySplit) -> None:
    score_toy(model, split)
    with pytest.raises(UserError, match=r"was made differently:\n  `reference.weights`: the store has w0, expected w1"):
        score_toy(model, split, weights_hash="w1")
    with pytest.raises(UserError, match=r"`dataset\.fingerprint`: the store has"):
        score_toy(model, ToySplit(seed=1))


def test_a_model_with_another_number_of_classes(score_toy: Score, split: ToySplit, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reference model has 7 outputs, but `split` 'train' has 3 classes"):
        score_toy(make_model(num_classes=7), split)
    with pytest.raises(UserError, match=r"has outputs of shape \(1, 2, 2\) for one row"):
        score_toy(nn.Unflatten(1, (2, 2)), split)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range(score_toy: Score, model: nn.Module, split: ToySplit, label: int) -> None:
    split.labels[41] = label
    message = rf"must be between 0 and 2; 1 are not, the first is {label} in row 41 \(key 'sample-41'\)"
    with pytest.raises(UserError, match=message):
        score_toy(model, split)


def test_a_split_that_gives_other_rows(score_toy: Score, model: nn.Module) -> None:
    class Skipping(ToySplit):
        def __getitems__(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return super().__getitems__([row for row in rows if row != 7])

    with pytest.raises(UserError, match="was asked for the rows 5, 6, 7, 8, 9 and gave 5, 6, 8, 9"):
        score_toy(model, Skipping())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, found 0"),
        ({"rank": 2, "world": 2}, "`rank` must be between 0 and `world` - 1, found rank 2 of world 2"),
        ({"precision": "fp8"}, "`precision` must be one of fp32, bf16, found 'fp8'"),
        ({"arrays": ("logits",)}, '`arrays` must be "loss", or "loss" and "logits"; found logits'),
        ({"arrays": ("loss", "text")}, '`arrays` must be "loss", or "loss" and "logits"; found loss, text'),
        ({"block": 10}, "`block` must be a positive multiple of 8"),
    ],
)
def test_wrong_arguments(
    score_toy: Score, model: nn.Module, split: ToySplit, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        score_toy(model, split, **change)


def test_an_empty_split(score_toy: Score, model: nn.Module) -> None:
    with pytest.raises(UserError, match="`split` 'train' is empty"):
        score_toy(model, ToySplit(0))


def test_the_progress_bar_goes_to_stderr(
    score_toy: Score, model: nn.Module, split: ToySplit, capsys: pytest.CaptureFixture[str]
) -> None:
    score_toy(model, split, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "100/100" in captured.err
    assert "rows/s" in captured.err
