"""The triton kernels, run by triton's interpreter on the CPU in a process of their own, against sums in float64 and tiles.

Run as a script, this file is that process: `test_kernels.py interpreted PATH` or `test_kernels.py compiled PATH`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from guidestar.losses.drrho_clip import DRRhoCLIPLoss
from guidestar.pairwise import kernels, tiles
from guidestar.pairwise.mask import HIDDEN, PairMask
from guidestar.risks.kl import KL

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton: pip install guidestar[kernels]"
)
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("triton") is None, reason="needs a CUDA GPU and triton"
)


@dataclass(frozen=True)
class Case:
    """Features of some shape, and a mask: `own`, `hide_own`, groups (so many), rows and columns that do not count.

    No tensor is contiguous.
    """

    rows: int
    columns: int
    width: int
    reference_width: int = 0
    own: int | None = 0
    hide_own: bool = False
    groups: int = 0
    invalid: bool = False
    both: bool = True
    fast: bool = False

    def mask(self, device: str = "cpu") -> PairMask:
        generator = torch.Generator().manual_seed(2)
        groups: list[Tensor | None] = [None, None]
        valid: list[Tensor | None] = [None, None]
        if self.groups:
            groups = [torch.randint(self.groups, (n, 2), generator=generator)[:, 0] for n in (self.rows, self.columns)]
        if self.invalid:
            valid = [(torch.rand(n, 2, generator=generator) > 0.2)[:, 0] for n in (self.rows, self.columns)]
        fields = [None if value is None else value.to(device) for value in (*groups, *valid)]
        return PairMask(self.rows, self.columns, self.own, self.hide_own, *fields)

    def inputs(self, device: str = "cpu") -> tuple[dict[str, Tensor | None], list[Tensor]]:
        """What `tiled_statistics` takes, and the gradients of the log-sums."""
        generator = torch.Generator().manual_seed(1)

        def unit(count: int, width: int) -> Tensor:
            return functional.normalize(torch.randn(width, count, generator=generator), dim=0).to(device).T

        def uniform(count: int) -> Tensor:
            return (1 + 5 * torch.rand(count, generator=generator)).to(device)

        n, m, none = self.rows, self.columns, self.reference_width == 0
        made: dict[str, Tensor | None] = {
            "x": unit(n, self.width).requires_grad_(),
            "y": unit(m, self.width).requires_grad_(),
            "reference_x": None if none else unit(n, self.reference_width),
            "reference_y": None if none else unit(m, self.reference_width),
            "row_scale": uniform(n).requires_grad_(),
            "column_scale": uniform(m).requires_grad_() if self.both else None,
        }
        return made, [uniform(n), uniform(m)][: 1 + self.both]


CASES = {
    "all": Case(70, 70, 40),
    "reference": Case(70, 70, 40, 24),
    "own hidden": Case(65, 65, 33, 17, hide_own=True),
    "own hidden in a later part": Case(60, 190, 48, 16, own=65, hide_own=True),
    "fewer rows than columns": Case(5, 300, 7),
    "more rows than columns": Case(150, 20, 16, own=None),
    "groups, own shown": Case(70, 140, 20, own=64, groups=5),
    "groups, own hidden": Case(70, 140, 20, 8, own=3, hide_own=True, groups=5),
    "groups without own pairs": Case(66, 66, 20, own=None, groups=9),
    "some do not count": Case(66, 130, 20, 20, own=None, invalid=True),
    "everything": Case(66, 130, 37, 5, own=64, hide_own=True, groups=4, invalid=True),
    "an own pair alone": Case(1, 1, 3, hide_own=True),
    "one row": Case(1, 9, 64, 32),
    "rows only": Case(66, 130, 20, 12, both=False),
    "TF32 allowed": Case(66, 130, 20, 12, fast=True),
}


def run(function: Any, case: Case, device: str = "cpu") -> dict[str, Tensor]:
    """Results and gradients, by name."""
    inputs, slopes = case.inputs(device)
    made = function.apply(*inputs.values(), case.mask(device))
    learnt = {name: value for name, value in inputs.items() if value is not None and value.requires_grad}
    total = torch.stack([(made[3 * side] * slope).sum() for side, slope in enumerate(slopes)]).sum()
    gradients = torch.autograd.grad(total, list(learnt.values()))
    names = [f"{side} {what}" for side in ("row", "column") for what in ("log_sum", "expected", "count")]
    count = 6 if case.both else 3  # the tiles give the own pairs too
    named = dict(zip(names[:count], made[:count], strict=True))
    named |= {f"gradient of {name}": value for name, value in zip(learnt, gradients, strict=True)}
    return {name: value.detach().cpu() for name, value in named.items()}


def written_out(case: Case) -> dict[str, Tensor]:
    """The same from the whole matrix in float64; where nothing counts, a log-sum is 0."""
    inputs, slopes = case.inputs()
    double = {
        name: None if value is None else value.detach().double().requires_grad_(value.requires_grad)
        for name, value in inputs.items()
    }
    x, y, r, t, a, b = double.values()
    assert x is not None
    assert y is not None
    assert a is not None
    matrix = x @ y.T if r is None or t is None else x @ y.T - r @ t.T
    counted = case.mask().tile(0, case.rows)
    counted = torch.ones_like(matrix, dtype=torch.bool) if counted is None else counted
    made: dict[str, Tensor] = {}
    total = x.new_zeros(())
    sides = (("row", a.unsqueeze(1), 1), *(() if b is None else (("column", b, 0),)))
    for (side, scale, dim), slope in zip(sides, slopes, strict=True):
        scaled = torch.where(counted, matrix * scale, 0.0)
        sums = torch.where(counted, scaled.exp(), 0.0).sum(dim)
        made[f"{side} log_sum"] = torch.where(sums > 0, sums, 1.0).log()
        made[f"{side} expected"] = (scaled * scaled.exp()).sum(dim) / torch.where(sums > 0, sums, 1.0)
        made[f"{side} count"] = counted.sum(dim).double()
        total = total + (made[f"{side} log_sum"] * slope).sum()
    learnt = {name: value for name, value in double.items() if value is not None and value.requires_grad}
    gradients = torch.autograd.grad(total, list(learnt.values()))
    made |= {f"gradient of {name}": value for name, value in zip(learnt, gradients, strict=True)}
    return {name: value.detach() for name, value in made.items()}


def without_empty(results: dict[str, Tensor], counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows and columns where nothing counts have log-sums of about `HIDDEN` (and so scales' gradients): 0 instead."""
    shown = dict(results)
    for side in ("row", "column"):
        for name in (f"{side} log_sum", f"{side} expected", f"gradient of {side}_scale"):
            if name in results:
                shown[name] = torch.where(counts[f"{side} count"] > 0, results[name], 0.0)
    return shown


