import os

import pytest
import safetensors.torch
import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.models import MLP, Preprocess, load_weights, save_weights, weights_hash


def mlp(hidden=(4,), classes=3, seed=0):
    torch.manual_seed(seed)
    return MLP((5,), classes, hidden=hidden)


def test_safetensors_round_trip(tmp_path):
    first, second = mlp(seed=0), mlp(seed=1)
    save_weights(first, tmp_path / "new" / "model.safetensors")
    load_weights(second, tmp_path / "new" / "model.safetensors")
    assert weights_hash(first) == weights_hash(second)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.safetensors"]


def test_tied_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    saved = model[0].weight.detach().clone()
    save_weights(model, tmp_path / "model.safetensors")
    with torch.no_grad():
        model[0].weight.zero_()
    load_weights(model, tmp_path / "model.safetensors")
    assert torch.equal(model[0].weight, saved)
    assert model[1].weight is model[0].weight


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_torch_checkpoints(tmp_path, key, prefix):
    first, second = mlp(seed=0), mlp(seed=1)
    state = {prefix + name: tensor for name, tensor in first.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "model.pt")
    load_weights(second, tmp_path / "model.pt")
    assert weights_hash(first) == weights_hash(second)


def test_bare_weights_fit_a_wrapped_model(tmp_path):
    first, second = mlp(seed=0), mlp(seed=1)
    save_weights(first, tmp_path / "bare.safetensors")
    wrapped = Preprocess(second, [1.0] * 5, [2.0] * 5)
    load_weights(wrapped, tmp_path / "bare.safetensors")
    assert weights_hash(first) == weights_hash(second)
    assert wrapped.mean.tolist() == [1.0] * 5
    save_weights(wrapped, tmp_path / "wrapped.safetensors")
    other = Preprocess(mlp(seed=2), [0.0] * 5, [1.0] * 5)
    load_weights(other, tmp_path / "wrapped.safetensors")
    assert weights_hash(other) == weights_hash(wrapped)


def test_number_of_classes_is_named(tmp_path):
    save_weights(mlp(classes=12), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is for 12 classes, but the model must have 3"):
        load_weights(mlp(), tmp_path / "model.safetensors")


def test_two_towers_have_no_classes(tmp_path):
    class Towers(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.projection = nn.Linear(2, width)
            self.register_buffer("tokenizer_hash", torch.zeros(1))

    save_weights(Towers(3), tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"of another shape: projection.weight \[3, 2\] instead of \[4, 2\]"):
        load_weights(Towers(4), tmp_path / "m.safetensors")


def test_mismatches_are_named_and_nothing_is_loaded(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(mlp(hidden=(6,)), path)
    model = mlp()
    before = weights_hash(model)
    with pytest.raises(UserError, match=r"of another shape: body.1.weight \[6, 5\] instead of \[4, 5\], .*3 in all"):
        load_weights(model, path)
    save_weights(mlp(hidden=(4, 4)), path)
    with pytest.raises(UserError, match=r"unexpected: body.4.bias, body.4.weight \(2 in all\)"):
        load_weights(model, path)
    save_weights(mlp(hidden=()), path)
    with pytest.raises(UserError, match=r"missing: body.1.weight, body.1.bias \(2 in all\); of another shape: head.w"):
        load_weights(model, path)
    assert weights_hash(model) == before


def test_weights_that_are_not_finite(tmp_path):
    model = mlp()
    model.head.bias.data[1] = float("nan")
    save_weights(model, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"NaN or infinity in `head.bias`"):
        load_weights(mlp(), tmp_path / "model.safetensors")


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_checkpoints_never_run_code(tmp_path):
    torch.save({"model": Payload(str(tmp_path / "ran"))}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="tensors only, and nothing else is loaded"):
        load_weights(mlp(), tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x03\x04 and no more"])
def test_broken_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_weights(mlp(), tmp_path / name)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_half_a_file(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(mlp().state_dict(), path)
    else:
        save_weights(mlp(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=name):
        load_weights(mlp(), path)


def test_files_that_hold_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none at .*model\.pt"):
        load_weights(mlp(), tmp_path / "model.pt")
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"must hold a state dict, .* found dict with epoch, loss"):
        load_weights(mlp(), tmp_path / "model.pt")
    torch.save(torch.zeros(3), tmp_path / "model.pt")
    with pytest.raises(UserError, match="found Tensor"):
        load_weights(mlp(), tmp_path / "model.pt")


def test_saving_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_weights(mlp(seed=0), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"the disk is full: .*model.safetensors"):
        save_weights(mlp(seed=1), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_only_safetensors_are_written(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.safetensors, found model\.pt"):
        save_weights(mlp(), tmp_path / "model.pt")


def test_hash_sees_names_types_shapes_and_values():
    class One(nn.Module):
        def __init__(self, name, value):
            super().__init__()
            self.register_buffer(name, value)

    base = torch.arange(6, dtype=torch.float32)
    variants = [
        One("a", base),
        One("b", base),
        One("a", base.reshape(2, 3)),
        One("a", base.double()),
        One("a", base.view(torch.int32)),
        One("a", base.flip(0)),
        One("a", torch.tensor(1.0)),
        One("a", base.to(torch.bfloat16)),
    ]
    assert len({weights_hash(model) for model in variants}) == len(variants)
    assert weights_hash(One("a", base)) == weights_hash(One("a", torch.stack([base, base], 1)[:, 0]))


def test_reads_what_safetensors_wrote_itself(tmp_path):
    model = mlp(seed=4)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = mlp()
    load_weights(other, tmp_path / "model.safetensors")
    assert weights_hash(other) == weights_hash(model)
