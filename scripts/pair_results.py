"""The part of `docs/results.md` on image-text pairs: its runs, tables and verdicts. See `results.py`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from guidestar.report import conclude
from guidestar.report.headlines import with_retrieval
from guidestar.report.statistics import summarise

STRATEGIES = (
    "as_is",
    "erm",
    "dro",
    "fastclip",
    "finetune",
    "distill",
    "select",
    "jest",
    "steer",
    "steer_init",
    "steer+distill",
)
MISMATCH = {0: "no mismatch", 20: "20 % mismatched", 40: "40 % mismatched"}
#: Recipe -> its title, what is special about it, its strategies, and its metrics.
RECIPES: dict[str, tuple[str, str, tuple[str, ...], dict[str, str]]] = {
    "fashion_products": (
        "Fashion products: photos and titles",
        "3 seeds. The reference has seen 2,500 clean pairs, the target trains on 5,583 others; 1,500 pairs are the test "
        "data, of which those of the 30 most frequent article types are classified zero-shot.",
        STRATEGIES,
        {"zero_shot_top1": "Zero-shot accuracy", "retrieval": "Retrieval, mean of R@10 both ways"},
    ),
    "flickr8k": (
        "Flickr8k: photos and five captions each",
        "3 seeds. The reference has seen 1,500 clean photos, the target trains on 4,500 others; 1,000 are the test data. "
        "A captioned photo has no class, so there is no zero-shot accuracy.",
        tuple(name for name in STRATEGIES if name not in ("finetune", "steer_init")),
        {"retrieval": "Retrieval, mean of R@10 both ways"},
    ),
}
#: The reference's clean pairs -> its name in the table of references.
REFERENCES = {500: "weak: 500 pairs", 2500: "equal: 2,500 pairs", 5000: "strong: 5,000 pairs"}
#: Metrics of the laws of scaling; the error is 1 less the metric.
SCALING = ("zero_shot_top1", "text_to_image_r10")
BESIDE = ("as_is", "erm", "distill", "steer", "steer+distill")
HEAD = """
# Image-text pairs

Test results in percent, mean ± standard deviation over the seeds; every seed draws its own reference and target rows,
mismatched captions and initial weights; the test pairs are the same for all. The highest mean of a column is bold. All
strategies train for the same number of steps on batches of the same size and of the same pairs; `select` (RHO-LOSS) and
`jest` embed four times as many pairs to choose from. Reference and target are the same small network (a convolutional and a
bag-of-words tower, 40 x 40 pixels), trained for 15 epochs in batches of 256 (Flickr8k: 20 epochs, 128).

- `dro` is the control of steering: the same risk, temperature and epsilon without the reference.
- `steer_init` is steering from the reference's weights, `finetune` plain training from them.
- The temperature of the steered losses (0.05, constant, gamma = 1) and the number of epochs are those of an earlier trial on
  the same photos; the shares of select and jest are 0.25. FastCLIP-v3 runs with the package's defaults, which were published
  for large batches; two smaller radii were tried on another seed and not taken. Nothing else was tuned.

How to read it. Where all captions are right, plain training is the best or no worse than any: a weaker reference has nothing
to say, and steering by it costs accuracy. The more captions are wrong, the more the reference is worth, whichever way it is
used; `steer` against `dro` says how much of that is the reference's. Zero-shot, steering is then at least level with the best;
in retrieval joint selection is better, at four times the forward passes. A strong reference is best used as it is, and a
poor one hands on its faults: the large spread of the zero-shot accuracies comes from one seed, whose reference classifies
badly. Flickr8k is close to chance (1 %) at this size, so its differences say little.
"""


def jobs() -> list[tuple[str, str, list[str]]]:
    """Recipe, name of the run, and changes to the recipe, of each run."""
    made = [
        (
            recipe,
            f"{recipe}-mismatch{share}",
            [f"data.mismatch={share / 100}", f"strategies=[{','.join(strategies)}]"],
        )
        for recipe, (_, _, strategies, _) in RECIPES.items()
        for share in MISMATCH
    ]
    for samples in REFERENCES:
        changes = ["data.mismatch=0.4", "data.train_samples=3000", f"reference.fit.samples={samples}"]
        name = f"fashion_products-reference{samples}"
        made.append(("fashion_products", name, [*changes, f"strategies=[{','.join(BESIDE)}]"]))
    return made


def lines(runs: Path) -> list[str]:
    """The lines of the page, from the runs' folders."""
    page = [HEAD]
    for recipe, (title, note, strategies, metrics) in RECIPES.items():
        found = {title: _read(runs / f"{recipe}-mismatch{share}") for share, title in MISMATCH.items()}
        page += [f"\n## {title}\n", f"{note}\n"]
        for metric, caption in metrics.items():
            page += [f"{caption}:\n", *_table(found, strategies, metric), ""]
        page += ["What the report of each run says:", ""]
        for condition, results in found.items():
            page.append(f"- **{condition}**: {conclude(results, pairs=True).sentence}")
        page.append(f"\n{_minutes(list(found.values()))}")
    page += [
        "\n## How good must the reference be?\n",
        "Fashion products with 40 % mismatched titles, 3 seeds; the target trains on 3,000 pairs beside references that are "
        "fitted on 500, 2,500 and 5,000 others.\n",
    ]
    found = {title: _read(runs / f"fashion_products-reference{samples}") for samples, title in REFERENCES.items()}
    for metric, caption in RECIPES["fashion_products"][3].items():
        page += [f"{caption}:\n", *_table(found, BESIDE, metric), ""]
    page.append(_minutes(list(found.values())))
    return page


