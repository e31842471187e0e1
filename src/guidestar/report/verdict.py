"""Which way to use the reference: the answer in a sentence, from the results alone."""

from dataclasses import dataclass
from enum import Enum

from guidestar.report.formatting import (
    METRICS,
    Metric,
    bracket_text,
    difference_text,
    listing,
    seeds_text,
    summary_text,
)
from guidestar.report.headlines import headlines, with_retrieval
from guidestar.report.statistics import Difference, Results, Summary, paired_difference, summarise
from guidestar.report.strategies import STEERED, WITH_REFERENCE, WITHOUT_REFERENCE, describe, in_order

STEERING = {
    "steer": "steering",
    "steer+distill": "steering with distillation",
    "steer_init": "steering from the reference's weights",
}
NAMES = {
    "as_is": "the reference",
    "erm": "ERM",
    "siglip": "SigLIP",
    "dro": "DRO",
    "fastclip": "FastCLIP",
    "jest": "JEST",
}
# Up to so many values are written out one by one.
MANY = 3


class Certainty(Enum):
    """What the results allow one to say."""

    NOTHING = "no strategy has a result"
    ALONE = "one strategy, nothing to compare with"
    SINGLE_SEED = "one seed, which cannot tell"
    TIED = "the best way is not measurably better than some other way"
    CLEAR = "the best way is measurably better than every other way"


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Args:
        certainty: what the results allow one to say.
        winner: the strategy with the best mean; None without results.
        tied: the winner, then the strategies that are not measurably worse than it, best first. Each was compared with
            the winner only: two of the others may well differ.
        way: the way to use the reference that the winner stands for.
        sentence: the answer for a reader.
        notes: further sentences: the margins, and what is incomplete.
    """

    certainty: Certainty
    winner: str | None
    tied: tuple[str, ...]
    way: str
    sentence: str
    notes: tuple[str, ...]


def decide(results: Results, metric: str | None = None) -> Verdict:
    """Compare strategies by one metric, with paired t intervals at 95 % over seeds.

    Args:
        results: strategy -> metric -> one value a seed, seeds in the same order everywhere; NaN where a seed has none.
        metric: what to compare by, a key of `METRICS`; None: the first headline, which is the accuracy of classifiers
            and zero-shot accuracy (or else retrieval) of image-text models.

    Returns:
        The verdict. It says so when a difference is not measurable or when one seed cannot tell.

    Raises:
        UserError: the metric is not known.

    Example:
        >>> decide({"erm": {"accuracy": [0.85, 0.86]}, "steer": {"accuracy": [0.94, 0.95]}}).winner
        'steer'
    """
    results = with_retrieval(results)
    table = Table(headlines(results, metric)[0], results)
    ranking = table.ranking()
    if not ranking:
        sentence = "Nothing has finished: no strategy has a result."
        if any(summarise(row.get(key, [])) for row in results.values() for key in METRICS):
            sentence = f"No strategy has a result for {table.metric.noun}."
        return Verdict(Certainty.NOTHING, None, (), "", sentence, ())
    winner = ranking[0]
    differences = {key: table.difference(winner, key) for key in ranking[1:]}
    untold = {key for key, difference in differences.items() if difference is None or difference.low is None}
    tied = [winner, *(key for key in ranking[1:] if key not in untold and not _separated(differences[key]))]
    if len(ranking) == 1:
        certainty, sentence = Certainty.ALONE, _alone(table, winner)
    elif ranking[1] in untold:
        certainty, sentence = Certainty.SINGLE_SEED, _single_seed(table, ranking)
        tied = [winner]
    elif _one_family(tied) and len(tied) < len(ranking):
        certainty, sentence = Certainty.CLEAR, _clear(table, winner, [key for key in ranking if key not in tied])
    else:
        certainty, sentence = Certainty.TIED, _tied(table, tied)
    notes = tuple(note[0].upper() + note[1:] for note in _notes(table, ranking, certainty, tied))
    return Verdict(certainty, winner, tuple(tied), describe(winner).way, sentence, notes)


class Table:
    """The results of one metric with the look-ups that sentences need.

    Args:
        metric: which metric.
        results: strategy -> metric -> one value a seed.

    Example:
        >>> Table(METRICS["accuracy"], {"erm": {"accuracy": [0.8]}, "steer": {"accuracy": [0.9]}}).ranking()
        ['steer', 'erm']
    """

    def __init__(self, metric: Metric, results: Results) -> None:
        self.metric = metric
        self.values = {key: results[key].get(metric.key, []) for key in in_order(set(results))}
        self.summaries: dict[str, Summary] = {}
        for key, values in self.values.items():
            summary = summarise(values)
            if summary is not None:
                self.summaries[key] = summary

    def ranking(self) -> list[str]:
        """The strategies that have a value, best mean first."""
        sign = -1 if self.metric.higher_is_better else 1
        return sorted(self.summaries, key=lambda key: sign * self.summaries[key].mean)

    def difference(self, first: str, second: str) -> Difference | None:
        """The paired difference of two strategies."""
        return paired_difference(self.values[first], self.values[second])

    def text(self, key: str) -> str:
        """A strategy's mean and spread for a sentence."""
        return summary_text(self.metric, self.summaries[key])

    def bracket(self, key: str) -> str:
        """A strategy's mean and spread for use within brackets."""
        return bracket_text(self.metric, self.summaries[key])

    def best_of(self, keys: tuple[str, ...]) -> str | None:
        """The best of these strategies; None if none has a value."""
        return next((key for key in self.ranking() if key in keys), None)

    def better(self, difference: float) -> bool:
        """Whether a difference is to the good."""
        return difference > 0 if self.metric.higher_is_better else difference < 0

    def measurably_better(self, first: str, second: str) -> bool:
        """Whether the interval of the difference lies on the good side of 0."""
        difference = self.difference(first, second)
        return difference is not None and difference.separated and self.better(difference.mean)


