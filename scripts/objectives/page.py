"""The part of `docs/results-objectives.md` on lists, groups, extreme classification, spectral risks and label losses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guidestar.report.statistics import summarise

from . import adult, films, groups, iwildcam, lists, longtail, movielens, omniglot, sources, spectral
from .tables import against, best, table

HEAD = """
# Lists, groups, many classes, spectral risks

{seeds} seeds. Every method of a table has the same number of steps, batch size and initial weights (by the seed; but for
trees) and chooses one number, as a rule the learning rate, from a list of the same length on the validation part of seed 0; a
star says that the chosen one is at an end of the list. Each cell is the mean ± the standard deviation over the seeds on the
test part, the best of a column is bold. With so few seeds only large differences are measurable.
`python -m scripts.objectives` makes all of it.
"""


def sections(folder: Path) -> list[str]:
    """The lines of the page, from the JSON files of a folder; a study without its file is left out."""
    made: list[str] = []
    for name, write in SECTIONS.items():
        path = folder / f"objectives_{name}.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            made += [] if made else [HEAD.format(seeds=found["seeds"])]
            made += write(found)
    return made


def _image(name: str, label: str) -> str:
    return f"\n![{label}](figures/objectives_{name}.svg)\n"


def _text(text: str) -> str:
    """One paragraph."""
    return " ".join(text.split()) + "\n"


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _lists(found: dict[str, Any]) -> list[str]:
    facts, methods = found["facts"], found["valid"]
    pairs = [("song", "pointwise"), ("listwise_song", "song"), ("ksong_threshold", "song")]
    ours = ("song", "listwise_song", "ksong_threshold")
    pairs += [(name, trees) for trees in ("lightgbm", "xgboost") for name in ours]
    return [
        "\n## NDCG of whole lists: LightGBM's ranking set\n",
        _text(f"""{facts["train"]} queries for training, {facts["valid"]} for validation and {facts["test"]} for testing;
            300 features. A network with one hidden layer of {lists.HIDDEN}, {lists.STEPS} steps of {lists.QUERIES} whole
            lists with Adam; LightGBM and XGBoost with {lists.TREES} trees and their defaults. Chosen by NDCG@10. Lists are
            whole, so gamma is 1. {100 * facts["relevant"]:.0f} % of the documents are relevant to some degree:
            `ListwiseCrossEntropyLoss` treats these alike, the others know the degrees."""),
        *table(methods, lists.TITLES, lists.METRICS, "learning rate"),
        "",
        *against(methods, lists.TITLES, "ndcg10", lists.METRICS["ndcg10"], pairs),
    ]


def _movielens(found: dict[str, Any]) -> list[str]:
    facts, methods = found["facts"], found["valid"]
    pairs = [("song", "bpr"), ("song", "pointwise"), ("listwise", "bpr"), ("listwise_song", "listwise")]
    pairs += [("ksong_threshold", "listwise_song"), ("song_stratified", "song"), ("song", "popularity")]
    return [
        "\n## NDCG of sampled lists: MovieLens\n",
        _text(f"""{facts["ratings"]:,} ratings of {facts["users"]} users for training, {facts["films"]:,} films (those with
            at least {movielens.LEAST_RATINGS} ratings). Of each user the last {movielens.HELD_OUT} ratings by time are the
            test part, the {movielens.HELD_OUT} before them the validation part. The metric ranks all films that the user has
            not rated before; a film's relevance is its rating rounded up. A matrix factorisation of width {movielens.WIDTH},
            {movielens.STEPS:,} steps of AdamW. A step has {movielens.USERS} users and of each {movielens.RELEVANT} rated and
            {movielens.OTHERS} other films (`QuerySampler`); gamma is {movielens.GAMMA:g}, K is {movielens.TOP}. Chosen by
            NDCG@10. The split is the same for all seeds, so the spread is that of the training alone.
            {100 * facts["sitting"]:.0f} % of the users entered all their held-out ratings within an hour, so what comes last
            is hard to tell, and all numbers are small."""),
        *table(methods, movielens.TITLES, movielens.METRICS, "learning rate"),
        "",
        *against(methods, movielens.TITLES, "ndcg10", movielens.METRICS["ndcg10"], pairs),
    ]


def _adult(found: dict[str, Any]) -> list[str]:
    facts, methods = found["facts"], found["valid"]
    ours = ("online", "primal_dual", "sonex", "alexr", "upgrad")
    pairs = [(name, rival) for rival in ("erm", "erm_groups") for name in ours]
    return [
        "\n## A few groups: Adult, income times sex\n",
        _text(f"""{facts["train"]:,} rows for training, {facts["rarest"]} of them in the smallest group (women with a high
            income). A network with one hidden layer of {adult.HIDDEN}, {adult.STEPS} steps of {4 * adult.SAMPLES} rows, which
            are {adult.SAMPLES} of each of the four groups but for plain ERM; Adam, and plain SGD for SONX and ALEXR. alpha is
            1/4, the worst group alone. Chosen by the worst group's accuracy on validation rows. The step
            sizes of the groups' weights and of nu are {adult.INNER.nu:g}, that of ALEXR's dual variables
            {adult.INNER.alexr:g}; they were not tuned. UPGrad is `jacobian_backward` on the losses of the four groups."""),
        *table(methods, groups.TITLES, adult.METRICS, "learning rate"),
        "",
        *against(methods, groups.TITLES, "worst", adult.METRICS["worst"], pairs),
    ]


def _films(found: dict[str, Any]) -> list[str]:
    facts, methods = found["facts"], found["valid"]
    pairs = [("sonex", name) for name in films.SHOWN if name != "sonex"]
    return [
        "\n## Many groups: reviews by film (Figure 6.6)\n",
        _text(f"""{facts["train"]:,} IMDB reviews of the {facts["films"]} films with at least {films.LEAST_REVIEWS} reviews; a
            film is a group, in every part. Hashed tf-idf of {films.FEATURES:,} features and a logistic regression; the
            objective is the mean over the worst tenth of the films, and {films.L2:g}/2 times the squared norm. A step has
            {films.GROUPS} films and {films.SAMPLES} reviews of each, as in the book; a film has only {facts["smallest"]} to
            {facts["largest"]} reviews in the training part, so all of them are there, several times; ERM has as many
            shuffled reviews. SONEX, the two methods with weights of groups and ERM use Adam, SONX and ALEXR plain SGD. The
            figure is about optimisation, so the learning rate is chosen by the training objective, and so were on seed 0 the
            step sizes of the groups' weights
            ({films.INNER.online:g} online, {films.INNER.primal_dual:g} primal-dual), of nu ({films.INNER.nu:g}) and of
            ALEXR's dual variables ({films.INNER.alexr:g}), each from three values."""),
        _image("films", "Training objective of the worst tenth of the films by the step for six methods"),
        *table(methods, groups.TITLES, films.METRICS, "learning rate"),
        "",
        *against(methods, groups.TITLES, "objective", films.METRICS["objective"], pairs),
        "",
        *against(methods, groups.TITLES, "worst_accuracy", films.METRICS["worst_accuracy"], pairs),
        "",
        _text(f"""A film has {facts["test_reviews"]:.1f} test reviews on average: the worst tenth of the films is in part the
            films with the worst luck, for every method alike."""),
    ]