def error(found: Tensor, right: Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    return float((found - right).abs().max() / right.abs().max().clamp(min=1e-30))


def loss_results() -> list[Tensor]:
    """A steered loss, tiled, and its gradients."""
    torch.manual_seed(3)
    x, y, r, t = (functional.normalize(torch.randn(20, 12), dim=1) for _ in range(4))
    loss = DRRhoCLIPLoss(KL(tau=0.2), eps=0.05, tiled=True)
    value = loss(x.requires_grad_(), y.requires_grad_(), reference_image=r, reference_text=t)
    return [value.detach(), *torch.autograd.grad(value, (x, y))]


def interpreted(path: str) -> None:
    """All cases twice, and a loss that finds the kernels by itself."""
    torch.set_num_threads(1)
    once, again = {}, {}
    for name, case in CASES.items():
        torch.set_float32_matmul_precision("high" if case.fast else "highest")
        once[name], again[name] = run(kernels.PairKernels, case), run(kernels.PairKernels, case)
    torch.set_float32_matmul_precision("highest")
    kernels.usable = lambda x, y: True
    torch.save({"once": once, "again": again, "loss": loss_results()}, path)


def compiled(path: str) -> None:
    """What the compiler makes of each kernel: its assembly, and the shared memory of a program."""
    from triton import compile as build
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from guidestar.pairwise import kernel_code

    found = {}
    case = CASES["everything"]
    features = tuple(torch.ones(1, 1) for _ in range(4))
    for precision in kernels.BLOCK_C:
        constants = kernels._common(features, case.mask(), precision) | {"HIDDEN": HIDDEN}  # type: ignore[arg-type]
        constants["BLOCK_OUT"] = kernels.BLOCK_OUT
        for kernel in (kernel_code.statistics_kernel, kernel_code.gradient_kernel):
            types, fixed = {}, {}
            for place, parameter in enumerate(kernel.params):
                types[parameter.name] = kind(parameter.name)
                if parameter.name.isupper():
                    fixed[(place,)] = constants[parameter.name]
            for capability in CAPABILITIES[precision]:
                options = {"num_warps": kernels.WARPS, "num_stages": kernels.STAGES}
                made = build(ASTSource(kernel, types, fixed), GPUTarget("cuda", capability, 32), options)
                name = f"{kernel.__name__} {precision} {capability}"
                found[name] = (made.asm["ptx"], made.metadata.shared)
    torch.save(found, path)


def kind(name: str) -> str:
    """The type of a kernel's argument."""
    if name.isupper():
        return "constexpr"
    if name in ("row_count", "column_count", "width", "reference_width", "own", "run"):
        return "i32"
    return "*i64" if name.endswith("groups") else "*u8" if name.endswith("valid") else "*fp32"


#: What each way to multiply is compiled for.
CAPABILITIES = {"ieee": (80, 90), "tf32x3": (80,)}


def in_a_process(task: str, folder: Path, **variables: str) -> Any:
    """What this file, run as a script, writes."""
    path = folder / f"{task}.pt"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(folder / "cache")} | variables
    done = subprocess.run(
        [sys.executable, __file__, task, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return in_a_process("interpreted", tmp_path_factory.mktemp("kernels"), TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernels_are_the_sums_written_out(name: str, results: dict[str, Any]) -> None:
    right = written_out(CASES[name])
    found = without_empty(results["once"][name], right)
    assert found.keys() == right.keys()
    for what, value in right.items():
        assert error(found[what], value) < 1e-6, what


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernels_are_the_tiles(name: str, results: dict[str, Any]) -> None:
    case = CASES[name]
    made = run(tiles._Tiles, case)
    if case.mask().trivial:  # tiles count nothing where all counts
        made |= {what: results["once"][name][what] for what in made if what.endswith("count")}
    right = without_empty(made, made)
    found = without_empty(results["once"][name], made)
    for what, value in right.items():
        assert error(found[what], value) < 1e-6, what


@needs_triton
@pytest.mark.parametrize("name", ["some do not count", "everything", "an own pair alone"])
def test_where_nothing_counts_the_log_sum_is_about_hidden(name: str, results: dict[str, Any]) -> None:
    made = results["once"][name]
    empty = made["row count"] == 0
    assert empty.any()
    torch.testing.assert_close(made["row log_sum"][empty], torch.full((int(empty.sum()),), HIDDEN))
    assert (made["gradient of x"][empty] == 0).all()


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernels_repeat_themselves_exactly(name: str, results: dict[str, Any]) -> None:
    for what, value in results["once"][name].items():
        assert torch.equal(value, results["again"][name][what]), what


@needs_triton
def test_a_tiled_loss_uses_them(results: dict[str, Any]) -> None:
    for found, right in zip(results["loss"], loss_results(), strict=True):
        assert error(found, right) < 1e-6
    assert any(not torch.equal(found, right) for found, right in zip(results["loss"], loss_results(), strict=True)), (
        "the sums' order differs, so equal results mean that the tiles ran"
    )


@needs_triton
@pytest.mark.slow
def test_kernels_compile_without_atomics_and_fit_every_gpu(tmp_path: Path) -> None:
    found = in_a_process("compiled", tmp_path, TRITON_INTERPRET="0")
    assert len(found) == 6
    for name, (assembly, shared) in found.items():
        assert not re.search(r"\b(atom|red)\.", assembly), name
        assert shared <= 99 * 1024, name


@needs_gpu
@pytest.mark.parametrize("name", CASES)
def test_kernels_on_the_gpu_are_the_sums_written_out_and_repeat_themselves(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.setattr(kernels, "_precision", lambda: "tf32x3" if case.fast else "ieee")
    made, again = (run(kernels.PairKernels, case, "cuda") for _ in range(2))
    right = written_out(case)
    found = without_empty(made, right)
    for what, value in right.items():
        assert error(found[what], value) < 5e-6, what
        assert torch.equal(made[what], again[what]), what


def test_the_cpu_float64_and_empty_features_stay_with_the_tiles() -> None:
    x = torch.ones(2, 3)
    assert not kernels.usable(x, x)
    assert not kernels.usable(x.double(), x.double())
    assert not kernels.usable(x[:0], x)


def test_other_devices_of_triton_stay_with_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGPU(torch.Tensor):
        is_cuda = True  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    x = torch.ones(2, 3).as_subclass(OnGPU)
    monkeypatch.setattr(kernels, "triton_works", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setenv("GUIDESTAR_KERNELS", "1")
    for capability, right in (((7, 5), False), ((8, 0), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, made=capability: made)
        assert kernels.usable(x, x) is right
    assert not kernels.usable(x.double(), x.double())
    assert not kernels.usable(x, x[:0])
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not kernels.usable(x, x)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("GUIDESTAR_KERNELS")
    assert not kernels.usable(x, x)  # not measured on a GPU yet, so only where asked for


@pytest.mark.parametrize(
    ("package", "compiler", "right"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_triton_and_a_compiler_are_needed(
    package: bool, compiler: bool, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/cc" if compiler else None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if package else None)
    assert kernels.triton_works.__wrapped__() is right


def test_the_device_code_can_be_imported_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("guidestar.pairwise.kernel_code")
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.language", None)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.tl is None
    assert callable(module.statistics_kernel)


@pytest.mark.parametrize("name", CASES)
def test_a_turned_mask_is_the_transpose(name: str) -> None:
    mask = CASES[name].mask()
    turned = kernels.turned_mask(mask)
    tile, other = mask.tile(0, mask.rows), turned.tile(0, turned.rows)
    if tile is None or other is None:
        assert tile is other
    else:
        assert torch.equal(other, tile.T)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (64, 128), (65, 129), (1000, 777), (4096, 32768), (32768, 5)])
def test_runs_cover_the_columns_and_keep_memory_bounded(rows: int, columns: int) -> None:
    splits, run = kernels.runs(rows, columns)
    assert (splits - 1) * run < columns <= splits * run
    assert all(run % block == 0 for block in kernels.BLOCK_C.values())
    assert splits == 1 or splits * -(-rows // kernels.BLOCK_R) <= kernels.PROGRAMS


def test_products_are_exact_unless_tf32_is_allowed() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert kernels._precision() == "ieee"
        torch.set_float32_matmul_precision("high")
        assert kernels._precision() == "tf32x3"
    finally:
        torch.set_float32_matmul_precision(before)


if __name__ == "__main__":
    {"interpreted": interpreted, "compiled": compiled}[sys.argv[1]](sys.argv[2])
