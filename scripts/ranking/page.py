"""Writes `docs/results-objectives.md` from the JSON files in `docs/figures`; nothing in it is entered by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..objectives.page import sections
from . import page_figures
from .methods import BETA, RATES
from .metrics import TITLES
from .peers import PESG_RATES, RADII, SOLVED_ROWS, TREE_RATES, TREES
from .words import Comparison, best, cell, compare, mean, tally

#: Method -> what the page calls it. The order is that of the rows.
BASELINES = {
    "ce": "cross-entropy",
    "ce_balanced": "cross-entropy, half of a batch positive",
    "ce_weighted": "cross-entropy, weighted classes",
    "focal": "focal loss",
}
OURS = {
    "absgd": "`ABSGDLoss`",
    "chi_square": "logistic loss under `ChiSquare(0.1)`",
    "pairwise": "`PairwiseAUCLoss`",
    "auc_margin": "`AUCMarginLoss`",
    "compositional": "`CompositionalStep`, `AUCMarginLoss`",
    "soap": "`AveragePrecisionLoss` (SOAP)",
    "sopa": "`SOPALoss`",
    "sopa_s": "`SOPAsLoss`",
    "sota_s": "`SOTAsLoss`",
    "ce_auc_margin": "cross-entropy, then `AUCMarginLoss`",
    "ce_soap": "cross-entropy, then `AveragePrecisionLoss`",
}
LIBAUC = {
    "libauc_aucm": "LibAUC AUCMLoss v2, PESG",
    "libauc_aucm_adam": "LibAUC AUCMLoss v1, PESG in Adam mode",
    "libauc_comp": "LibAUC CompositionalAUCLoss, PDSCA",
    "libauc_soap": "LibAUC APLoss, SOAP",
    "libauc_sopa": "LibAUC pAUC (SOPA)",
    "libauc_sopa_s": "LibAUC pAUC (SOPA-s)",
    "libauc_sota_s": "LibAUC pAUC (SOTA-s)",
}
OTHERS = {"lightgbm": "LightGBM", "xgboost": "XGBoost", "dro_chi2": "dro: chi-square DRO, linear"}
NAMES = {**BASELINES, **OURS, **LIBAUC, **OTHERS}
#: The same algorithm in both libraries, and the metric it is for.
SIBLINGS = (
    ("auc_margin", "libauc_aucm", "auroc"),
    ("auc_margin", "libauc_aucm_adam", "auroc"),
    ("soap", "libauc_soap", "ap"),
    ("sopa", "libauc_sopa", "pauc"),
    ("sopa_s", "libauc_sopa_s", "pauc"),
    ("sota_s", "libauc_sota_s", "tpauc"),
)
RIVALS = {
    "plain cross-entropy": ["ce"],
    "balanced or weighted cross-entropy, focal": ["ce_balanced", "ce_weighted", "focal"],
    "other libraries": [*LIBAUC, *OTHERS],
}
KINDS = {"images": "Imbalanced images", "molecules": "Molecules", "table": "Tables"}
NOTES = {
    "images": "Classes 0 to 4 are the negatives and 5 to 9 the positives, of which so many are kept that their share of "
    "the training part is 1, 2 or 10 %; validation and test part are balanced, as in the book. The network has three "
    "strided convolutions of 16, 32 and 64 channels; CIFAR-10 is halved to 16 x 16 pixels. So few steps and so small a network "
    "are far too little for CIFAR-10, where AUROCs stay low: the comparison counts, not the level. Weighted "
    "cross-entropy, chi-square and two of LibAUC's losses were left out here, where trainings take longest.",
    "molecules": "1,024 bits of Morgan fingerprints (radius 2, by rdkit) and a network of one hidden layer of 128 with "
    "dropout. A split by scaffolds: no Bemis-Murcko scaffold is in two of the training (60 %), validation (20 %) and test "
    "part (20 %); each seed deals the scaffolds out anew.",
    "table": "One-hot categories, standardized numbers, and a network of one hidden layer of 64. Adult has its official "
    "test part; COMPAS and German credit are split 60 / 20 / 20 by the seed. `dro` solves a linear model on at most "
    f"{SOLVED_ROWS:,} training rows with a conic solver; its radius is tuned.",
}
HEAD = """# Objectives on real data

