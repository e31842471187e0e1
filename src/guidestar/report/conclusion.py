"""The answer over all headlines of a run: a strategy may win one and lose another."""

from dataclasses import dataclass

from guidestar.report.formatting import listing
from guidestar.report.headlines import headlines, with_retrieval
from guidestar.report.statistics import Results
from guidestar.report.strategies import STEERED
from guidestar.report.verdict import STEERING, Certainty, Table, Verdict, decide, name_of


@dataclass(frozen=True)
class Conclusion:
    """The answer.

    Args:
        sentence: for a reader who reads one sentence.
        verdicts: one a headline; with a single one, the sentence is its own.
    """

    sentence: str
    verdicts: tuple[Verdict, ...]


def conclude(results: Results, metric: str | None = None, pairs: bool = False) -> Conclusion:
    """Compare strategies by every headline, and say in a sentence what comes of it.

    Args:
        results: strategy -> metric -> one value a seed, seeds in the same order everywhere; NaN where a seed has none.
        metric: what to go by instead of the headlines.
        pairs: whether the run is known to be one on image-text pairs.

    Returns:
        The conclusion.

    Raises:
        UserError: the metric is not known.

    Example:
        >>> erm = {"zero_shot_top1": [0.48, 0.49], "image_to_text_r10": [0.61, 0.62], "text_to_image_r10": [0.61, 0.62]}
        >>> steer = {"zero_shot_top1": [0.53, 0.54], "image_to_text_r10": [0.52, 0.53], "text_to_image_r10": [0.52, 0.53]}
        >>> print(conclude({"erm": erm, "steer": steer}).sentence)
        Steering wins zero-shot accuracy (53.5 ± 0.7 %, ERM 48.5 ± 0.7 %) and loses retrieval recall at 10
        (52.5 ± 0.7 %, ERM 61.5 ± 0.7 %).
    """
    results = with_retrieval(results)
    metrics = headlines(results, metric, pairs)
    verdicts = tuple(decide(results, each.key) for each in metrics)
    tables = [Table(each, results) for each in metrics]
    if len(verdicts) == 1:
        return Conclusion(verdicts[0].sentence, verdicts)
    if any(len(table.ranking()) < 2 for table in tables):
        return Conclusion(" ".join(dict.fromkeys(verdict.sentence for verdict in verdicts)), verdicts)
    return Conclusion(_across(tables, verdicts), verdicts)


def _across(tables: list[Table], verdicts: tuple[Verdict, ...]) -> str:
    """How one strategy does by each headline: the best that steers, or else the winner of the first."""
    subject = tables[0].best_of(STEERED) or tables[0].ranking()[0]
    name = STEERING.get(subject, name_of(subject))
    clauses = [
        _clause(table, verdict, subject)
        for table, verdict in zip(tables, verdicts, strict=True)
        if subject in table.summaries
    ]
    sentence = f"{name} {listing(clauses)}."
    if any(verdict.certainty is Certainty.SINGLE_SEED for verdict in verdicts):
        return f"A single seed cannot tell: {sentence} Run more seeds for a verdict."
    return sentence[0].upper() + sentence[1:]


def _clause(table: Table, verdict: Verdict, subject: str) -> str:
    ranking, noun, own = table.ranking(), table.metric.noun, table.bracket(subject)

    def against(key: str) -> str:
        return f"({own}, {name_of(key)} {table.bracket(key)})"

    if verdict.certainty is Certainty.SINGLE_SEED:
        if ranking[0] == subject:
            return f"is ahead in {noun} {against(ranking[1])}"
        return f"is behind in {noun} {against(ranking[0])}"
    if subject not in verdict.tied:
        difference = table.difference(ranking[0], subject)
        told = difference is not None and difference.low is not None
        return f"{'loses' if told else 'is behind in'} {noun} {against(ranking[0])}"
    if verdict.certainty is not Certainty.CLEAR:
        other = ranking[1] if ranking[0] == subject else ranking[0]
        return f"ties for the best {noun} {against(other)}"
    return f"wins {noun} {against(next(key for key in ranking if key not in verdict.tied))}"
