"""One tiny training of each kind, on data made here: each learns, and the tasks' parts fit together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts.objectives import adult, films, groups, lists, longtail, movielens, omniglot, spectral

from guidestar.risks import spectra


def made_lists(queries: int, seed: int) -> lists.Lists:
    """Lists of 3 to 8 documents whose relevance is the sign of their first feature."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 9, queries).tolist()
    x = generator.standard_normal((sum(sizes), 4)).astype(np.float32)
    return lists.Lists.of(x, 2.0 * (x[:, 0] > 0).astype(np.float32), sizes)


@pytest.mark.parametrize("name", ["pointwise", "listwise", "song", "listwise_song", "ksong_rank", "ksong_threshold"])
def test_lists_are_learnt(name: str) -> None:
    task = lists.Task(made_lists(60, 0), made_lists(20, 1), made_lists(20, 2))
    chance = task.test.metrics(torch.randn(task.test.mask.shape))["ndcg"]
    result = lists.STUDY.methods[name].fit(task, 0.01, 0)
    assert result["test"]["ndcg"] > 0.95 > chance
    assert set(result["test"]) == set(lists.METRICS)


@pytest.mark.parametrize("name", ["pointwise", "bpr", "listwise", "song", "song_stratified", "ksong_rank"])
def test_films_of_two_kinds_are_told_apart(name: str) -> None:
    """Users like the first or the second half of the films; what is held out is of the same half."""
    generator = torch.Generator().manual_seed(0)
    likes = torch.arange(80).unsqueeze(1) % 2 == (torch.arange(120) >= 60).long().unsqueeze(0)
    draws = torch.rand(80, 120, generator=generator)
    train = torch.where(likes & (draws < 0.4), 4.0, 0.0)
    valid, test = (torch.where(likes & (draws >= low) & (draws < low + 0.2), 4.0, 0.0) for low in (0.4, 0.6))
    task = movielens.Task(train, valid, test)
    method = movielens.STUDY.methods[name]
    assert isinstance(method, movielens.Trained)
    result = method.fit(task, 0.03, 0, steps=80)
    chance = task.judge(torch.randn(80, 120, generator=generator))["test"]["ndcg10"]
    assert result["test"]["ndcg10"] > 1.5 * chance