What the objectives of ranking and of DRO bring on real data, against cross-entropy and against other libraries, all in one
harness. Every number is in percent, the mean ± the standard deviation over {seeds} seeds on the test part; the highest mean
of a column is bold.

- **Same for all networks**: the same architecture, initial weights (by the seed), number of steps and batch size, a cosine
  schedule, weight decay 1e-4, and Adam unless the row says PESG or PDSCA. The losses of pairs and LibAUC's get batches
  half of which are positive (`DualSampler`); the losses of single samples get the data as they are, cross-entropy both.
- **Tuning**: one number, of three values, by the AUROC of the validation part on seed 0: the learning rate (Adam
  {adam}; LibAUC's PESG and PDSCA {pesg}; trees {trees} with {rounds} rounds)
  or, for `dro`, the radius ({radii}). All else is a default: margin 1, temperature 1, gamma 0.9; FPR {beta} for SOPA.
- **Metrics**: {metrics}; both partial areas
  are divided by their largest value, so that 100 is perfect; chance is 15 for pAUC and 0 for TPAUC.
- LibAUC's losses get sigmoid(score), as in its examples, the others the score itself.
- The book recommends to start AUC and AP losses from a network that cross-entropy has trained. The rows "cross-entropy,
  then" do so: half of the steps with balanced cross-entropy (learning rate {first_rate}), then a new last layer and the
  other half with the loss. All other networks start from random weights.
- **What was set after looking**: networks, steps, batch sizes and the lists of learning rates, after trials on seed 0 of
  most tasks in which test values were seen too. LibAUC's AUCMLoss runs in Adam mode as version 1, because version 2, which
  LibAUC recommends, learnt nothing there from Fashion-MNIST with 10 % positives at any of the rates. The rows with
  cross-entropy first, compositional training and chi-square came after the other results.

With {seeds} seeds only large differences are measurable: the intervals are paired t intervals at 95 %, and the best of a
group of methods is picked by the test mean, which flatters the group with more methods (guidestar's has ten or more rows).
Nothing is corrected for the number of comparisons.

`make results` runs everything again (`python -m scripts.ranking`) and writes this page.
"""


def write(folder: Path) -> str:
    """The page from the JSON files of a folder."""
    results = json.loads((folder / "objectives.json").read_text(encoding="utf-8"))
    lines = [HEAD.format(seeds=results["seeds"], metrics=", ".join(TITLES.values()), **_choices())]
    for kind, title in KINDS.items():
        tasks = {name: task for name, task in results["tasks"].items() if task["kind"] == kind}
        if tasks:
            lines += [f"\n## {title}\n", NOTES[kind], "", *_sizes(tasks), *_tables(tasks), *_against(tasks)]
    lines += _siblings(results["tasks"])
    lines += [
        f"\nThe trainings of these tables took {results['seconds'] / 60:.0f} minutes of one core.",
        "\n# Figures of the book\n",
        "The shape of figures of chapter 6, on smaller data; each has a script in `scripts/ranking`.",
        *page_figures.lines(folder),
        *sections(folder),
        "\n## Environment\n",
        *(f"- {key}: {value}" for key, value in {**results["environment"], **results["packages"]}.items()),
    ]
    return "\n".join(lines) + "\n"


def _choices() -> dict[str, str]:
    """The values that were tuned over, as the head of the page names them."""
    grids = {"adam": RATES, "pesg": PESG_RATES, "trees": TREE_RATES, "radii": RADII}
    shown = {name: ", ".join(f"{value:g}" for value in values) for name, values in grids.items()}
    return {**shown, "rounds": str(TREES), "beta": f"{BETA:g}", "first_rate": f"{RATES[1]:g}"}


def _sizes(tasks: dict[str, Any]) -> list[str]:
    lines = ["| task | training samples | of them positive | test samples | of them positive | steps x batch |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for task in tasks.values():
        facts = task["facts"]
        numbers = [facts[key] for key in ("train", "positives", "test", "test_positives")]
        cells = " | ".join(f"{number:,}" for number in numbers)
        lines.append(f"| {facts['title']} | {cells} | {facts['steps']} x {facts['batch_size']} |")
    return lines


def _tables(tasks: dict[str, Any]) -> list[str]:
    """A table a metric: a row a method, a column a task."""
    lines = []
    for metric, title in TITLES.items():
        lines += [f"\n{title}:\n", "| method | " + " | ".join(task["facts"]["title"] for task in tasks.values()) + " |"]
        lines.append("|---" + "|---:" * len(tasks) + "|")
        highest = {
            name: best({method: found["test"][metric] for method, found in task["methods"].items()})
            for name, task in tasks.items()
        }
        for method, shown in NAMES.items():
            cells = [
                cell(task["methods"].get(method, {"test": {metric: None}})["test"][metric], method == highest[name])
                for name, task in tasks.items()
            ]
            if any(cells):
                lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return lines


def _against(tasks: dict[str, Any]) -> list[str]:
    """The best row of guidestar against the best row of each group of others, in words."""
    lines = ["\nThe best row of guidestar, and what it is above the best row of each group, in points:\n"]
    lines += [
        "| task | metric | best of guidestar | " + " | ".join(RIVALS) + " |",
        "|---|---|---" + "|---" * len(RIVALS) + "|",
    ]
    found: dict[str, list[Comparison]] = {name: [] for name in RIVALS}
    for task in tasks.values():
        for metric, title in TITLES.items():
            cells, ours = [], ""
            for name, others in RIVALS.items():
                comparison = compare(task["methods"], metric, list(OURS), others)
                found[name].append(comparison)
                rival = "" if len(others) == 1 else f"{NAMES.get(comparison.other, 'none')}: "
                cells.append(f"{rival}{comparison.words}")
                ours = NAMES.get(comparison.ours, ours)
            lines.append(f"| {task['facts']['title']} | {title.split(' ')[0]} | {ours} | {' | '.join(cells)} |")
    tallies = [tally(comparisons, name) for name, comparisons in found.items()]
    return [*lines, "", *tallies, _levels(tasks)]


def _levels(tasks: dict[str, Any]) -> str:
    """What the batches bring, and what the losses: AUROCs over the tasks."""
    groups = {"plain cross-entropy": ["ce"], "cross-entropy with half of a batch positive": ["ce_balanced"]}
    groups["the best row of guidestar"] = list(OURS)
    parts = []
    for title, names in groups.items():
        values = [
            max(
                (mean(task["methods"][name]["test"]["auroc"]) for name in names if name in task["methods"]),
                default=-1.0,
            )
            for task in tasks.values()
        ]
        if min(values) > 0:
            parts.append(f"{title} {100 * sum(values) / len(values):.1f}")
    return f"AUROC, mean over these tasks: {', '.join(parts)}."


def _siblings(tasks: dict[str, Any]) -> list[str]:
    """The same algorithm in both libraries, over all tasks."""
    lines = ["\n## The same algorithms in LibAUC\n", "Difference of the means over the seeds, guidestar less LibAUC:\n"]
    lines += ["| guidestar | LibAUC | metric | higher in | mean difference, points |", "|---|---|---|---:|---:|"]
    for ours, theirs, metric in SIBLINGS:
        differences = [
            mean(task["methods"][ours]["test"][metric]) - mean(task["methods"][theirs]["test"][metric])
            for task in tasks.values()
            if ours in task["methods"] and theirs in task["methods"]
        ]
        finite = [value for value in differences if abs(value) < 1]
        if finite:
            higher = sum(value > 0 for value in finite)
            average = f"{100 * sum(finite) / len(finite):+.1f}".replace("-", "\N{MINUS SIGN}")
            name = TITLES[metric].split(" ")[0]
            lines.append(f"| {NAMES[ours]} | {NAMES[theirs]} | {name} | {higher} of {len(finite)} tasks | {average} |")
    return lines
