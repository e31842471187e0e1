"""iWildCam and the sources of instructions: tiny trainings on data made here, and the parts of the sets."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts.objectives import iwildcam, sources


def animals(counts: torch.Tensor, seed: int) -> iwildcam.Part:
    """Clusters around fixed centres; the last feature is 1."""
    centres = 3.0 * torch.randn(len(counts), 8, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(len(counts)), counts)
    x = centres[y] + torch.randn(len(y), 8, generator=generator)
    return iwildcam.Part(torch.cat([x, torch.ones(len(y), 1)], dim=1), y)


@pytest.mark.parametrize("name", list(iwildcam.TITLES))
def test_classes_of_a_long_tail_are_learnt(name: str) -> None:
    train, test = animals(torch.tensor([80, 40, 20, 10, 5]), 0), animals(torch.full((5,), 20), 1)
    method = iwildcam.STUDY.methods[name]
    assert isinstance(method, iwildcam.Trained)
    result = method.fit(iwildcam.Task(train, test, test), 0.1, 0, steps=80)
    assert set(result["test"]) == set(iwildcam.METRICS)
    assert result["test"]["balanced"] > 0.9
    assert -result["loss"] == result["test"]["worst_half"] > result["test"]["loss"]


def test_balanced_accuracy_is_over_classes_that_occur_and_the_worst_half_is_a_mean() -> None:
    part = iwildcam.Part(torch.eye(iwildcam.CLASSES)[[0, 0, 0, 7]], torch.tensor([0, 0, 0, 9]))
    found = part.metrics(torch.nn.Identity())
    assert found["balanced"] == 0.5
    assert found["accuracy"] == 0.75
    low, high = (np.log(np.e + iwildcam.CLASSES - 1) - logit for logit in (1.0, 0.0))
    assert found["worst_half"] == pytest.approx((low + high) / 2)


def made_text(letters: list[int], length: int, seed: int) -> sources.Text:
    """Repeats a word of its own, with a tenth of the symbols drawn anew."""
    generator = np.random.default_rng(seed)
    word = np.resize(np.array(letters), length)
    noisy = np.where(generator.random(length) < 0.1, generator.integers(2, 30, length), word)
    return sources.Text.of([noisy[: length // 2], noisy[length // 2 :]])


WORDS = [[2, 3, 4], [5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15]]


@functools.cache
def made_task() -> sources.Task:
    """With a reference that is trained as in the study."""
    train, valid, test = ([made_text(word, 600, seed) for word in WORDS] for seed in range(3))
    return sources.Task(train, valid, test, sources.reference(train, 0))


@pytest.mark.parametrize("name", list(sources.TITLES))
def test_language_models_learn_all_sources(name: str) -> None:
    task = made_task()
    method = sources.STUDY.methods[name]
    assert isinstance(method, sources.Trained)
    result = method.fit(task, 0.02, 0, steps=60)["test"]
    assert set(result) == set(sources.METRICS)
    assert result["worst"] < 2.0 < np.log(sources.SYMBOLS)
    assert result["worst"] == max(result[source] for source in sources.SOURCES)
    assert abs(result["excess"]) < 0.7  # the reference has learnt as well


def test_a_window_ends_with_what_is_predicted_and_stays_in_its_document() -> None:
    text = sources.Text.of([np.array([5, 6]), np.array([7])])
    windows = text.windows(torch.arange(3))
    assert windows[:, -1].tolist() == [5, 6, 7]
    assert windows[:, -2].tolist() == [0, 5, 0]
    assert windows[2].sum() == 7  # nothing of the first document


def test_batches_have_as_many_of_each_source_or_as_the_sources_are_mixed() -> None:
    mix = [made_text(word, length, 0) for word, length in zip(WORDS, (100, 100, 100, 9700), strict=True)]
    windows, group = next(sources.drawn(mix, 0, uniformly=True))
    assert windows.shape == (sources.BATCH, sources.CONTEXT + 1)
    assert torch.bincount(group).tolist() == [sources.BATCH // 4] * 4
    _, group = next(sources.drawn(mix, 0, uniformly=False))
    assert len(group) == sources.BATCH
    assert 0.93 < float((group == 3).float().mean()) < 1.0


def test_the_parts_of_the_two_sets(shared_data: Path) -> None:
    cameras = iwildcam.load(shared_data, 0)
    assert [len(part.y) for part in (cameras.train, cameras.valid, cameras.test)] == [4000, 1000, 5000]
    assert cameras.num_groups == len(cameras.group.unique()) <= 47
    task = sources.load(shared_data, 0)
    for part in (task.train, task.valid, task.test):
        assert len(part) == len(sources.SOURCES)
    largest = torch.tensor([len(text.places) for text in task.train])
    assert list(sources.SOURCES)[int(largest.argmax())] == "gpteacher_code"
    assert not any(parameter.requires_grad for parameter in task.reference.parameters())
