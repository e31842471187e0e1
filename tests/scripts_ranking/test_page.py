"""The page from fake results: what is bold, and what the words say."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path
from typing import Any

import pytest
from scripts.ranking import data_molecules, figure_absgd, figure_margin, metrics, page, page_figures, words
from scripts.ranking.gather import gather
from scripts.ranking.output import save_json
from scripts.ranking.task import BinaryTask

METRICS = ("auroc", "ap", "pauc", "tpauc")


def fake_run(folder: Path, task: str, method: str, values: list[float], setting: float = 0.1) -> None:
    """The files of one method: one setting on the first seed, and the other seeds."""
    for seed, value in enumerate(values):
        result: dict[str, Any] = {"task": task, "method": method, "setting": setting, "seed": seed, "seconds": 1.0}
        result |= {part: dict.fromkeys(METRICS, value) for part in ("valid", "test")}
        path = folder / task / method / f"{setting:g}-{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))


@pytest.fixture
def results(tmp_path: Path, toy: BinaryTask) -> dict[str, Any]:
    runs = tmp_path / "runs"
    fake_run(runs, "bbbp", "ce", [0.80, 0.81, 0.82])
    fake_run(runs, "bbbp", "soap", [0.70, 0.71, 0.72])
    fake_run(runs, "bbbp", "libauc_soap", [0.69, 0.70, 0.71])
    fake_run(runs, "bbbp", "focal", [0.99, 0.99])  # a seed is missing: not counted
    fake_run(runs, "hiv", "ce", [0.60, 0.70, 0.80])
    fake_run(runs, "hiv", "soap", [0.75, 0.72, 0.74])
    fake_run(runs, "hiv", "libauc_soap", [0.70, 0.70, 0.70])
    found = gather(runs, ("bbbp", "hiv", "adult"), lambda name: lambda seed: toy)
    for task in found["tasks"].values():
        task["kind"] = "molecules"
    return found


def test_gather(results: dict[str, Any]) -> None:
    assert list(results["tasks"]) == ["bbbp", "hiv"]
    assert set(results["tasks"]["bbbp"]["methods"]) == {"ce", "soap", "libauc_soap"}
    assert results["tasks"]["bbbp"]["methods"]["ce"]["test"]["ap"] == [0.80, 0.81, 0.82]
    assert results["seconds"] == 20.0


def test_page(results: dict[str, Any], tmp_path: Path) -> None:
    save_json(tmp_path / "objectives.json", results)
    text = page.write(tmp_path).replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")
    assert "| cross-entropy | **81.0 ± 1.0** | 70.0 ± 10.0 |" in text
    assert "| `AveragePrecisionLoss` (SOAP) | 71.0 ± 1.0 | **73.7 ± 1.5** |" in text
    assert "| -10.0 (-10.0 to -10.0): **worse** | none: not comparable | LibAUC APLoss, SOAP: +1.0 " in text
    assert "not measurable" in text
    first, second, third = re.findall(r"Against (.*)", text)
    assert first == (
        "plain cross-entropy, the best row of guidestar has the higher mean in 4 of 8 comparisons, measurably in 0, and "
        "the lower one in 4, measurably in 4."
    )
    assert second.startswith(
        "balanced or weighted cross-entropy, focal, the best row of guidestar has the higher mean in 0 of 0"
    )
    assert third.startswith("other libraries, the best row of guidestar has the higher mean in 8 of 8 comparisons,")
    assert "AUROC, mean over these tasks: plain cross-entropy 75.5, the best row of guidestar 72.3." in text
    assert "| AP | 2 of 2 tasks | +2.3 |" in text
    assert "| focal loss |" not in text


def test_the_page_is_what_its_files_give() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    assert (docs / "results-objectives.md").read_text(encoding="utf-8") == page.write(docs / "figures")


def test_figures_of_the_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_absgd, "DRAWS", 2)
    monkeypatch.setattr(figure_margin, "DRAWS", 1)
    monkeypatch.setattr(figure_margin, "STEPS", 5)
    figure_absgd.run(tmp_path)
    figure_margin.run(tmp_path)
    first = (tmp_path / "objectives_absgd.svg").read_bytes()
    figure_absgd.run(tmp_path)
    assert (tmp_path / "objectives_absgd.svg").read_bytes() == first
    weights = json.loads((tmp_path / "objectives_absgd.json").read_text())["weights"]
    assert weights["erm"] == pytest.approx([1.0] * 12, abs=1e-3)
    assert max(weights["absgd"]) == weights["absgd"][-1]
    text = "\n".join(page_figures.lines(tmp_path))
    assert re.findall(r"figures/(\w+)\.svg", text) == ["objectives_absgd", "objectives_margin"]


def test_sections_of_curves(tmp_path: Path) -> None:
    def one(*ends: float) -> dict[str, Any]:
        return {"lr": 0.01, "steps": [0, 10], "values": [[0.1, end] for end in ends], "auroc": [[0.5, e] for e in ends]}

    names = {"sgda": one(0.5, 0.5), "pdma": one(0.3, 0.3), "pdadam": one(0.2, 0.2)}
    save_json(tmp_path / "objectives_primal_dual.json", {"curves": names})
    curves = {"mb": one(0.4, 0.4), "sopa": one(0.5, 0.5), "sopa_s": one(0.6, 0.6)}
    save_json(tmp_path / "objectives_partial.json", {"curves": {"64": {"0.3": curves, "0.5": curves}}})
    save_json(tmp_path / "objectives_sampler.json", {"batch": 64, "curves": {"1": one(0.2, 0.3), "32": one(0.7, 0.8)}})
    text = "\n".join(page_figures.lines(tmp_path))
    assert "The lowest objective is PDAdam's, the highest AUROC on the test part SGDA's." in text
    assert "| SOPA-s | **60.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.0** | **60.0" in text
    assert "- batch 64, FPR ≤ 0.3: SOPA less MB +10.0 (+10.0 to +10.0): better" in text
    assert "The highest AP is that of 32 positives a batch." in text


@pytest.mark.parametrize("module", [words, metrics, data_molecules])
def test_examples(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