def _one_family(tied: list[str]) -> bool:
    """Whether all of them stand for one way: a tie within it leaves no doubt about the way."""
    return len(tied) == 1 or set(tied) <= set(STEERED) or set(tied) <= set(WITHOUT_REFERENCE)


def _clear(table: Table, winner: str, others: list[str]) -> str:
    """The winner against the strategies that are measurably worse, best first."""
    if winner in WITHOUT_REFERENCE:
        return _without_reference(table, winner, others)
    second = others[0]
    seeds = seeds_text(table.summaries[winner].seeds)
    advice, subject = describe(winner).advice, describe(winner).subject
    if winner == "as_is":
        facts = [f"{advice}: it has {table.text(winner)} {table.metric.noun}"]
        facts.append(f"the best model of your own, {name_of(second)}, {table.text(second)} over {seeds}")
    else:
        facts = [f"{advice}: {subject} gives {table.text(winner)} {table.metric.noun} over {seeds}"]
        facts.append(f"the next best, {name_of(second)}, {table.text(second)}")
    return _sentence(table, facts, {winner, second})


def _without_reference(table: Table, winner: str, others: list[str]) -> str:
    """The reference does not help: said first, then by how much it falls behind."""
    steered = table.best_of(STEERED)
    advice = "Do not steer here" if steered else "Train without the reference"
    behind = []
    if "as_is" in table.summaries:
        behind.append(f"the reference ({table.bracket('as_is')})")
    if steered:
        behind.append(f"{STEERING[steered]} ({table.bracket(steered)})")
    if others[0] not in ("as_is", steered):
        behind.append(f"the next best, {name_of(others[0])} ({table.bracket(others[0])})")
    place = "above" if table.metric.higher_is_better else "below"
    seeds = seeds_text(table.summaries[winner].seeds)
    return (
        f"{advice}: {describe(winner).subject} reaches {table.text(winner)} {table.metric.noun} over {seeds}, "
        f"{place} {listing(behind)}."
    )


def _tied(table: Table, tied: list[str]) -> str:
    """The winner, then what was not told apart from it: of two of the others nothing is claimed."""
    winner, others = tied[0], tied[1:]
    place = "Highest" if table.metric.higher_is_better else "Lowest"
    seeds = seeds_text(table.summaries[winner].seeds)
    facts = [f"{place}: {name_of(winner)}, {table.text(winner)} {table.metric.noun} over {seeds}"]
    close = listing([f"{name_of(key)} ({table.bracket(key)})" for key in others])
    if len(others) > MANY:
        ends = f"from {table.bracket(others[0])} to {table.bracket(others[-1])}"
        close = f"{listing([name_of(key) for key in others])} ({ends})"
    facts.append(f"{close} {'is' if len(others) == 1 else 'are'} not measurably worse")
    sentence = _sentence(table, facts, set(tied))
    if _reference_brings_nothing(table, tied):
        return f"{sentence} The reference brings no measurable gain in {table.metric.noun}."
    if "as_is" in tied:
        return f"{sentence} Using the reference as it is needs no training."
    return sentence