def _omniglot(found: dict[str, Any]) -> list[str]:
    facts = found["facts"]
    pairs = [("scent", name) for name in omniglot.TITLES if name != "scent"]
    training, validation, test = omniglot.DRAWERS
    lines = [
        "\n## Many classes: Omniglot (Figure 6.7)\n",
        _text(f"""{facts["classes"]:,} characters; {facts["train"]:,} training images of {training} drawers, {validation} other
            drawers for validation and {test} for testing. Fixed features (directions of strokes on a grid, PCA to
            {omniglot.FEATURES}) and a linear classifier, {omniglot.EPOCHS} epochs of SGD without momentum, batches of
            {omniglot.BATCH}. All but the full softmax see only the classes of the batch (`ClassWeights` with
            `ExtremeClassificationLoss`). Their step sizes of nu are the best of three on seed 0 (alpha
            {omniglot.SCENT_ALPHA:g} for SCENT, gamma {omniglot.SOX_GAMMA:g} for SOX, {omniglot.ASGD_LR:g} for ASGD); the
            learning rate of the weights is one of {len(omniglot.RATES)}. The figure and the first table have the one that
            gives the lowest full cross-entropy on the validation part, the second table the one with the highest accuracy
            there."""),
        _image("omniglot", "Full cross-entropy on training images and accuracy on validation images by the epoch"),
    ]
    for criterion in ("loss", "valid"):
        lines += [*table(found[criterion], omniglot.TITLES, omniglot.METRICS, "learning rate"), ""]
    for criterion, key, words in (("loss", "cross_entropy", "first"), ("valid", "accuracy", "second")):
        lines += [f"From the {words} table:\n"]
        lines += [*against(found[criterion], omniglot.TITLES, key, omniglot.METRICS[key], pairs), ""]
    return lines


