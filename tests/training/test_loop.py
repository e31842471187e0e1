"""The loop is a plain PyTorch loop over the plan's rows: the same weights, bit by bit, and exact counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from guidestar.data.split import Split
from guidestar.errors import UserError
from guidestar.reference.live import LiveReference
from guidestar.training.batches import BatchPlan
from guidestar.training.checkpoint import list_checkpoints, load_checkpoint
from guidestar.training.failure import TrainingFailed
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.job import Job
from guidestar.training.loop import Training
from guidestar.training.prepare import load_source, reference_model, seed_data, target_model
from guidestar.training.runner import build_engine

SILENT: Any = lambda done, total, objective: None  # noqa: E731
DROPOUT = "{name: mlp, options: {hidden: [16], dropout: 0.2}}"


def make_job(loaded: Any, strategy: Any = "erm", folder: Path | None = None) -> Job:
    source = load_source(loaded)
    data = seed_data(loaded, source, 0)
    engine = build_engine(loaded.recipe, loaded.run_folder)
    reference = LiveReference(reference_model(loaded, source, 5))
    model = target_model(loaded, source, 0)
    return Job(loaded, strategy, 0, data, model, reference, 0, folder or loaded.run_folder / strategy, engine)


def trained(job: Job) -> Training:
    training = Training(job, resume=False)
    training.run(StopRequest(), SILENT)
    return training


def same(first: nn.Module, second: nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def by_hand(
    job: Job, loss_of: Any, optimizer: Any, batches: range, *, accumulate: int = 1, clip: Any = None
) -> nn.Module:
    """The loop that anybody would write."""
    model = target_model(job.loaded, load_source(job.loaded), 0).train()
    plan = BatchPlan(len(job.data.train), job.recipe.training.batch_size, 0)
    step_optimizer = optimizer(model)
    torch.manual_seed(0)
    for number in batches:
        inputs, labels, rows = job.data.train.__getitems__(plan.rows(number))
        (loss_of(model, inputs, labels, rows) / accumulate).backward()
        if (number + 1) % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            step_optimizer(number // accumulate)
    return model


def cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs), labels)


def sgd(rate: Any, momentum: float = 0.9, decay: float = 1e-4) -> Any:
    def make(model: nn.Module) -> Any:
        optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=momentum, weight_decay=decay)

        def step(number: int) -> None:
            optimizer.param_groups[0]["lr"] = rate(number)
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


CONSTANT = ("training.optimizer=sgd", "training.schedule=constant")


@pytest.mark.parametrize("model", ["{name: mlp, options: {hidden: [16]}}", DROPOUT])
def test_erm_is_the_plain_loop(load, model: str) -> None:
    job = make_job(load(*CONSTANT, f"model={model}", "training.steps=12"))
    assert same(trained(job).bare, by_hand(job, cross_entropy, sgd(lambda step: 0.01), range(12)))


def test_warm_up_and_cosine(load) -> None:
    job = make_job(load("training.optimizer=sgd", "training.steps=12", "training.warmup_steps=4"))

    def rate(step: int) -> float:
        return 0.01 * ((step + 1) / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / 8)))

    expected = by_hand(job, cross_entropy, sgd(rate), range(12))
    assert same(trained(job).bare, expected)


def test_accumulated_and_clipped(load) -> None:
    job = make_job(load(*CONSTANT, "training.steps=6", "training.accumulate=2", "training.clip_grad=0.5"))
    expected = by_hand(job, cross_entropy, sgd(lambda step: 0.01), range(12), accumulate=2, clip=0.5)
    training = trained(job)
    assert same(training.bare, expected)
    assert training.cost()["samples_trained"] == 6 * 2 * 16
    free = by_hand(job, cross_entropy, sgd(lambda step: 0.01), range(12), accumulate=2)
    assert not same(free, expected)  # the clipping was not idle


def test_steer_is_the_plain_loop_on_the_written_out_objective(load) -> None:
    job = make_job(load(*CONSTANT, "training.steps=12", "steer.risk={kind: kl, tau: 0.5, gamma: 1.0}"), "steer")
    reference = reference_model(job.loaded, load_source(job.loaded), 5).eval()

    def objective(model: nn.Module, inputs: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            own = functional.cross_entropy(reference(inputs), labels, reduction="none")
        rho = functional.cross_entropy(model(inputs), labels, reduction="none") - own
        return 0.5 * (torch.logsumexp(rho / 0.5, 0) - math.log(len(rho)))

    expected = by_hand(job, objective, sgd(lambda step: 0.01), range(12))
    for name, value in trained(job).bare.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=0, atol=1e-6)


def test_the_weights_of_the_last_epoch(load) -> None:
    # 7 batches a pass of 120 rows: steps 7 to 13 are the last epoch, with a rate of 0 so that the model stays put.
    job = make_job(
        load("training.steps=14", "training.lr=1e-30", "steer.risk={kind: kl, tau: 0.5, gamma: 1.0}"), "steer"
    )
    rows, weights, rho = trained(job).stepper.weights.mean()
    plan, expected, excess = BatchPlan(120, 16, 0), torch.full((120,), -1.0), torch.zeros(120)
    reference = reference_model(job.loaded, load_source(job.loaded), 5).eval()
    model = target_model(job.loaded, load_source(job.loaded), 0)
    for number in range(7, 14):
        batch = plan.rows(number)
        inputs, labels, _ = job.data.train.__getitems__(batch)
        with torch.no_grad():
            both = [functional.cross_entropy(m(inputs), labels, reduction="none") for m in (model, reference)]
        excess[batch] = both[0] - both[1]
        expected[batch] = torch.softmax((both[0] - both[1]) / 0.5, 0) * 16
    assert rows.tolist() == (expected >= 0).nonzero().flatten().tolist()
    assert len(rows) == 7 * 16
    torch.testing.assert_close(weights, expected[rows], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rho, excess[rows], rtol=1e-4, atol=1e-5)


def test_select_trains_on_the_top_of_the_candidates(load) -> None:
    job = make_job(load(*CONSTANT, "training.steps=3", "select.fraction=0.25"), "select")
    reference = reference_model(job.loaded, load_source(job.loaded), 5).eval()
    model = target_model(job.loaded, load_source(job.loaded), 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    plan = BatchPlan(120, 64, 0)
    for number in range(3):
        inputs, labels, _ = job.data.train.__getitems__(plan.rows(number))
        with torch.no_grad():
            both = [functional.cross_entropy(m(inputs), labels, reduction="none") for m in (model, reference)]
        top = sorted(range(64), key=lambda i: -float(both[0][i] - both[1][i]))[:16]
        functional.cross_entropy(model(inputs[top]), labels[top]).backward()
        optimizer.step()
        optimizer.zero_grad()
    training = trained(job)
    assert same(training.bare, model)
    assert training.cost() == {
        "seconds": training.cost()["seconds"],
        "samples_trained": 3 * 16.0,
        "forward_samples": 3 * (64 + 16.0),
        "reference_forward_samples": 3 * 64.0,
    }
    rows, weights, _ = training.stepper.weights.mean()
    assert set(weights.tolist()) <= {0.0, 2.0, 4.0}  # mean over visits: chosen (64 / 16) or not
    assert float((weights * training.stepper.weights.visits[rows]).sum()) == 3 * 64


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [("erm", 0), ("dro", 0), ("distill", 20 * 16), ("steer", 20 * 16), ("steer+distill", 20 * 16)],
)
def test_costs_are_exact(load, strategy: str, asked: int) -> None:
    cost = trained(make_job(load(), strategy)).cost()
    assert (cost["samples_trained"], cost["forward_samples"]) == (20 * 16, 20 * 16)
    assert cost["reference_forward_samples"] == asked


def test_pictures_keep_their_channels_last(load) -> None:
    job = make_job(load("model={name: cnn, options: {width: 4}}", "training.steps=1"))
    assert job.data.train.kind == "image"
    seen: list[bool] = []
    training = Training(job, resume=False)
    training.bare.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    training.run(StopRequest(), SILENT)
    assert seen[0]
    kernels = [value for value in training.bare.state_dict().values() if value.ndim == 4 and value.shape[2] > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_a_signal_ends_it_after_a_checkpoint_and_it_resumes_to_the_same(load, tmp_path: Path) -> None:
    options = ("steer.risk={kind: kl, gamma: 0.9}", f"model={DROPOUT}", "training.optimizer=sgd")
    straight = trained(make_job(load(*options), "steer", tmp_path / "straight"))
    request = StopRequest()

    def stop(done: int, total: int, objective: float | None) -> None:
        request.number = 15 if done == 7 else request.number

    job = make_job(load(*options), "steer", tmp_path / "stopped")
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM; continue with --resume \(.*step-00000008.pt\)"):
        Training(job, resume=False).run(request, stop)
    torch.rand(3)  # whatever happens in between
    resumed = Training(make_job(load(*options), "steer", tmp_path / "stopped"), resume=True)
    assert resumed.count.step == 8
    result = resumed.run(StopRequest(), SILENT)
    assert same(resumed.bare, straight.bare)
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.stepper.weights.mean(), straight.stepper.weights.mean(), strict=True)
    )
    again = Training(make_job(load(*options), "steer", tmp_path / "stopped"), resume=True).run(StopRequest(), SILENT)
    assert again == result  # there was nothing left to do


def test_a_checkpoint_of_something_else_is_refused(load) -> None:
    folder = load().run_folder / "x"
    trained(make_job(load(), "erm", folder))
    with pytest.raises(UserError, match=r"another recipe: training.lr: 0.01 in the checkpoint, 0.5 in the recipe"):
        Training(make_job(load("training.lr=0.5"), "erm", folder), resume=True)
    with pytest.raises(UserError, match=r"is a checkpoint of strategy erm, not of dro"):
        Training(make_job(load(), "dro", folder), resume=True)
    path = list_checkpoints(folder / "checkpoints")[-1]
    state = load_checkpoint(path)
    torch.save({**state, "random": state["random"].repeat(3, 1)}, path)
    with pytest.raises(UserError, match=r"was written by 3 processes and cannot be continued by 1"):
        Training(make_job(load(), "erm", folder), resume=True)
    torch.save({**state, "seed": 4}, path)
    with pytest.raises(UserError, match=r"is a checkpoint of seed 4, not of 0"):
        Training(make_job(load(), "erm", folder), resume=True)


class Spoiled:
    """A split in which some rows are NaN."""

    def __init__(self, split: Split, rows: list[int]) -> None:
        self._split, self._rows = split, rows

    def __len__(self) -> int:
        return len(self._split)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._split, name)

    def __getitems__(self, rows: list[int]) -> Any:
        inputs, labels, index = self._split.__getitems__(rows)
        spoilt = torch.isin(index, torch.tensor(self._rows)).view(-1, 1, 1, 1)
        return torch.where(spoilt, torch.nan, inputs), labels, index


def test_samples_with_a_nan_loss_are_named_and_the_good_checkpoint_is_kept(load) -> None:
    job = make_job(load("training.checkpoint_every=2"), "erm")
    plan = BatchPlan(120, 16, 0)
    seen = {row for number in range(4) for row in plan.rows(number)}
    bad = next(row for row in plan.rows(4) if row not in seen)
    object.__setattr__(job.data, "train", Spoiled(job.data.train, [bad]))
    key = job.data.train.keys([bad])[0]
    training = Training(job, resume=False)
    pattern = (
        rf"the loss of erm \(seed 0\) is nan at step 5; 1 of the 16 samples of the batch have such a loss: {key}; "
    )
    with pytest.raises(
        TrainingFailed, match=pattern + r"the last good checkpoint is .*step-00000004.pt\. Lower `training.lr`"
    ):
        training.run(StopRequest(), SILENT)
    saved = load_checkpoint(list_checkpoints(job.checkpoints)[-1])
    assert all(torch.equal(value, saved["parts"]["model"][name]) for name, value in training.bare.state_dict().items())


def test_weights_that_are_not_finite_push_out_no_checkpoint(load) -> None:
    job = make_job(load("training.keep_checkpoints=1", "training.checkpoint_every=1"), "erm")
    training = Training(job, resume=False)

    def spoil(done: int, total: int, objective: float | None) -> None:
        if done == 3:
            next(training.bare.parameters()).data.fill_(torch.inf)

    with pytest.raises(
        TrainingFailed, match=r"has weights that are NaN or infinite after step 3; the last good .*02.pt"
    ):
        training.run(StopRequest(), spoil)
    assert [path.name for path in list_checkpoints(job.checkpoints)] == ["step-00000002.pt"]


def test_a_model_that_cannot_be_evaluated(load) -> None:
    job = make_job(load("training.steps=7", "training.lr=1e30"), "erm")
    with pytest.raises(TrainingFailed, match=r"at step 2|cannot be evaluated after step"):
        trained(job)


def test_settings_that_do_not_fit(load) -> None:
    with pytest.raises(
        UserError, match=r"`training.warmup_steps` must be less than the number of steps, which is 7; found 9"
    ):
        Training(make_job(load("training.steps=null", "training.epochs=1", "training.warmup_steps=9")), resume=False)
