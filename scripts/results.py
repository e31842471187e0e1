"""Runs the results table: each recipe under each condition, two at a time, and writes `docs/results.md`.

python scripts/results.py            # everything, about 100 minutes on two cores; continues where it stopped
python scripts/results.py --write    # only write the page from the runs that are there
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pair_results

from guidestar.report import decide
from guidestar.report.statistics import summarise

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "results"
CONDITIONS = {
    "clean": ("clean labels, balanced classes", []),
    "noise20": ("20 % wrong labels", ["data.label_noise=0.2"]),
    "noise40": ("40 % wrong labels", ["data.label_noise=0.4"]),
    "imbalance10": ("class imbalance 10", ["data.imbalance=10"]),
    "imbalance100": ("class imbalance 100", ["data.imbalance=100"]),
}
DIGITS = {
    "clean": ("clean labels", ["data.label_noise=0"]),
    "noise30": ("30 % wrong labels (the demo)", ["data.label_noise=0.3"]),
}
#: Recipe -> its title, what is special about it, and its conditions.
RECIPES = {
    "cifar10": ("CIFAR-10", "3 seeds. The reference has seen 2,000 clean images, the target 5,000 others.", CONDITIONS),
    "fashion_mnist": (
        "Fashion-MNIST",
        "3 seeds. The reference has seen 1,000 clean images, the target 5,000 others.",
        CONDITIONS,
    ),
    "demo": ("Digits", "5 seeds. A smaller reference on 200 clean samples, so that it cannot be fine-tuned.", DIGITS),
}
STRATEGIES = ("as_is", "erm", "dro", "finetune", "distill", "select", "steer", "steer+distill")
HEAD = """# Results on real data

Test accuracy in percent, mean ± standard deviation over the seeds; each seed draws its own reference rows, training rows,
wrong labels and initial weights. The highest mean of a column is bold. The test data are clean and balanced, so under
imbalance the accuracy is also the balanced accuracy. Every strategy takes the same number of optimizer steps on batches of
the same size; `select` runs the target on four (digits: ten) times as many samples to choose them.

Nothing was tuned to a strategy: one risk (KL, tau = 1, gamma = 0.9) steers throughout, and the settings are those of
`recipes/demo.yaml`, `recipes/fashion_mnist.yaml` and `recipes/cifar10.yaml`. Sizes and learning rates were set after one
trial (seed 0, 40 % wrong labels) of each of the last two. Except for the digits, reference and target are the same small
network, which is what makes `finetune` possible; a class imbalance leaves fewer training images, with the same number of
steps, while the reference has seen balanced classes. All of it is small and far from the state of the art of these data
sets: the comparison is what counts.

`make results` runs everything again and writes this page; nothing in it is entered by hand.

The objectives of ranking, of groups, of very many classes and the spectral risks have a page of their own, against their
peers: [objectives on real data](results-objectives.md).
"""


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="only write the page")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    if not options.write:
        jobs = [
            (recipe, f"{recipe}-{condition}", changes)
            for recipe, (_, _, conditions) in RECIPES.items()
            for condition, (_, changes) in conditions.items()
        ]
        jobs += pair_results.jobs()
        with ThreadPoolExecutor(options.jobs) as pool:
            failed = [name for name, code in zip(jobs, pool.map(_run, jobs), strict=True) if code]
        if failed:
            sys.exit(f"failed: {failed}")
        if pair_results.scale(ROOT, RUNS):
            sys.exit("failed: the scaling grid")
    page = ROOT / "docs" / "results.md"
    page.write_text(write_page(RUNS), encoding="utf-8")
    print(f"written {page.relative_to(ROOT)}")


def _run(job: tuple[str, str, list[str]]) -> int:
    recipe, name, changes = job
    log = RUNS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "guidestar", "compare", f"recipes/{recipe}.yaml", f"name={name}"]
    command += [f"output={RUNS}", *changes, "--resume"]
    with log.open("w") as stream:
        return subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env=os.environ).returncode


def write_page(runs: Path) -> str:
    """The page from the runs' folders."""
    lines = [HEAD]
    for recipe, (title, note, conditions) in reversed(RECIPES.items()):
        found = {
            condition: json.loads((runs / f"{recipe}-{condition}" / "results.json").read_text())
            for condition in conditions
        }
        lines += [
            f"\n## {title}\n",
            f"{note}\n",
            *_table([conditions[name][0] for name in found], list(found.values())),
        ]
        lines += ["", "What the report of each run says:", ""]
        for condition, results in found.items():
            verdict = decide(results)
            lines.append(f"- **{conditions[condition][0]}**: {' '.join([verdict.sentence, *verdict.notes])}")
        seconds = sum(sum(values.get("seconds", [])) for results in found.values() for values in results.values())
        lines.append("")
        lines.append(
            f"Training time of this table: {seconds / 60:.1f} minutes of one core, of a machine that did other work too."
        )
    lines += pair_results.lines(runs)
    lines += pair_results.scaling_lines(ROOT / "docs" / "figures")
    environment = json.loads((runs / "cifar10-clean" / "environment.json").read_text())
    lines += ["\n## Environment\n", *(f"- {key}: {value}" for key, value in environment.items())]
    return "\n".join(lines) + "\n"


def _table(titles: list[str], runs: list[dict]) -> list[str]:
    """A row a strategy, a column a condition; the best mean of a column is bold."""
    rows: dict[str, list[str]] = {name: [] for name in STRATEGIES}
    for results in runs:
        cells = {name: summarise(results[name]["accuracy"]) for name in STRATEGIES if name in results}
        means = {name: cell.mean for name, cell in cells.items() if cell is not None}
        best = max(means, key=lambda name: means[name])
        for name in STRATEGIES:
            cell = cells.get(name)
            value = (
                "" if cell is None else f"{100 * cell.mean:.1f} ± {100 * (cell.std or 0.0):.1f}".replace(" ", "\u00a0")
            )
            rows[name].append(f"**{value}**" if name == best else value)
    body = [f"| `{name}` | " + " | ".join(values) + " |" for name, values in rows.items() if any(values)]
    return ["| strategy | " + " | ".join(titles) + " |", "|---" + "|---:" * len(titles) + "|", *body]


if __name__ == "__main__":
    main()