def _spectral(found: dict[str, Any]) -> list[str]:
    titles = spectral.TITLES
    lines = [
        "\n## Spectral risks: UCI regressions\n",
        _text(f"""Ridge regression with the chi-square penalty as in the Prospect paper (superquantile of the worst
            half, extremile 2, ESRM 1; mu = 1/n; nu = {spectral.NU:g}, because with the paper's 1 the superquantile and the
            extremile can hardly be told apart here). The suboptimality is (F(w) - F\\*) / (F(0) - F\\*) after
            {spectral.PASSES} passes, with F the risk of all samples and F\\* its minimum by L-BFGS. Constant step sizes, one
            of {len(spectral.RATES)} by the last suboptimality on seed 0. SGD takes the risk of its mini-batch, which is
            biased. Means over the seeds."""),
        _image(
            "spectral", "Suboptimality by passes over the data of Prospect and of SGD, three sets and three spectra"
        ),
        "| set | samples | spectrum | " + " | ".join(titles.values()) + " |",
        "|---|---:|---|" + "---:|" * len(titles),
    ]
    lowest = []
    for name, study in found["studies"].items():
        data, spectrum = name.split("-")
        ends = {method: summarise(entry["test"]["suboptimality"]) for method, entry in study["valid"].items()}
        means = {method: float("inf") if end is None else end.mean for method, end in ends.items()}
        lowest.append(min(means, key=lambda method: means[method]))
        cells = [f"**{means[key]:.1e}**" if key == lowest[-1] else f"{means[key]:.1e}" for key in titles]
        lines.append(f"| {data} | {study['facts']['rows']} | {spectrum} | " + " | ".join(cells) + " |")
    count = lowest.count("prospect")
    rates = []
    for key, title in titles.items():
        used = sorted({study["valid"][key]["setting"] for study in found["studies"].values()})
        rates.append(f"{_listed(used)} for {title}")
    words = f"""Prospect ends lowest in {count} of {len(lowest)}. Its steps cost more: each solves the inner problem over all
        samples. The chosen step sizes, of {_listed(spectral.RATES)}: {"; ".join(rates)}."""
    return [*lines, "", _text(words)]


def _longtail(found: dict[str, Any]) -> list[str]:
    facts, methods = found["facts"], found["valid"]
    pairs = [(name, "erm") for name in longtail.TITLES if name != "erm"] + [("absgd", "absgd_one")]
    top = best(methods, "balanced", longtail.METRICS["balanced"])
    return [
        "\n## A long tail of classes: Fashion-MNIST, imbalance 100\n",
        _text(f"""{facts["train"]:,} training images, from {longtail.MOST:,} of the most frequent class to {facts["rarest"]}
            of the rarest; validation and test part are balanced, and the seed decides which class is rare. A network with one
            hidden layer of {longtail.HIDDEN}, {longtail.EPOCHS} epochs. One of three learning rates by the balanced accuracy
            on validation images; for `ABSGDLoss` one of three temperatures at the middle learning rate, in the first of two
            stages (half of the epochs) temperature {longtail.FIRST_TAU:g}. The other losses have their default parameters."""),
        *table(methods, longtail.TITLES, longtail.METRICS, "setting"),
        "",
        *against(methods, longtail.TITLES, "balanced", longtail.METRICS["balanced"], pairs),
        "",
        _text(f"""The highest balanced accuracy is that of {longtail.TITLES[top]}. `ClassBalancedLoss` and
            `LogitAdjustedLoss` are given the classes' frequencies, the others are not."""),
    ]