def rotten(rows: int, seed: int) -> adult.Part:
    """Labels follow the first feature in the groups 0 and 3 and oppose it in the small groups 1 and 2."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator)
    y = (torch.randn(rows, generator=generator) > 0).float()
    rare = torch.rand(rows, generator=generator) < 0.06
    x[:, 0] = torch.where(rare, -1.0, 1.0) * (2 * y - 1) + 0.3 * x[:, 0]
    x[:, 1] = torch.where(rare, 1.5, 0.3) * (2 * y - 1) + x[:, 1]
    group = torch.where(rare, 1 + y.long(), 3 * y.long())
    return adult.Part(x, y, group)


@pytest.mark.parametrize("name", ["online", "primal_dual", "sonx", "sonex", "alexr", "risk"])
def test_losses_of_groups_raise_the_worst_group(name: str) -> None:
    task = adult.Task(rotten(2000, 0), rotten(500, 1), rotten(1000, 2), steps=120)
    methods = adult.STUDY.methods
    plain = methods["erm"].fit(task, 0.004, 0)["test"]
    found = methods[name].fit(task, methods[name].settings[-1], 0)
    assert found["test"]["worst"] > plain["worst"] + 0.1
    assert found["curve"]["steps"] == [0, 50, 100]


def test_jacobian_descent_raises_the_worst_group() -> None:
    pytest.importorskip("quadprog")
    task = adult.Task(rotten(2000, 0), rotten(500, 1), rotten(1000, 2), steps=100)
    plain, found = (adult.STUDY.methods[name].fit(task, 0.016, 0)["test"]["worst"] for name in ("erm", "upgrad"))
    assert found > plain + 0.1


def test_the_regulariser_is_part_of_every_objective() -> None:
    task = adult.Task(rotten(500, 0), rotten(100, 1), rotten(100, 2), steps=60)
    method = groups.Trained(lambda task: groups.Average())
    free, held = (method.fit(dataclasses.replace(task, l2=l2), 0.01, 0)["test"]["worst_loss"] for l2 in (0.0, 10.0))
    assert held == pytest.approx(np.log(2.0), abs=0.05)  # the weights are pulled to zero
    assert abs(free - np.log(2.0)) > 0.1


def test_worst_mean_counts_a_fraction_of_the_group_at_the_boundary() -> None:
    losses, group = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 2])
    assert films.worst_mean(losses, group, 0.5) == pytest.approx((3.0 + 0.5 * 2.0) / 1.5)


def clusters(seed: int) -> omniglot.Part:
    """40 classes on the unit sphere, 10 samples of each."""
    centres = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(9)), dim=1)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randperm(400, generator=generator) % 40
    return omniglot.Part(omniglot.SCALE * centres[y] + 0.3 * torch.randn(400, 16, generator=generator), y)


@pytest.mark.parametrize("name", list(omniglot.TITLES))
def test_classifiers_of_many_classes_learn(name: str) -> None:
    task = omniglot.Task(clusters(0), clusters(1), clusters(2), classes=40)
    method = omniglot.STUDY.methods[name]
    assert isinstance(method, omniglot.Trained)
    result = method.fit(task, 3.0, 0, epochs=12)
    assert result["test"]["accuracy"] > 0.9
    assert result["curve"]["values"][-1] < 0.5 * result["curve"]["values"][0]


def regression() -> spectral.Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 3, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + x[:, 0].abs() ** 3 / 3
    return spectral.Task(x, y, spectra.superquantile(0.5))


def test_prospect_reaches_the_optimum_and_small_batches_do_not() -> None:
    task = regression()
    start, low = task.bounds
    assert low < start
    exact = spectral.Reduced(8).fit(task, 0.1, 0, passes=30)["test"]["suboptimality"]
    biased = spectral.Descent(8).fit(task, 0.1, 0, passes=30)["test"]["suboptimality"]
    assert exact < 1e-6 < 1e-4 < biased


@pytest.mark.parametrize("name", list(longtail.TITLES))
def test_losses_for_a_long_tail_learn(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([200, 140, 100, 70, 50, 36, 26, 18, 13, 10])
    centres = 3.0 * torch.randn(10, 12, generator=generator)
    labels = [torch.repeat_interleave(torch.arange(10), n) for n in (counts, torch.full((10,), 20))]
    train, test = (longtail.Part(centres[y] + torch.randn(len(y), 12, generator=generator), y) for y in labels)
    method = longtail.STUDY.methods[name]
    assert isinstance(method, longtail.Trained)
    result = method.fit(longtail.Task(train, test, test, torch.arange(10)), 0.01 if method.rate is None else 2.0, 0)
    assert result["test"]["balanced"] > 0.8


def test_the_data_sets_are_split_as_they_say(shared_data: Path) -> None:
    ranking = lists.load(shared_data, 0)
    assert [len(part.mask) for part in (ranking.train, ranking.valid, ranking.test)] == [161, 40, 50]
    assert int(ranking.train.mask.sum() + ranking.valid.mask.sum()) == 3005
    ratings = movielens.load(shared_data, 0)
    assert (ratings.test > 0).sum(1).eq(movielens.HELD_OUT).all()
    assert (ratings.valid > 0).sum(1).eq(movielens.HELD_OUT).all()
    held_out = (ratings.test > 0) | (ratings.valid > 0)
    assert not (held_out & (ratings.train > 0)).any()
    people = adult.load(shared_data, 0)
    assert len(people.train.y) + len(people.valid.y) == 32561
    assert len(people.test.y) == 16281
    assert torch.bincount(people.train.group).argmin() == 2  # women with a high income
    assert torch.equal(people.train.group >= 2, people.train.y > 0)
    task = spectral.loader("yacht", "extremile")(shared_data, 0)
    assert task.x.shape == (308, 7)


@pytest.mark.slow
def test_omniglot_shares_no_drawer_and_the_long_tail_is_long(shared_data: Path) -> None:
    characters = omniglot.load(shared_data, 0)
    for part, drawers in zip((characters.train, characters.valid, characters.test), omniglot.DRAWERS, strict=True):
        assert torch.bincount(part.y).tolist() == [drawers] * 1623
    tail = longtail.load(shared_data, 0)
    counts = tail.counts[tail.order]
    assert counts[0] == longtail.MOST
    assert counts[-1] == longtail.MOST // longtail.IMBALANCE
    assert (counts[:-1] > counts[1:]).all()
    assert torch.bincount(tail.valid.y).tolist() == [longtail.VALIDATION] * 10


@pytest.mark.slow
def test_every_film_is_in_every_part(shared_data: Path) -> None:
    pytest.importorskip("sklearn")
    task = films.load(shared_data, 0)
    for part in (task.train, task.valid, task.test):
        assert int(torch.bincount(part.group, minlength=task.num_groups).min()) > 0
    assert int(torch.bincount(task.train.group).min()) == round(0.6 * films.LEAST_REVIEWS)
    assert task.look(task.network()) == pytest.approx(np.log(2.0), abs=1e-6)


@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
def test_trees_rank(package: str) -> None:
    pytest.importorskip(package)
    task = lists.Task(made_lists(60, 0), made_lists(20, 1), made_lists(20, 2))
    assert lists.Trees(package).fit(task, 0.1, 0)["test"]["ndcg"] > 0.95


def test_trees_that_are_not_installed_name_the_extra() -> None:
    task = lists.Task(made_lists(10, 0), made_lists(10, 1), made_lists(10, 2))
    with pytest.raises(ImportError, match=r"need no_such_trees: pip install 'guidestar\[peers\]'"):
        lists.Trees("no_such_trees").fit(task, 0.1, 0)
