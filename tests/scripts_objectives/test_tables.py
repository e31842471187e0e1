"""Tables and sentences: what they say follows from the numbers."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.objectives.page import sections
from scripts.objectives.study import Metric
from scripts.objectives.tables import against, best, table

ACCURACY, LOSS = Metric("accuracy"), Metric("loss", higher=False, percent=False)
METHODS = {
    "a": {"setting": 0.1, "settings": [0.1, 0.2, 0.3], "test": {"accuracy": [0.5, 0.51], "loss": [1.0, 1.01]}},
    "b": {"setting": 0.2, "settings": [0.1, 0.2, 0.3], "test": {"accuracy": [0.7, 0.71], "loss": [2.0, 2.01]}},
    "c": {"setting": 0.2, "settings": [0.1, 0.2, 0.3], "test": {"accuracy": [0.2, 0.9], "loss": [1.1, 1.9]}},
}
TITLES = {"a": "A", "b": "B", "c": "C", "absent": "Absent"}


def test_the_best_of_a_column_is_bold_in_its_direction() -> None:
    assert best(METHODS, "accuracy", ACCURACY) == "b"
    assert best(METHODS, "loss", LOSS) == "a"
    lines = table(METHODS, TITLES, {"accuracy": ACCURACY, "loss": LOSS}, "rate")
    text = [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    assert text[0] == "| method | accuracy, % | loss | rate |"
    assert text[2:4] == [
        "| A | 50.5 ± 0.7 | **1.005 ± 0.007** | 0.1* |",
        "| B | **70.5 ± 0.7** | 2.005 ± 0.007 | 0.2 |",
    ]
    assert len(lines) == 5  # a method that was not run has no row


def test_a_verdict_needs_an_interval_without_zero() -> None:
    lines = against(METHODS, TITLES, "accuracy", ACCURACY, [("b", "a"), ("a", "b"), ("c", "a")])
    assert [line.rsplit(": ", 1)[1] for line in lines[1:]] == ["better", "**worse**", "not measurable"]
    assert "+20.0 points" in lines[1]
    lines = against(METHODS, TITLES, "loss", LOSS, [("a", "b"), ("b", "a")])
    assert [line.rsplit(": ", 1)[1] for line in lines[1:]] == ["better", "**worse**"]


def test_the_page_leaves_out_what_has_no_file(tmp_path: Path) -> None:
    assert sections(tmp_path) == []
    methods = {
        name: {"setting": value, "test": {"suboptimality": [value, value]}}
        for name, value in (("prospect", 1e-6), ("small", 0.1), ("large", 0.01))
    }
    study = {"facts": {"rows": 308}, "valid": methods}
    found = {"seeds": 2, "studies": {"yacht-esrm": study}}
    (tmp_path / "objectives_spectral.json").write_text(json.dumps(found))
    text = "\n".join(sections(tmp_path))
    assert "| yacht | 308 | esrm | **1.0e-06** | 1.0e-01 | 1.0e-02 |" in text
    assert "Prospect ends lowest in 1 of 1." in text
    assert "MovieLens" not in text