def _iwildcam(found: dict[str, Any]) -> list[str]:
    facts = found["facts"]
    names = [name for name in iwildcam.TITLES if not name.startswith("erm")]
    methods, constant = found["valid"], math.log(iwildcam.CLASSES)
    below = sum(max(entry["test"]["worst_half"]) < constant for entry in methods.values())
    rivals = {"erm": [(name, "erm") for name in ("erm_classes", *names)]}
    rivals["erm_classes"] = [(name, "erm_classes") for name in names]
    lines = [
        "\n## A long tail of classes under shift: iWildCam features\n",
        _text(f"""The {facts["features"]} features of the Prospect paper and a linear softmax of {iwildcam.CLASSES} classes.
            {facts["train"]:,} rows of WILDS' validation file for training ({facts["classes"]} classes with {facts["rarest"]}
            to {facts["largest"]} rows), the other {facts["valid"]:,} for validation. The {facts["test"]:,} test rows come
            from other cameras; {facts["unseen"]} of them are of {facts["unseen_classes"]} classes (of the
            {facts["test_classes"]} there) that have no training row, which nothing here can learn. Balanced accuracy is over
            the classes that occur in a part, so it is at most
            {100 - 100 * facts["unseen_classes"] / facts["test_classes"]:.0f} % here; what else is missing is due to the shift
            and the small model. A constant prediction has the loss log({iwildcam.CLASSES}) =
            {constant:.3f}; the worst half of the test losses has a lower mean for {below} of the {len(methods)} methods of
            the first table."""),
        _text(f"""{iwildcam.STEPS:,} steps of Adam from zero, {iwildcam.CLASSES_A_STEP * iwildcam.SAMPLES} rows a step:
            shuffled, or {iwildcam.SAMPLES} of each of {iwildcam.CLASSES_A_STEP} classes for the losses of groups (a class is
            a group) and for "ERM, classes uniformly". The learning rate is one of {len(iwildcam.RATES)}; step sizes of
            weights and thresholds were not tuned. SONEX takes the worst half of the classes, `Spectral` the worst half of the
            rows of a batch. `ClassBalancedLoss` and `LogitAdjustedLoss` are given the classes' numbers of rows (1 for a class
            without rows). The first table has the rate with the highest balanced accuracy on the validation part, the second
            that with the lowest mean of the worst half of the losses there. The validation part is of the same cameras as
            the training part, so it says little about the test part. Set after trials on seed 0 in which test values were
            seen: the factor that brings the mean weight of `ClassBalancedLoss` to 1."""),
    ]
    for criterion in ("valid", "loss"):
        lines += [*table(found[criterion], iwildcam.TITLES, iwildcam.METRICS, "learning rate"), ""]
    compared = (("valid", "balanced", "first", "erm"), ("valid", "balanced", "first", "erm_classes"))
    for criterion, key, words, rival in (*compared, ("loss", "worst_half", "second", "erm")):
        lines += [f"From the {words} table:\n"]
        lines += [*against(found[criterion], iwildcam.TITLES, key, iwildcam.METRICS[key], rivals[rival]), ""]
    return lines


def _sources(found: dict[str, Any]) -> list[str]:
    facts, methods, titles = found["facts"], found["valid"], sources.TITLES
    steered = [(f"{name}_reference", name) for name in ("online", "cvar", "kl")]
    plain = [(name, "erm_sources") for name in titles if not name.startswith("erm")]
    sizes = ", ".join(f"{title} {facts['train_' + name]:,}" for name, title in sources.SOURCES.items())
    levels = ", ".join(f"{title} {facts['reference_' + name]:.3f}" for name, title in sources.SOURCES.items())
    return [
        "\n## Sources of instruction data: with and without a reference\n",
        _text(f"""Four sources of instructions and answers are the groups (bytes for training: {sizes}). The model predicts a
            byte from the {sources.CONTEXT} before it, by one hidden layer of {sources.HIDDEN}; {sources.STEPS:,} steps of
            Adam and {sources.BATCH} bytes, as many of each source but for plain ERM. The reference is the same network with
            {sources.SMALL_HIDDEN} hidden units after {sources.SMALL_STEPS} steps of plain ERM; its test losses on seed 0 are:
            {levels}. With `reference_losses`, a source weighs by its excess over the reference, as in DoReMi, and not by
            its loss. The weights here steer the training itself; no second model is trained with them afterwards."""),
        _text(f"""CVaR takes the worst half of the sources, KL has temperature {sources.TAU:g}; these and the step sizes of
            weights and thresholds were not tuned; a step size of CVaR's threshold ten times as large changed single losses on
            seed 0 by up to 0.08 and was not taken. Steps and learning rates were set after trials on seed 0 in which test
            values were seen. The learning rate is one of {len(sources.RATES)} by the mean of the
            sources' losses on the validation part. Losses are in nats a byte. A negative excess is an improvement on the
            reference; the worst excess is that of the source that improved least."""),
        *table(methods, titles, sources.METRICS, "learning rate"),
        "",
        *against(methods, titles, "excess", sources.METRICS["excess"], steered),
        "",
        *against(methods, titles, "worst", sources.METRICS["worst"], steered),
        "",
        *against(methods, titles, "excess", sources.METRICS["excess"], plain),
        "",
        *against(methods, titles, "worst", sources.METRICS["worst"], plain),
        "",
        *against(methods, titles, "mean", sources.METRICS["mean"], plain),
    ]


SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "ltr": _lists,
    "movielens": _movielens,
    "adult": _adult,
    "films": _films,
    "omniglot": _omniglot,
    "spectral": _spectral,
    "longtail": _longtail,
    "iwildcam": _iwildcam,
    "sources": _sources,
}
