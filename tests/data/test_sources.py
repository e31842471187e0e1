import builtins

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from guidestar.data import ArraySplit, DigitsSource, NpzSource, Source, load, load_pair, mean_std
from guidestar.data import settings as settings_module
from guidestar.errors import UserError


def test_the_key_source_decides():
    adapter = TypeAdapter(Source)
    assert isinstance(adapter.validate_python({"source": "sklearn_digits"}), DigitsSource)
    with pytest.raises(ValidationError, match="'npz', 'npy', 'jpeg_npz', 'csv', 'parquet', 'image_folder', 'hf'"):
        adapter.validate_python({"source": "nope"})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        adapter.validate_python({"source": "sklearn_digits", "path": "x"})
    with pytest.raises(ValidationError, match="greater than 0"):
        adapter.validate_python({"source": "sklearn_digits", "limit": 0})


def test_settings_survive_a_round_trip():
    settings = NpzSource(path="a.npz", inputs="x", labels="y", limit=5)
    assert TypeAdapter(Source).validate_python(settings.model_dump()) == settings


def test_values_are_not_converted_silently():
    with pytest.raises(ValidationError, match="valid integer"):
        NpzSource.model_validate({"path": "a.npz", "inputs": "x", "labels": "y", "limit": "5"})
    with pytest.raises(ValidationError, match="valid string"):
        NpzSource.model_validate({"path": 3, "inputs": "x", "labels": "y"})


def test_every_key_has_a_description():
    for settings in (member for member in vars(settings_module).values() if isinstance(member, type)):
        if issubclass(settings, settings_module.SourceSettings):
            assert [key for key, field in settings.model_fields.items() if not field.description] == []


def test_digits(tmp_path):
    pytest.importorskip("sklearn", reason="needs the extra `demo`")
    whole = load(DigitsSource(), base=tmp_path)
    assert (len(whole), whole.input_shape, whole.num_classes) == (1797, (1, 8, 8), 10)
    inputs = whole.__getitems__(range(1797))[0]
    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)
    train, test = load_pair(DigitsSource(), base=tmp_path, test_fraction=0.25, seed=3)
    assert (len(train), len(test)) == (1348, 449)
    assert not set(train.keys(range(1348))) & set(test.keys(range(449)))
    again, _ = load_pair(DigitsSource(), base=tmp_path, test_fraction=0.25, seed=3)
    assert again.fingerprint() == train.fingerprint()
    limited = load(DigitsSource(limit=100), base=tmp_path)
    assert limited.labels.bincount().tolist() == pytest.approx([10] * 10, abs=1)


def test_missing_scikit_learn_names_the_extra(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"guidestar\[demo\]"):
        load(DigitsSource(), base=tmp_path)


def test_test_data_must_come_from_one_place(tmp_path):
    with pytest.raises(UserError, match="`test` or `test_fraction` is needed"):
        load_pair(DigitsSource(), base=tmp_path)
    with pytest.raises(UserError, match="exclude each other"):
        load_pair(DigitsSource(), DigitsSource(), base=tmp_path, test_fraction=0.1)


def test_absolute_paths_stay(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 2)), y=[0, 1])
    settings = NpzSource(path=str(tmp_path / "data.npz"), inputs="x", labels="y")
    assert len(load(settings, base=tmp_path / "elsewhere")) == 2


def test_mean_and_deviation_by_channel():
    values = np.random.default_rng(0).integers(0, 256, (1100, 3, 4, 5), dtype=np.uint8)
    values[:, 2] = 100
    mean, std = mean_std(ArraySplit(values, np.zeros(1100, dtype=int)))
    exact = values / 255.0
    assert mean == pytest.approx(exact.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std[:2] == pytest.approx(exact.std((0, 2, 3))[:2].tolist(), abs=1e-6)
    assert std[2] == 1.0


def test_mean_and_deviation_from_evenly_spaced_rows():
    split = ArraySplit(np.arange(100.0)[:, None], np.zeros(100, dtype=int))
    mean, std = mean_std(split, max_rows=10)
    assert mean == [45.0]
    assert std[0] == pytest.approx(np.arange(0, 100, 10).std())