def _reference_brings_nothing(table: Table, tied: list[str]) -> bool:
    """Whether training without the reference is among the best and nothing that uses it is measurably better."""
    plain = next((key for key in WITHOUT_REFERENCE if key in table.summaries), None)
    if plain is None or not set(tied) & set(WITHOUT_REFERENCE):
        return False
    differences = [table.difference(key, plain) for key in WITH_REFERENCE if key in table.summaries]
    compared = any(difference is not None and difference.low is not None for difference in differences)
    return compared and not any(table.measurably_better(key, plain) for key in WITH_REFERENCE if key in table.summaries)


def _single_seed(table: Table, ranking: list[str]) -> str:
    winner, second = ranking[0], ranking[1]
    place = "highest" if table.metric.higher_is_better else "lowest"
    facts = [
        f"A single seed cannot tell: {name_of(winner)} is {place} with {table.text(winner)} {table.metric.noun}",
        f"next is {name_of(second)} with {table.text(second)}",
    ]
    return f"{_sentence(table, facts, {winner, second})} Run more seeds for a verdict."


def _alone(table: Table, winner: str) -> str:
    seeds = seeds_text(table.summaries[winner].seeds)
    return (
        f"Only {name_of(winner)} has results: {table.text(winner)} {table.metric.noun} over {seeds}. "
        "There is nothing to compare it with."
    )


def _notes(table: Table, ranking: list[str], certainty: Certainty, tied: list[str]) -> list[str]:
    pairs = []
    if certainty is Certainty.CLEAR:
        pairs += [(ranking[0], key) for key in ranking if key in tied[1:]]
        pairs.append((ranking[0], next(key for key in ranking if key not in tied)))
    pairs += [pair for pair in _against_erm(table, ranking, tied) if set(pair) not in map(set, pairs)]
    notes = [_margin(table, first, second) for first, second in pairs]
    expected = max(len(values) for values in table.values.values())
    short = [key for key, values in table.values.items() if values and _seeds(table, key) < expected]
    notes += [f"{name_of(key)} has results for {_seeds(table, key)} of {seeds_text(expected)}." for key in short]
    return [note for note in notes if note]


def _against_erm(table: Table, ranking: list[str], tied: list[str]) -> list[tuple[str, str]]:
    """What to compare with plain training: the best that uses the reference, and steering."""
    if "erm" not in table.summaries:
        return []
    using = [key for key in ranking if key in WITH_REFERENCE]
    # A mean can be highest by luck: what is measurably better than plain training counts first.
    best = next((key for key in using if table.measurably_better(key, "erm")), using[0] if using else None)
    steered = "steer" if "steer" in using else table.best_of(STEERED)
    keys = [best] if best and _separated(table.difference(best, "erm")) else []
    if steered and (_separated(table.difference(steered, "erm")) or not {steered, "erm"} <= set(tied)):
        keys.append(steered)
    return [(key, "erm") for key in dict.fromkeys(keys)]


def _margin(table: Table, first: str, second: str) -> str:
    difference = table.difference(first, second)
    if difference is None or difference.low is None:
        return ""
    seeds = seeds_text(difference.seeds)
    names = f"{name_of(first)} and {name_of(second)}"
    if not difference.separated:
        return f"No measurable difference between {names} with {seeds}."
    place = "better" if table.better(difference.mean) else "worse"
    size = difference_text(table.metric, difference)
    return f"{name_of(first)} is {place} than {name_of(second)} by {size}, paired over {seeds}."


def _sentence(table: Table, facts: list[str], said: set[str]) -> str:
    """The facts, then the reference and plain training, which a reader wants to know whatever wins."""
    landmarks = [key for key in ("as_is", "erm") if key in table.summaries and key not in said]
    return "; ".join([*facts, *(f"{describe(key).subject} {table.text(key)}" for key in landmarks)]) + "."


def _seeds(table: Table, key: str) -> int:
    return table.summaries[key].seeds if key in table.summaries else 0


def _separated(difference: Difference | None) -> bool:
    return difference is not None and difference.separated


def name_of(key: str) -> str:
    """A strategy as a sentence names it.

    Args:
        key: a strategy.

    Returns:
        Its name.

    Example:
        >>> name_of("as_is"), name_of("steer")
        ('the reference', 'steer')
    """
    return NAMES.get(key, key)