def scale(root: Path, runs: Path) -> int:
    """Run the scaling grid (what is there is kept) and put its figures beside the page; the exit code."""
    command = [sys.executable, "-m", "guidestar", "scaling", "recipes/fashion_products.yaml", "data.mismatch=0.2"]
    command += ["name=fashion_products", f"output={runs}", "seeds=[0,1]", "--samples", "1000,2000,4000"]
    command += ["--sizes", "model.options.image_hidden=8,16,24", "--strategies", "erm,steer", "--resume"]
    for metric in SCALING:
        code = subprocess.run([*command, "--metric", metric], cwd=root).returncode
        if code:
            return code
        for made, kept in (("svg", "svg"), ("json", "json"), ("md", "txt")):  # a part of a page, not a page
            source = runs / "fashion_products-scaling" / f"scaling.{made}"
            shutil.copyfile(source, root / "docs" / "figures" / f"scaling_{metric}.{kept}")
    return 0


def scaling_lines(figures: Path) -> list[str]:
    """The lines on the laws of scaling, from what `scale` left."""
    page = [
        "\n## Laws of scaling\n",
        "Fashion products with 20 % mismatched titles: three widths of the image tower, 1,000, 2,000 and 4,000 training pairs, "
        "2 seeds, `guidestar scaling`. At this size the laws are not told apart: the intervals of the exponents overlap, and "
        "those of the compute at equal error are unbounded. Both metrics that were fitted are shown.",
    ]
    for metric in SCALING:
        text = (figures / f"scaling_{metric}.txt").read_text(encoding="utf-8")
        _, _, body = text.partition("\n")
        page += [f"\n### {metric}\n", body.replace("(scaling.svg)", f"(figures/scaling_{metric}.svg)").strip()]
    return page


def _read(folder: Path) -> dict[str, Any]:
    return with_retrieval(json.loads((folder / "results.json").read_text(encoding="utf-8")))


def _minutes(runs: list[dict[str, Any]]) -> str:
    seconds = sum(sum(v for v in values.get("seconds", []) if v) for results in runs for values in results.values())
    return f"Training time of this part: {seconds / 60:.0f} minutes of one core, of a machine that did other work too."


def _table(runs: dict[str, dict[str, Any]], strategies: tuple[str, ...], metric: str) -> list[str]:
    """A row a strategy, a column a condition; the best mean of a column is bold."""
    rows: dict[str, list[str]] = {name: [] for name in strategies}
    for results in runs.values():
        cells = {name: summarise(results[name][metric]) for name in strategies if metric in results.get(name, {})}
        means = {name: cell.mean for name, cell in cells.items() if cell is not None}
        best = max(means, key=lambda name: means[name])
        for name in strategies:
            cell = cells.get(name)
            value = "" if cell is None else f"{100 * cell.mean:.1f} ± {100 * (cell.std or 0.0):.1f}"
            value = value.replace(" ", "\u00a0")
            rows[name].append(f"**{value}**" if name == best else value)
    body = [f"| `{name}` | " + " | ".join(values) + " |" for name, values in rows.items() if any(values)]
    return ["| strategy | " + " | ".join(runs) + " |", "|---" + "|---:" * len(runs) + "|", *body]
