"""Contrastive training: the plain loop bit by bit, chunks, averages, freezing, selection, costs and failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from guidestar.data.pairs.batches import PairDataset
from guidestar.data.pairs.plan import ShardPlan
from guidestar.losses.clip import CLIPLoss
from guidestar.reference.embeddings import LiveEmbeddings
from guidestar.training.checkpoint import list_checkpoints
from guidestar.training.failure import TrainingFailed
from guidestar.training.interrupt import Interrupted, StopRequest
from guidestar.training.job import Job
from guidestar.training.loop import Training
from guidestar.training.pair_failure import check_temperature
from guidestar.training.pair_stepper import _token_hash
from guidestar.training.pair_task import PairTask
from guidestar.training.runner import build_engine

SILENT: Any = lambda done, total, objective: None  # noqa: E731


def make_job(loaded: Any, strategy: str = "erm", folder: Path | None = None) -> Job:
    engine = build_engine(loaded.recipe, loaded.run_folder)
    task = PairTask(loaded, engine, loaded.run_folder)
    data = task.seed_data(0)
    reference = LiveEmbeddings(task.reference(5), data.train)
    model = task.target(strategy, 0, lambda: task.reference(5))
    return Job(loaded, strategy, 0, data, model, reference, 0, folder or loaded.run_folder / strategy, engine)


def trained(job: Job) -> Training:
    training = Training(job, resume=False)
    training.run(StopRequest(), SILENT)
    return training


def distance(first: nn.Module, second: nn.Module) -> float:
    left, right = first.state_dict(), second.state_dict()
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


def test_erm_is_the_plain_loop(load_pairs_recipe) -> None:
    job = make_job(load_pairs_recipe("training.optimizer=sgd", "training.schedule=constant", "training.steps=9"))
    task = PairTask(job.loaded, job.accelerator, job.loaded.run_folder)
    model = task.target("erm", 0, lambda: task.reference(5)).train()
    model = model.to(memory_format=torch.channels_last)
    plan = ShardPlan(job.data.train.blocks(), 16, 0)
    dataset = PairDataset(job.data.train, size=8, tokenizer=model.tokenizer, seed=0)
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, 0.01, momentum=0.9, weight_decay=1e-4)
    for number in range(9):
        batch = dataset.__getitems__((number, plan.rows(number)))
        image, text = model(batch.images.contiguous(memory_format=torch.channels_last), batch.tokens)
        CLIPLoss()(image, text, tau=1 / model.scale()).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.clamp_scale()
    assert distance(trained(job).bare, model) == 0.0


@pytest.mark.parametrize("strategy", ["erm", "steer", "fastclip", "steer+distill"])
def test_chunks_train_as_the_whole_batch(load_pairs_recipe, tmp_path: Path, strategy: str) -> None:
    options = ("training.optimizer=sgd", "training.accumulate=2", "training.steps=3")
    whole = trained(make_job(load_pairs_recipe(*options), strategy, tmp_path / "whole"))
    job = make_job(load_pairs_recipe(*options, "training.chunk=5"), strategy, tmp_path / "chunks")
    chunks = trained(job)
    assert distance(whole.bare, chunks.bare) < 1e-5
    assert whole.cost()["samples_trained"] == chunks.cost()["samples_trained"] == 3 * 2 * 16
    assert chunks.cost()["forward_samples"] == 2 * whole.cost()["forward_samples"]


def test_the_average_of_the_weights_is_what_is_evaluated(load_pairs_recipe) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    job = make_job(load_pairs_recipe("training.ema=0.7", "training.steps=5"))
    training = Training(job, resume=False)

    def keep(done: int, total: int, objective: float | None) -> None:
        seen.append({name: p.detach().clone() for name, p in training.bare.named_parameters()})

    training.run(StopRequest(), keep)
    expected = seen[0]
    for weights in seen[1:]:
        expected = {name: 0.7 * expected[name] + 0.3 * weights[name] for name in expected}
    result = dict(training.stepper.result().named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-5, atol=1e-6)
    assert distance(training.stepper.result(), training.bare) > 1e-4


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_stays_as_it_was(load_pairs_recipe, tower: str) -> None:
    job = make_job(load_pairs_recipe(f"training.freeze={tower}"))
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    after = trained(job).bare.state_dict()
    other = "text" if tower == "image" else "image"
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith(f"{tower}_tower."))
    assert not all(torch.equal(before[n], after[n]) for n in before if n.startswith(f"{other}_tower."))


def test_checkpointed_gradients_are_the_same(load_pairs_recipe, tmp_path: Path) -> None:
    plain = trained(make_job(load_pairs_recipe(), "erm", tmp_path / "a"))
    again = trained(make_job(load_pairs_recipe("training.checkpoint_gradients=true"), "erm", tmp_path / "b"))
    assert distance(plain.bare, again.bare) < 1e-6


@pytest.mark.parametrize(
    ("strategy", "forward", "asked"),
    [
        ("erm", 16, 0),
        ("dro", 16, 0),
        ("siglip", 16, 0),
        ("steer", 16, 16),
        ("select", 32 + 16, 32),
        ("jest", 64 + 16, 64),
    ],
)
def test_costs_are_exact(load_pairs_recipe, strategy: str, forward: int, asked: int) -> None:
    training = trained(make_job(load_pairs_recipe("select.fraction=0.5", "training.steps=2"), strategy))
    cost = training.cost()
    assert cost["samples_trained"] == 2 * 16
    assert cost["forward_samples"] == 2 * forward
    assert cost["reference_forward_samples"] == 2 * asked


def test_a_signal_ends_it_after_a_checkpoint_and_it_resumes_to_the_same(load_pairs_recipe, tmp_path: Path) -> None:
    options = ("training.ema=0.9", "data.crop=random", "data.flip=true", "training.chunk=8")
    contrast = "objective.contrast.temperature={kind: learnt, rho: 2.0, shared: none, gamma: 0.8, lr: 0.01}"
    straight = trained(make_job(load_pairs_recipe(*options, contrast), "steer", tmp_path / "straight"))
    request = StopRequest()

    def stop(done: int, total: int, objective: float | None) -> None:
        request.number = 15 if done == 4 else request.number

    training = Training(make_job(load_pairs_recipe(*options, contrast), "steer", tmp_path / "stopped"), resume=False)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM; continue with --resume \(.*step-00000005.pt\)"):
        training.run(request, stop)
    torch.rand(3)
    resumed = Training(make_job(load_pairs_recipe(*options, contrast), "steer", tmp_path / "stopped"), resume=True)
    assert resumed.count.step == 5
    resumed.run(StopRequest(), SILENT)
    assert distance(resumed.bare, straight.bare) == 0.0
    assert distance(resumed.stepper.result(), straight.stepper.result()) == 0.0
    assert distance(resumed.objective, straight.objective) == 0.0


def test_a_loss_that_is_not_finite_names_pairs_and_tau_and_keeps_the_good_checkpoint(load_pairs_recipe) -> None:
    job = make_job(load_pairs_recipe("training.checkpoint_every=2"))
    training = Training(job, resume=False)

    def spoil(done: int, total: int, objective: float | None) -> None:
        if done == 3:
            training.bare.get_parameter("image_tower.projection.weight").data.fill_(torch.nan)

    with pytest.raises(
        TrainingFailed, match=r"the loss of erm \(seed 0\) is nan at step 4; 16 of the 16 pairs .*pair-"
    ) as e:
        training.run(StopRequest(), spoil)
    assert "the model's tau is 0.07" in str(e.value)
    assert "step-00000002.pt" in str(e.value)
    assert [path.name for path in list_checkpoints(job.checkpoints)] == ["step-00000002.pt"]


def test_a_temperature_that_explodes_is_not_saved(load_pairs_recipe) -> None:
    job = make_job(load_pairs_recipe("training.checkpoint_every=2"))
    training = Training(job, resume=False)

    def spoil(done: int, total: int, objective: float | None) -> None:
        if done == 3:
            training.bare.get_parameter("log_scale").data.fill_(-9.0)

    with pytest.raises(TrainingFailed, match=r"the model's tau has exploded in erm \(seed 0\): it is .* after step 4"):
        training.run(StopRequest(), spoil)
    assert [path.name for path in list_checkpoints(job.checkpoints)] == ["step-00000002.pt"]


def test_a_temperature_that_collapses_or_is_no_number(load_pairs_recipe) -> None:
    job = make_job(load_pairs_recipe())
    check_temperature(job, 1, {"the model's tau": 0.01})
    with pytest.raises(
        TrainingFailed, match=r"tau has collapsed in erm .*it is 1e-06 after step 7.*Lower `training.lr`"
    ):
        check_temperature(job, 7, {"tau": 1e-6})
    with pytest.raises(TrainingFailed, match="tau is not finite"):
        check_temperature(job, 7, {"tau": float("nan")})


def test_a_learnt_temperature_of_the_objective_becomes_the_models(load_pairs_recipe) -> None:
    learnt = "objective.contrast.temperature={kind: learnt, rho: 2.0, lr: 0.01}"
    training = trained(make_job(load_pairs_recipe(learnt), "steer"))
    found = [value for name, value in training.objective.metrics().items() if "tau" in name]
    own = sum(found) / len(found)
    assert float(training.bare.get_parameter("log_scale").neg().exp()) == pytest.approx(own, rel=1e-5)
    assert own != pytest.approx(0.05, rel=1e-3)


def test_groups_of_captions_do_not_depend_on_the_padding() -> None:
    tokens = torch.tensor([[2, 7, 9, 1, 0, 0], [2, 9, 7, 1, 0, 0], [2, 7, 9, 1, 0, 0], [2, 7, 1, 0, 0, 0]])
    found = _token_hash(tokens, 0)
    assert found[0] == found[2]
    assert len(set(found.tolist())) == 3
    assert torch.equal(_token_hash(tokens[:, :4], 0), found)


@pytest.mark.parametrize("kind", ["label", "caption"])
def test_groups_change_the_training(load_pairs_recipe, tmp_path: Path, kind: str) -> None:
    plain = trained(make_job(load_pairs_recipe("data.captions=first"), "erm", tmp_path / "a"))
    grouped = make_job(load_pairs_recipe("data.captions=first", f"data.groups={kind}"), "erm", tmp_path / "b")
    assert distance(plain.bare, trained(grouped).bare) > 1e-4
