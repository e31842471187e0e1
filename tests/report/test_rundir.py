"""Reading run directories, whole and damaged."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from guidestar.errors import UserError
from guidestar.report.curves import read_curves
from guidestar.report.rundir import read_run
from guidestar.report.sections import problem_lines
from guidestar.report.weights import embedded_png, read_samples, read_weights

MakeRun = Callable[..., Path]


def test_a_finished_run(make_run: MakeRun) -> None:
    path = make_run(seeds=3)
    run = read_run(path)
    totals = json.loads((path / "results.json").read_text())
    assert run.results == {key: totals[key] for key in run.results}
    assert list(run.results)[:2] == ["as_is", "erm"]
    assert (run.name, run.seeds, run.problems, run.warnings) == ("digits", [0, 1, 2], [], [])


def test_seeds_stay_paired_when_one_is_missing(make_run: MakeRun) -> None:
    path = make_run(seeds=3)
    whole = read_run(path).results["steer"]["accuracy"]
    (path / "results.json").unlink()
    (path / "seed-1" / "steer" / "result.json").unlink()
    run = read_run(path)
    values = run.results["steer"]["accuracy"]
    assert (values[0], values[2]) == (whole[0], whole[2])
    assert math.isnan(values[1])
    assert problem_lines(run) == [("steer", "unfinished, last seen at step 160 (seed 1)")]


def test_failed_and_unstarted_strategies(make_run: MakeRun) -> None:
    path = make_run(seeds=2, strategies=["erm", "steer", "magic"])
    for seed in (0, 1):
        result = {"status": "failed", "error": "loss is NaN at step 3"}
        (path / f"seed-{seed}" / "steer" / "result.json").write_text(json.dumps(result))
    (path / "seed-0" / "erm" / "result.json").write_text("{broken")
    (path / "seed-0" / "erm" / "metrics.jsonl").unlink()
    run = read_run(path)
    assert "steer" not in run.results  # results.json still has an older result
    lines = dict(problem_lines(run))
    assert lines["steer"] == "failed: loss is NaN at step 3 (seeds 0, 1)"
    assert lines["erm"] == "unfinished, not a step yet (seed 0)"
    assert lines["magic"] == "not started"
    assert run.warnings == ["seed-0/erm/result.json is not a JSON object."]


def test_results_alone_are_enough(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"erm": {"accuracy": [0.5, null, 0.7]}, "odd": 3}')
    run = read_run(tmp_path)
    assert run.seeds == [0, 1, 2]
    assert run.results["erm"]["accuracy"][::2] == [0.5, 0.7]
    assert math.isnan(run.results["erm"]["accuracy"][1])
    assert "odd" not in run.results
    assert run.warnings[0].startswith("recipe.yaml cannot be read")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither `results.json` nor a folder `seed-<n>/<strategy>`"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        read_run(tmp_path / "file")


def test_curves_average_over_seeds(make_run: MakeRun) -> None:
    path = make_run(seeds=2)
    for seed, values in ((0, (0.5, 0.7)), (1, (0.7, 0.9))):
        lines = [json.dumps({"samples_trained": 100 * (i + 1), "test": {"accuracy": v}}) for i, v in enumerate(values)]
        # Written again after a resume, then cut off by a kill: the last whole line of a point counts.
        stale = json.dumps({"samples_trained": 200, "test": {"accuracy": 0.1}})
        (path / f"seed-{seed}" / "erm" / "metrics.jsonl").write_text("\n".join([stale, *lines, '{"samples_tr']))
    curve = next(curve for curve in read_curves(read_run(path)) if curve.strategy == "erm")
    assert curve.samples.tolist() == [100, 200]
    assert curve.mean == pytest.approx([0.6, 0.8])
    assert curve.std == pytest.approx([math.sqrt(0.02)] * 2)
    assert curve.seeds == 2


def test_a_short_seed_does_not_stretch_beyond_its_end(make_run: MakeRun) -> None:
    path = make_run(seeds=2)
    for seed, values in ((0, {100: 0.5, 300: 0.9}), (1, {100: 0.5, 200: 0.5})):
        lines = [json.dumps({"samples_trained": x, "test": {"accuracy": y}}) for x, y in values.items()]
        (path / f"seed-{seed}" / "erm" / "metrics.jsonl").write_text("\n".join(lines))
    curve = next(curve for curve in read_curves(read_run(path)) if curve.strategy == "erm")
    assert curve.mean == pytest.approx([0.5, 0.6, 0.9])


def test_weights_are_split_by_true_label(make_run: MakeRun) -> None:
    path = make_run(seeds=2)
    for seed in (0, 1):
        np.savez(
            path / f"seed-{seed}" / "steer" / "weights.npz",
            weight=np.array([2.0, 0.5, 0.0], np.float32),
            label=np.array([1, 2, 3]),
            true_label=np.array([1, 0, 3]),
        )
    weights = read_weights(read_run(path), "steer")
    assert weights is not None
    assert weights.corrupted is not None
    assert weights.clean.tolist() == [2.0, 0.0, 2.0, 0.0]
    assert weights.corrupted.tolist() == [0.5, 0.5]


def test_damaged_weights_are_named(make_run: MakeRun) -> None:
    path = make_run(seeds=3)
    (path / "seed-0" / "steer" / "weights.npz").write_bytes(b"PK\x03\x04 cut off")
    (path / "seed-0" / "select" / "weights.npz").write_bytes(b"")
    np.savez(path / "seed-1" / "steer" / "weights.npz", weight=np.array([1.0, np.nan, -1.0]))
    np.savez(path / "seed-2" / "steer" / "weights.npz", weight=np.ones(3), label=np.ones(2))
    weights = read_weights(read_run(path), "steer")
    assert weights is not None
    assert weights.clean.tolist() == [1.0]
    assert weights.corrupted is None
    assert [warning.split(":")[0] for warning in weights.warnings] == [
        "weights.npz of steer on seed 0 cannot be read",
        "2 of 3 weights of steer on seed 1 are negative, NaN or infinite; they are left out.",
        "weights.npz of steer on seed 2 cannot be read",
    ]
    empty = read_weights(read_run(path), "select")
    assert empty is not None
    assert empty.warnings[0].startswith("weights.npz of select on seed 0 cannot be read")


def test_pickled_weights_are_refused(make_run: MakeRun) -> None:
    path = make_run(seeds=1)
    np.savez(path / "seed-0" / "steer" / "weights.npz", weight=np.array([object()], dtype=object))
    weights = read_weights(read_run(path), "steer")
    assert weights is not None
    assert weights.seeds == 0
    assert "cannot be read" in weights.warnings[0]


def test_samples(make_run: MakeRun) -> None:
    found = read_samples(read_run(make_run(seeds=1)), "steer")
    assert found is not None
    seed, most, least = found
    assert (seed, len(most), len(least)) == (0, 12, 12)
    assert most[0].weight > least[0].weight
    assert most[0].crisp
    assert least[0].true_label not in (None, least[0].label)


@pytest.mark.parametrize(
    "value",
    [
        "https://example.org/a.png",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:text/html;base64,PHN2Zz4=",
        "data:image/png;base64,PHN2Zz4=",
        'data:image/png;base64,iVBORw0KGgo=" onerror="x',
        "data:image/png;base64,iVBORw0KGgo\n",
        "data:image/png;base64,iVBORw0KGgo",
        "",
        7,
    ],
)
def test_only_embedded_png_is_accepted(value: object) -> None:
    assert embedded_png(value) is None
