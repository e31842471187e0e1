"""The grid: its cells, one at a time, resumed, with what each cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from guidestar.errors import UserError
from guidestar.training.runner import Options
from guidestar.training.scaling import Grid, parse_samples, parse_sizes

SIZES = ["model.options.hidden=[4],[8]"]


@pytest.fixture(autouse=True)
def no_engine_left_over():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def grid(load) -> Grid:
    loaded = load()
    overrides = ["training.steps=null", "training.epochs=2"]
    return Grid(loaded.path, overrides, parse_sizes(SIZES), [32, 64], ["erm", "steer"])


def test_sizes() -> None:
    sizes = parse_sizes(["model.options.hidden=[8],[16, 16]", "training.lr=1e-3,0.1"])
    assert [size.name for size in sizes] == ["hidden=[8], lr=0.001", "hidden=[16, 16], lr=0.1"]
    assert sizes[1].overrides == ("model.options.hidden=[16, 16]", "training.lr=0.1")
    with pytest.raises(UserError, match=r"`--sizes` must have as many values for each key. Found 1 and 2"):
        parse_sizes(["a=1,2", "b=1"])
    for text in ("a", "=1", "a="):
        with pytest.raises(UserError, match=r"`--sizes` must be key=value,value,..."):
            parse_sizes([text])
    with pytest.raises(UserError, match=r"`--sizes` must have"):
        parse_sizes([])


def test_samples() -> None:
    assert parse_samples("10,20") == [10, 20]
    for text in ("", "10,", "ten", "-3", "0"):
        with pytest.raises(UserError, match=r"`--samples` must be whole numbers"):
            parse_samples(text)


def test_cells_are_sizes_by_samples_by_seeds(grid: Grid, load) -> None:
    assert [cell.name for cell in grid.cells] == [
        "hidden=-4-n32-seed0", "hidden=-4-n64-seed0", "hidden=-8-n32-seed0", "hidden=-8-n64-seed0"
    ]  # fmt: skip
    loaded = grid.load(grid.cell(3))
    assert loaded.recipe.model.options == {"hidden": [8]}
    assert (loaded.recipe.data.train_samples, loaded.recipe.seeds) == (64, (0,))
    assert loaded.run_folder == load().output / "tiny-scaling" / "hidden=-8-n64-seed0"
    with pytest.raises(UserError, match=r"`--index` must be in \[0, 3\], the cells of the grid. Found 4"):
        grid.cell(4)
    with pytest.raises(UserError, match=r"`--strategies` must be among .*erm.*Found magic"):
        Grid(grid.recipe, [], parse_sizes(SIZES), [32], ["magic"])


def test_a_cell_records_its_compute(grid: Grid) -> None:
    records = {record["strategy"]: record for record in grid.run(grid.cell(0), Options())}
    # mlp 64 -> 4 -> 10: a forward pass is 2 x (256 + 40) operations, the backward pass twice that, less the inputs' part.
    forward = 2 * (64 * 4 + 4 * 10)
    trained = 2 * 2 * 16
    per_sample = forward + 2 * (64 * 4) + 2 * 2 * (4 * 10)
    for record in records.values():
        assert record["compute"] == pytest.approx(trained * per_sample / 1e9)
    assert records["erm"]["reference_compute"] == 0
    reference = 2 * (64 * 16 + 16 * 10)
    fitted = 4 * 32 * (reference + 2 * (64 * 16) + 2 * 2 * (16 * 10))
    assert records["steer"]["reference_compute"] == pytest.approx((fitted + 32 * reference) / 1e9)


def test_a_grid_is_resumed_and_collected(grid: Grid) -> None:
    first = grid.run(grid.cell(0), Options())
    written = grid.folder / grid.cell(0).name / "scaling_cell.json"
    before = written.stat().st_mtime_ns
    with pytest.raises(UserError, match="holds a run already"):
        grid.run(grid.cell(0), Options())
    assert grid.run(grid.cell(0), Options(resume=True)) == first
    assert written.stat().st_mtime_ns == before
    records = [record for cell in grid.cells[:3] for record in grid.run(cell, Options(resume=True))]
    path = grid.collect(records, None)
    found = json.loads(path.read_text())
    assert [(r["strategy"], r["samples"], r["model"]) for r in found[:3]] == [
        ("erm", 32, "hidden=[4]"), ("steer", 32, "hidden=[4]"), ("erm", 64, "hidden=[4]")
    ]  # fmt: skip
    assert found[0]["error"] == pytest.approx(1 - records[0]["metrics"]["accuracy"])
    # The reference of the seed was fitted in the first cell; the others have no training of it.
    fitted = [(grid.folder / cell.name / "reference" / "seed-0" / "metrics.jsonl").exists() for cell in grid.cells[:3]]
    assert fitted == [True, False, False]
    assert json.loads(grid.collect(records, "balanced_accuracy").read_text())[0]["metric"] == "balanced_accuracy"
    with pytest.raises(UserError, match=r"`--metric` must be one of accuracy, .*Found magic"):
        grid.collect(records, "magic")
    with pytest.raises(UserError, match="at least one training that succeeded"):
        grid.collect([], None)


def test_a_cell_of_another_recipe(grid: Grid, load) -> None:
    grid.run(grid.cell(0), Options())
    other = Grid(load().path, ["training.steps=null", "training.epochs=3"], parse_sizes(SIZES), [32, 64], ["erm"])
    with pytest.raises(UserError, match=r"holds a run of another recipe: training.epochs"):
        other.run(other.cell(0), Options(resume=True))


def test_pairs_have_a_compute_too(load_pairs_recipe, tmp_path: Path) -> None:
    loaded = load_pairs_recipe()
    grid = Grid(loaded.path, [], parse_sizes(["model.options.width=4,8"]), [40], ["erm", "steer"])
    small, large = ([r["compute"] for r in grid.run(cell, Options())] for cell in grid.cells)
    assert small[0] == small[1] > 0
    assert large[0] > small[0]
