"""Scaling laws of a grid: the fit, the two ways to count, the figure, the page and the table."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidestar.errors import UserError
from guidestar.report import build_scaling
from guidestar.report.scaling import Record, fit_scaling, law_rows, read_records
from guidestar.report.scaling_figure import draw_scaling, standalone
from guidestar.report.scaling_page import scaling_markdown

Grid = Callable[..., list[dict[str, Any]]]


def exact(saving: float = 2.0, reference: float = 0.0, errors: tuple[float, ...] = (0.0,)) -> list[Record]:
    """E = 0.9 C^-0.2 for ERM, and the same with `saving` times the compute for steering."""
    return [
        Record(key, "m", n, seed, 1e3 * n, cost, 0.9 * (factor * n) ** -0.2 * math.exp(error))
        for key, factor, cost in (("erm", 1.0, 0.0), ("steer", saving, reference))
        for n in (1, 10, 100, 900)
        for seed, error in enumerate(errors)
    ]


def test_exact_laws_give_the_exact_saving() -> None:
    scaling = fit_scaling(exact(), draws=20)
    assert scaling.unit == "TFLOPs"
    for panel in scaling.panels:
        erm, steer = panel.laws
        assert (erm.line.law.a, erm.line.law.b) == pytest.approx((0.9, -0.2))
        assert steer.line.law.a == pytest.approx(0.9 * 2**-0.2)
        assert steer.offset is not None
        assert steer.offset.law.c == 0
        assert [saving.strategy for saving in panel.savings] == ["steer"]
        assert panel.savings[0].ratio.value == pytest.approx(0.5)


def test_the_reference_counts_in_the_second_panel_only() -> None:
    left_out, counted = fit_scaling(exact(reference=5e3), draws=20).panels
    assert (left_out.counting, counted.counting) == ("not counted", "counted")
    assert [point[0] for point in left_out.laws[1].points] == [1, 10, 100, 900]
    assert [point[0] for point in counted.laws[1].points] == [6, 15, 105, 905]
    assert counted.laws[0].points == left_out.laws[0].points
    assert counted.savings[0].ratio.value > left_out.savings[0].ratio.value


@pytest.mark.parametrize(("dearest", "unit"), [(0.5, "GFLOPs"), (999, "GFLOPs"), (1e3, "TFLOPs"), (3e13, "ZFLOPs")])
def test_the_unit_fits_the_dearest_run(dearest: float, unit: str) -> None:
    records = [Record("erm", "m", 1, 0, dearest / share, 0.0, 0.2 * share) for share in (1, 2)]
    assert fit_scaling(records, draws=1).unit == unit


def test_sentences() -> None:
    noise = (0.01, -0.012, 0.004)
    clear = fit_scaling(exact(saving=4.0, errors=noise), draws=200).sentences()
    assert len(clear) == 2
    assert clear[0].startswith(
        "With the reference's cost not counted, steer needs 0.25 times the compute of ERM for an"
    )
    assert "no measurable difference" not in clear[0]
    wiggle = [
        Record(
            r.strategy, r.model, r.samples, r.seed, r.compute, r.reference_compute, r.error * (1 + 0.05 * (-1) ** place)
        )
        for place, r in enumerate(exact(saving=1.05))
    ]
    assert fit_scaling(wiggle, draws=200).sentences()[0].endswith("which is no measurable difference.")
    rising = [r for r in exact() if r.strategy == "erm"]
    rising += [Record("steer", "m", n, 0, float(n), 0.0, 0.2 * n**0.1) for n in (1000, 10000)]
    assert (
        fit_scaling(rising, draws=200)
        .sentences()[0]
        .startswith("With the reference's cost not counted, steer and ERM cannot be compared at an error of")
    )
    two = [r for r in exact() if r.samples in (1, 900)]
    assert fit_scaling(two, draws=200).sentences()[0].endswith("; there are too few runs for an interval.")


def test_without_plain_training_nothing_is_compared() -> None:
    scaling = fit_scaling([record for record in exact() if record.strategy == "steer"], draws=5)
    assert scaling.sentences() == []
    assert "Compute / ERM" not in scaling_markdown(scaling, "x")


def test_an_offset_needs_four_amounts_of_compute() -> None:
    three = [record for record in exact() if record.samples < 900]
    assert all(law.offset is None for panel in fit_scaling(three, draws=5).panels for law in panel.laws)
    assert len(law_rows(fit_scaling(three, draws=5))) == 4
    assert len(law_rows(fit_scaling(exact(), draws=5))) == 8


def test_the_files(tmp_path: Path, grid: Grid) -> None:
    (tmp_path / "scaling.json").write_text(json.dumps(grid()))
    out = build_scaling(tmp_path, "<b>grid</b>")
    assert out == tmp_path / "scaling.html"
    page = out.read_text()
    assert "<script" not in page
    assert "<b>grid</b>:" not in page
    assert "With the reference&#39;s cost counted, steer needs" in page
    assert "36 runs" in page
    used = set(re.findall(r"var\(--([a-z-]+)\)", page))
    assert {"s-erm", "s-steer", "grid"} <= used
    assert all(f"--{name}:" in page for name in used)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    markdown = (tmp_path / "scaling.md").read_text()
    assert markdown.startswith("## Scaling: <b>grid</b>\n\n![Test error against compute](scaling.svg)")
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables[:10]}) == 1
    figure = (tmp_path / "scaling.svg").read_text()
    assert figure.startswith("<svg ")
    assert "prefers-color-scheme: dark" in figure
    assert all(f"--{name}:" in figure for name in re.findall(r"var\(--([a-z-]+)\)", figure))
    assert not re.search(r"url\((?!#)", figure)


def test_the_note_says_what_the_error_is(grid: Grid) -> None:
    values = grid()
    assert "1 less test accuracy; C: compute in TFLOPs." in scaling_markdown(
        fit_scaling([Record(**v) for v in values], 5), "a"
    )
    records = [Record(**value, metric="zero_shot_top1") for value in values]
    assert "1 less zero-shot accuracy; C: compute in TFLOPs." in scaling_markdown(fit_scaling(records, 5), "a")


def test_the_same_grid_gives_the_same_files(tmp_path: Path, grid: Grid) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scaling.json").write_text(json.dumps(grid()))
        build_scaling(tmp_path / name, "grid")
        contents.append(
            [(tmp_path / name / file).read_bytes() for file in ("scaling.html", "scaling.md", "scaling.svg")]
        )
    assert contents[0] == contents[1]


def test_the_figure_is_well_formed(grid: Grid) -> None:
    from xml.etree import ElementTree

    drawing = draw_scaling(fit_scaling([Record(**record) for record in grid()], draws=20))
    for text in (standalone(drawing), str(drawing.narrow)):
        assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "TFLOPs of training and reference" in drawing.wide
    assert "steer: " in drawing.wide


def test_bad_records(tmp_path: Path, grid: Grid) -> None:
    path = tmp_path / "scaling.json"

    def read(value: object) -> None:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        read_records(path)

    with pytest.raises(UserError, match=r"scaling\.json` must be a JSON list of runs"):
        read("{")
    with pytest.raises(UserError, match="must be a JSON list of at least one run: finish a cell"):
        read([])
    with pytest.raises(UserError, match=r"run 1 must have the keys strategy, .*; it lacks error\."):
        read([grid()[0], {key: value for key, value in grid()[0].items() if key != "error"}])
    with pytest.raises(UserError, match="run 0: `compute` must be a finite number of at least 0, found 'x'"):
        read([{**grid()[0], "compute": "x"}])
    with pytest.raises(UserError, match="run 0: `error` must be a finite number of at least 0, found nan"):
        read([{**grid()[0], "error": math.nan}])
    with pytest.raises(UserError, match="`records` must hold at least one run, found none"):
        fit_scaling([])
    with pytest.raises(
        UserError, match="the runs of erm give no scaling law: `compute` must hold at least 2 different"
    ):
        fit_scaling([Record("erm", "m", 1, 0, 1.0, 0.0, 0.5)])
    with pytest.raises(
        UserError, match="the runs of erm give no scaling law: `error` must hold finite numbers above 0"
    ):
        fit_scaling([Record("erm", "m", 1, 0, 1.0, 0.0, 0.0), Record("erm", "m", 1, 0, 2.0, 0.0, 0.5)])
