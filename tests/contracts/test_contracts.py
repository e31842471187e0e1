"""What holds for every public risk and loss, whatever its formula."""

from __future__ import annotations

import copy
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import guidestar as gs
from guidestar.state import PerSampleState


def _load_cases():
    name = "guidestar_contract_cases"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("cases.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


cases = _load_cases()
every = pytest.mark.parametrize("case", cases.CASES, ids=str)
with_rows = pytest.mark.parametrize("case", [case for case in cases.CASES if case.many_rows], ids=str)


def trained(case, steps: int = 3) -> nn.Module:
    """An object that has seen a few batches."""
    module = case.make()
    for seed in range(steps):
        cases.step(case, module, case.batch(seed))
    return module


def buffers_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of what the module remembers: its state without parameters."""
    learnt = dict(module.named_parameters())
    return {name: value for name, value in cases.state_of(module).items() if name not in learnt}


def masked_entry(case, batch, entry: int = 1):
    """The batch with one loss masked out, and where that loss is in the values."""
    mask = case.mask(batch)
    where = (0, entry) if case.many_rows else (entry,)
    mask[where] = False
    return batch.with_extra(mask=mask), where


def test_every_public_class_has_a_case() -> None:
    missing = cases.missing()
    assert not missing, f"add a Case to tests/contracts/cases.py for: {', '.join(missing)}"


@every
def test_reset_equals_a_new_object(case) -> None:
    module, fresh = trained(case), case.make()
    module.set_epoch(2)
    module.reset()
    assert cases.same_state(module.state_dict(), fresh.state_dict())
    for seed in (7, 8):
        for left, right in zip(*(cases.step(case, each, case.batch(seed)) for each in (module, fresh)), strict=True):
            assert torch.equal(left, right)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_memory_stays_float32_when_the_module_is_cast(case, dtype) -> None:
    module, kept = trained(case), trained(case)
    before = buffers_of(module)
    module.to(dtype)
    assert cases.same_state(before, buffers_of(module))
    if dtype == torch.float16:
        module.half()
    if case.learns:  # parameters are cast, as the user asked
        assert all(parameter.dtype == dtype for parameter in module.parameters())
        return
    left, right = cases.step(case, module, case.batch(9)), cases.step(case, kept, case.batch(9))
    assert torch.equal(left[0], right[0])
    assert torch.equal(left[1], right[1])


@every
def test_a_copy_goes_its_own_way(case) -> None:
    module = trained(case)
    twin = copy.deepcopy(module)
    before = cases.state_of(module)
    first = cases.step(case, twin, case.batch(9))
    assert cases.same_state(before, module.state_dict())
    second = cases.step(case, module, case.batch(9))
    assert torch.equal(first[0], second[0])
    assert cases.same_state(twin.state_dict(), module.state_dict())


@every
def test_through_the_meta_device_and_back(case) -> None:
    module = trained(case)
    saved = cases.state_of(module)
    module.to("meta")
    assert all(buffer.is_meta for buffer in module.buffers())
    module.to_empty(device="cpu")
    assert cases.same_state(buffers_of(module), buffers_of(case.make()))
    module.load_state_dict(saved)
    assert torch.equal(cases.step(case, module, case.batch(9))[0], cases.step(case, trained(case), case.batch(9))[0])


@every
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
def test_a_batch_of_nothing(case, fresh) -> None:
    module = case.make() if fresh else trained(case)
    before = cases.state_of(module)
    counted = _empty(module)
    batch = case.batch(5)
    batch = batch.with_values(batch.values[:, :0]) if case.many_rows else batch.take(slice(0, 0))
    values = batch.values.clone().requires_grad_()
    output = case.call(module, batch.with_values(values))
    assert output.requires_grad
    assert torch.equal(output, torch.zeros_like(output))
    output.sum().backward()
    assert values.grad.shape == values.shape
    assert cases.same_state(before, module.state_dict(), but="count")
    assert _empty(module) > counted


@with_rows
def test_a_batch_of_no_rows(case) -> None:
    module = trained(case)
    before = cases.state_of(module)
    output, gradient = cases.step(case, module, case.batch(5).take(slice(0, 0)))
    assert output.shape == (0,)
    assert gradient.numel() == 0
    assert cases.same_state(before, module.state_dict())


@every
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
def test_a_batch_that_is_masked_as_a_whole(case, fresh) -> None:
    module = case.make() if fresh else trained(case)
    before, counted = cases.state_of(module), _empty(module)
    batch = case.batch(5)
    output, gradient = cases.step(case, module, batch.with_extra(mask=case.mask(batch, False)))
    assert torch.equal(output, torch.zeros_like(output))
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert cases.same_state(before, module.state_dict(), but="count")
    assert _empty(module) > counted


@with_rows
def test_a_row_that_is_masked_leaves_its_memory_alone(case) -> None:
    module, reference = trained(case), trained(case)
    batch = case.batch(5)
    mask = case.mask(batch)
    mask[2] = False
    output, gradient = cases.step(case, module, batch.with_extra(mask=mask))
    others = torch.tensor([0, 1, 3])
    expected = cases.step(case, reference, batch.take(others))
    torch.testing.assert_close(output[others], expected[0])
    torch.testing.assert_close(gradient[others], expected[1])
    assert output[2] == 0
    assert not gradient[2].any()
    for name, value in reference.state_dict().items():
        if not name.endswith("count"):
            torch.testing.assert_close(module.state_dict()[name], value)


@every
def test_a_mask_that_is_true_everywhere_changes_nothing(case) -> None:
    plain, masked = trained(case), trained(case)
    batch = case.batch(5)
    left = cases.step(case, plain, batch)
    right = cases.step(case, masked, batch.with_extra(mask=case.mask(batch)))
    torch.testing.assert_close(left[0], right[0])
    torch.testing.assert_close(left[1], right[1])
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[name], value)


@every
def test_a_masked_loss_is_as_if_it_were_not_there(case) -> None:
    full, short = trained(case), trained(case)
    batch = case.batch(5)
    keep = torch.tensor([0, 2, 3, 4] if case.many_rows else [0, 2, 3, 4, 5])
    mask = case.mask(batch)
    mask[..., 1] = False
    expected_batch = batch.with_values(batch.values[:, keep]) if case.many_rows else batch.take(keep)
    output, gradient = cases.step(case, full, batch.with_extra(mask=mask))
    expected = cases.step(case, short, expected_batch)
    torch.testing.assert_close(output, expected[0])
    torch.testing.assert_close(gradient[:, keep] if case.many_rows else gradient[keep], expected[1])
    for name, value in short.state_dict().items():
        # A pair that is masked is an anchor without a loss, and counted as such.
        if not (case.pairs and name.endswith("count")):
            torch.testing.assert_close(full.state_dict()[name], value)


@every
def test_the_order_within_a_batch_does_not_matter(case) -> None:
    left, right = trained(case), trained(case)
    batch = case.batch(5)
    order = torch.randperm(len(batch.values), generator=torch.Generator().manual_seed(1))
    first, second = cases.step(case, left, batch), cases.step(case, right, batch.take(order))
    torch.testing.assert_close(first[0][order] if case.many_rows else first[0], second[0])
    torch.testing.assert_close(first[1][order], second[1])
    for name, value in left.state_dict().items():
        torch.testing.assert_close(right.state_dict()[name], value)


@with_rows
def test_a_row_twice_in_a_batch_counts_once(case) -> None:
    once, twice = trained(case), trained(case)
    batch = case.batch(5)
    first = cases.step(case, once, batch.take(torch.tensor([0, 1])))
    second = cases.step(case, twice, batch.take(torch.tensor([0, 1, 0, 1])))
    torch.testing.assert_close(second[0], first[0].repeat(2))
    torch.testing.assert_close(second[1], first[1].repeat(2, 1))
    for name, value in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], value)


@every
def test_evaluation_touches_nothing(case) -> None:
    module = trained(case)
    before = cases.state_of(module)
    batch = case.batch(5)
    with torch.no_grad():
        quiet = case.call(module, batch)
    assert cases.same_state(before, module.state_dict())
    module.eval()
    values = batch.values.clone().requires_grad_()
    output = case.call(module, batch.with_values(values))
    output.sum().backward()
    case.call(module, batch.with_extra(mask=case.mask(batch, False)))
    assert torch.isfinite(values.grad).all()
    assert values.grad.any()
    assert torch.equal(quiet, output.detach())
    assert cases.same_state(before, module.state_dict())


@every
def test_weights_are_the_gradient_and_leave_the_state(case) -> None:
    module = trained(case)
    if not hasattr(module, "weights"):
        pytest.skip("only risks have weights")
    before = cases.state_of(module)
    batch = case.batch(5)
    weights = module.weights(batch.values, **batch.extra)
    assert cases.same_state(before, module.state_dict())
    assert not weights.requires_grad
    assert torch.equal(weights, cases.step(case, module, batch)[1])
    with torch.no_grad():
        assert module.weights(batch.values, **batch.extra).shape == batch.values.shape


@every
def test_a_nan_is_not_hidden(case) -> None:
    batch = case.batch(5)
    batch.values[0] = float("nan")
    output, _ = cases.step(case, trained(case), batch)
    assert output.isnan().any()


@every
def test_a_batch_that_is_not_finite_is_not_remembered(case) -> None:
    for poison in (float("nan"), float("inf"), -float("inf")):
        module = trained(case)
        batch = case.batch(5)
        batch.values[0] = poison
        cases.step(case, module, batch)
        assert not any(value.isnan().any() for value in module.state_dict().values())
        for seed in (6, 7):
            output, gradient = cases.step(case, module, case.batch(seed))
            assert torch.isfinite(output).all()
            assert torch.isfinite(gradient).all()


@every
def test_a_nan_that_is_masked_is_ignored(case) -> None:
    batch, where = masked_entry(case, case.batch(5))
    clean = cases.step(case, trained(case), batch)
    for poison in (float("nan"), float("inf"), -float("inf")):
        batch.values[where] = poison
        module = trained(case)
        output, gradient = cases.step(case, module, batch)
        assert torch.equal(output, clean[0])
        assert torch.equal(gradient, clean[1])
        assert all(not value.isnan().any() for value in module.state_dict().values())


@every
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_values_do_not_overflow(case, size) -> None:
    module = trained(case)
    for seed in (5, 6):
        batch = case.batch(seed)
        output, gradient = cases.step(case, module, batch.with_values(batch.values * 10 + size))
        assert torch.isfinite(output).all()
        assert torch.isfinite(gradient).all()
    assert not any(value.isnan().any() for value in module.state_dict().values())


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(case, dtype) -> None:
    batch = case.batch(5)
    rounded = batch.with_values(batch.values.to(dtype))
    output, gradient = cases.step(case, trained(case), rounded)
    expected = cases.step(case, trained(case), batch.with_values(rounded.values.float()))
    assert output.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(output, expected[0])


@every
def test_float64_inputs_stay_float64(case) -> None:
    batch = case.batch(5)
    output, gradient = cases.step(case, trained(case), batch.with_values(batch.values.double()))
    assert output.dtype == gradient.dtype == torch.float64


@every
def test_whole_numbers_are_refused(case) -> None:
    batch = case.batch(5)
    with pytest.raises(TypeError, match=r"must be floating-point tensors. Found torch.int64"):
        case.call(case.make(), batch.with_values(batch.values.long()))


@every
def test_autocast_changes_nothing(case) -> None:
    batch = case.batch(5)
    expected = cases.step(case, trained(case), batch)
    module, values = trained(case), batch.values.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = case.call(module, batch.with_values(values))
        if not case.pairs:
            (gradient,) = torch.autograd.grad(output.sum(), values)
    if case.pairs:  # the gradient of a matrix product follows what is set during the backward pass, as always in torch
        (gradient,) = torch.autograd.grad(output.sum(), values)
    assert torch.equal(output, expected[0])
    assert torch.equal(gradient, expected[1])


@every
def test_bytes_of_memory(case) -> None:
    module = case.make()
    memories = [child for child in module.modules() if isinstance(child, PerSampleState)]
    assert sum(memory.values.numel() * memory.values.element_size() for memory in memories) == case.row_bytes
    assert {name: value.shape for name, value in module.state_dict().items()} == {
        name: value.shape for name, value in trained(case).state_dict().items()
    }


@every
def test_everything_that_changes_is_in_the_state_dict(case) -> None:
    module = trained(case)
    learnt = set(dict(module.named_parameters()))
    assert set(dict(module.named_buffers(remove_duplicate=False))) | learnt == set(module.state_dict())
    assert bool(learnt) == case.learns


@every
def test_a_mask_of_another_kind_is_refused(case) -> None:
    batch = case.batch(5)
    with pytest.raises(TypeError, match="`mask` must be a bool tensor"):
        case.call(case.make(), batch.with_extra(mask=case.mask(batch).float()))


@with_rows
def test_an_index_that_does_not_fit_is_refused(case) -> None:
    batch = case.batch(5)
    with pytest.raises(ValueError, match="`index` must have one row number for each row of `losses`"):
        case.call(case.make(), batch.with_extra(index=torch.arange(3)))
    if "index" in batch.extra:
        with pytest.raises(IndexError, match=rf"`index` must lie in \[0, {cases.ROWS}\).*Found {cases.ROWS}"):
            case.call(case.make(), batch.with_extra(index=torch.tensor([0, 1, 2, cases.ROWS])))
        with pytest.raises(IndexError, match="Found -1"):
            case.call(case.make(), batch.with_extra(index=torch.tensor([0, 1, 2, -1])))
        with pytest.raises(TypeError, match="`index` must be an int64 tensor of row numbers"):
            case.call(case.make(), batch.with_extra(index=torch.tensor([0.0, 1.0, 2.0, 3.0])))


@every
def test_the_epoch_reaches_every_schedule_through_any_module(case) -> None:
    outer = nn.ModuleDict({"inside": nn.Sequential(case.make())})
    gs.set_epoch(outer, 3)
    epochs = [value for name, value in outer.state_dict().items() if name.endswith("epoch.number")]
    assert all(int(value) == 3 for value in epochs)
    assert len(epochs) == case.epochs
    with pytest.raises(ValueError, match=r"`epoch` must be 0 or more, a whole number. Found -1"):
        gs.set_epoch(outer, -1)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case.pairs and str(case) != "DRRhoCLIPLoss-KL" else ())
        for case in cases.CASES
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # both the compiler's own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_equals_eager(case) -> None:
    compare_compiled(case, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    "case",
    [
        case
        for case in cases.CASES
        if case.label in ("tracked", "momentum", "smooth", "tracked penalty", "groups, CVaR")
    ],
    ids=str,
)
def test_compiled_by_the_default_backend_equals_eager(case) -> None:
    # It decides for itself what to repeat in the backward pass: never a read of rows that have changed since.
    compare_compiled(case, "inductor")


def compare_compiled(case, backend: str) -> None:
    torch._dynamo.reset()
    eager, module = case.make(), case.make()
    compiled = torch.compile(module, backend=backend)
    for seed in range(3):
        batch = case.batch(seed)
        expected = cases.step(case, eager, batch)
        inputs = batch.values.chunk(2, dim=1) if case.pairs else [batch.values]
        leaves = [values.clone().requires_grad_() for values in inputs]
        output = compiled(*leaves, **batch.extra)
        output.sum().backward()
        torch.testing.assert_close(output.detach(), expected[0])
        torch.testing.assert_close(torch.cat([leaf.grad for leaf in leaves], dim=-1), expected[1])
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value)


def _empty(module: nn.Module) -> int:
    return sum(int(value) for name, value in module.state_dict().items() if name.endswith("count"))
