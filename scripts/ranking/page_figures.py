"""The part of `docs/results-objectives.md` on the figures: each with what its JSON file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidestar.report.statistics import paired_difference

from . import figure_margin, figure_partial, figure_primal_dual
from .words import Comparison, best, cell


def lines(folder: Path) -> list[str]:
    """The sections of the figures whose files are there."""
    made = []
    for name, write in SECTIONS.items():
        path = folder / f"objectives_{name}.json"
        if path.exists():
            made += write(json.loads(path.read_text(encoding="utf-8")))
    return made


def _image(name: str, label: str) -> str:
    return f"\n![{label}](figures/objectives_{name}.svg)\n"


def _absgd(result: dict[str, Any]) -> list[str]:
    """Figure 6.4."""
    setting, found = result["setting"], result["balanced_accuracy"]
    pairs = list(zip(found["absgd"], found["erm"], strict=True))
    higher = sum(ours > theirs for ours, theirs in pairs)
    weights = result["weights"]["absgd"]
    return [
        "\n## AB-momentum on imbalanced data (Figure 6.4)",
        _image("absgd", "Imbalanced points in the plane, the lines of two linear models, and the weights of samples"),
        f"{setting['majority']} points of one class and {setting['minority']} of the other, a linear model and "
        f"{setting['steps']} steps of momentum with the average loss or with `ABSGDLoss` (tau {setting['tau']}, gamma "
        f"{setting['gamma']}). Balanced accuracy on new points over {setting['draws']} draws: {cell(found['absgd'])} % with "
        f"`ABSGDLoss`, {cell(found['erm'])} % with the average loss; the former is higher in {higher} draws. In the draw "
        f"that is shown, the minority's sample closest to the line weighs {weights[-1]:.1f} times as much as in the average "
        "loss.",
    ]


def _primal_dual(result: dict[str, Any]) -> list[str]:
    """Figure 6.8."""
    titles = figure_primal_dual.TITLES
    rows = ["| method | learning rate | objective at the end | AUROC at the end |", "|---|---:|---:|---:|"]
    ends = {}
    for name, curve in result["curves"].items():
        ends[name] = [-values[-1] for values in curve["values"]]
        objective = sum(values[-1] for values in curve["values"]) / len(curve["values"])
        area = cell([values[-1] for values in curve["auroc"]])
        rows.append(f"| {titles[name]} | {curve['lr']:g} | {objective:.3g} | {area} |")
    area = {name: [values[-1] for values in curve["auroc"]] for name, curve in result["curves"].items()}
    return [
        "\n## Momentum and Adam for the minimax AUC (Figure 6.8)",
        _image("primal_dual", "Training objective and test AUROC by the step for SGDA, PDMA and PDAdam on BBBP"),
        "`AUCMarginLoss` on BBBP, with plain SGD, momentum or Adam for the network and the same step of the dual variable; "
        "three learning rates each, chosen by the objective on seed 0; the lists were moved up once, after all three had "
        "chosen their largest.\n",
        *rows,
        f"\nThe lowest objective is {titles[best(ends)]}'s, the highest AUROC on the test part {titles[best(area)]}'s.",
    ]


def _margin(result: dict[str, Any]) -> list[str]:
    """Figure 6.9."""
    setting, found = result["setting"], result["test"]["pretrained"]
    rows = ["| loss | data | AUROC | accuracy |", "|---|---|---:|---:|"]
    for name, stages in found.items():
        for stage, values in stages.items():
            cells = [cell([value[key] for value in values]) for key in ("auroc", "accuracy")]
            rows.append(f"| {figure_margin.TITLES[name]} | {figure_margin.STAGES[stage]} | {' | '.join(cells)} |")
    fresh = result["test"]["random"]
    gap = max(
        abs(a["auroc"] - b["auroc"])
        for stage in ("easy", "noisy")
        for a, b in zip(fresh["square"][stage], fresh["margin"][stage], strict=True)
    )
    return [
        "\n## Squared hinge and square (Figure 6.9)",
        _image("margin", "Decision boundaries of the square and the margin loss on a toy with easy and wrong examples"),
        f"A network that was trained with cross-entropy is trained on with an AUC loss for {setting['steps']} steps, once "
        f"with easy examples and once with wrong labels as well; {setting['draws']} draws, new clean points. The start from "
        "cross-entropy was chosen, as the book's figure starts from a trained network, after a start from random weights had "
        "shown no difference.\n",
        *rows,
        "\nThe scores of such a network are further apart than the margin: the square loss pulls them together again, the "
        "margin loss has nothing against it. From random weights there is no such difference: the largest difference of an "
        f"AUROC is then {100 * gap:.1g} points. Where the scores may be scaled, a minimiser of (6.20) never has means further "
        "apart than the margin, and there both functions are the same.",
    ]


def _partial(result: dict[str, Any]) -> list[str]:
    """Figure 6.12."""
    columns = [(batch, beta) for batch, by_rate in result["curves"].items() for beta in by_rate]
    rows = ["| method | " + " | ".join(f"batch {batch}, FPR ≤ {beta}" for batch, beta in columns) + " |"]
    rows.append("|---" + "|---:" * len(columns) + "|")
    ends = {
        (batch, beta): {
            name: [values[-1] for values in curve["values"]] for name, curve in result["curves"][batch][beta].items()
        }
        for batch, beta in columns
    }
    for name, title in figure_partial.TITLES.items():
        cells = [cell(found[name], name == best(found)) for found in ends.values()]
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    compared = {
        (batch, beta, ours): Comparison(ours, "mb", paired_difference(found[ours], found["mb"]))
        for (batch, beta), found in ends.items()
        for ours in ("sopa", "sopa_s")
    }
    words = [
        f"- batch {batch}, FPR ≤ {beta}: {figure_partial.TITLES[ours]} less MB {comparison.words}"
        for (batch, beta, ours), comparison in compared.items()
    ]
    higher = sum(comparison.higher for comparison in compared.values())
    order = "found here" if higher == len(compared) else "not found here" if higher == 0 else "not found throughout"
    return [
        "\n## One-way partial AUC (Figure 6.12)",
        _image(
            "partial", "Partial AUC on the test part of HIV by the step, for two false positive rates and batch sizes"
        ),
        "HIV with the network of the tables above; the book has images of skin. The temperature of SOPA-s is 1 and not tuned. "
        "MB takes the hardest negatives of each mini-batch. Batches of 16 were added after those of 128 had shown no gain. "
        "At the last step:\n",
        *rows,
        f"\nThe book's order, SOPA and SOPA-s above MB, is {order}: {higher} of {len(compared)} means are above MB's. In "
        "points, with 95 % intervals:\n",
        *words,
    ]


def _sampler(result: dict[str, Any]) -> list[str]:
    """Figure 6.15."""
    rows = [f"| positives of {result['batch']} | learning rate | AP at the end |", "|---|---:|---:|"]
    ends = {}
    for name, curve in result["curves"].items():
        ends[name] = [values[-1] for values in curve["values"]]
        rows.append(f"| {name} | {curve['lr']:g} | {cell(ends[name])} |")
    return [
        "\n## Positives in a batch (Figure 6.15)",
        _image("sampler", "Average precision by the step for different numbers of positives in batches of 64"),
        "`AveragePrecisionLoss` (SOAP) on Fashion-MNIST with 2 % positives, the number of positives in a batch set by "
        "`DualSampler`.\n",
        *rows,
        f"\nThe highest AP is that of {best(ends)} positives a batch.",
    ]


SECTIONS = {
    "absgd": _absgd,
    "primal_dual": _primal_dual,
    "margin": _margin,
    "partial": _partial,
    "sampler": _sampler,
}
