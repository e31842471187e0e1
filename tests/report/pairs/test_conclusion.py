"""The answer over two headlines, on image-text pairs."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from guidestar.errors import UserError
from guidestar.report import Certainty, conclude, decide, print_verdict, results_table
from guidestar.report.headlines import headlines, value_of, with_retrieval

NAN = float("nan")
SHAPE, OTHER = [-0.004, 0.0, 0.004], [0.003, -0.004, 0.001]
Row = dict[str, list[float]]


def row(zero_shot: float, retrieval: float, shape: list[float] = SHAPE) -> Row:
    ways = [retrieval + step for step in shape]
    return {
        "zero_shot_top1": [zero_shot + step for step in shape],
        "image_to_text_r10": [way + 0.01 for way in ways],
        "text_to_image_r10": [way - 0.01 for way in ways],
    }


def test_steering_wins_one_and_loses_the_other() -> None:
    results = {"as_is": row(0.396, 0.331), "erm": row(0.485, 0.613, OTHER), "steer": row(0.530, 0.520)}
    conclusion = conclude(results)
    assert conclusion.sentence == (
        "Steering wins zero-shot accuracy (53.0 ± 0.4 %, ERM 48.5 ± 0.4 %) and loses retrieval recall at 10 "
        "(52.0 ± 0.4 %, ERM 61.3 ± 0.4 %)."
    )
    first, second = conclusion.verdicts
    assert (first.winner, second.winner) == ("steer", "erm")
    assert first.sentence.startswith("Steer: training your own model with the reference as guide gives 53.0 %")
    assert second.sentence.startswith("Do not steer here: plain training (ERM) reaches 61.3 % (± 0.4) retrieval recall")


def test_steering_wins_both() -> None:
    conclusion = conclude({"erm": row(0.485, 0.5, OTHER), "steer+distill": row(0.530, 0.6)})
    assert conclusion.sentence.startswith("Steering with distillation wins zero-shot accuracy (53.0 ± 0.4 %, ERM")
    assert "and wins retrieval recall at 10 (60.0 ± 0.4 %, ERM 50.0 ± 0.4 %)." in conclusion.sentence


def test_a_tie_is_no_win() -> None:
    conclusion = conclude({"distill": row(0.529, 0.5, OTHER), "steer": row(0.530, 0.6)})
    assert conclusion.sentence.startswith("Steering ties for the best zero-shot accuracy (53.0 ± 0.4 %, distill 52.9")
    behind = conclude({"distill": row(0.531, 0.5, OTHER), "steer": row(0.530, 0.6)})
    assert behind.sentence.startswith("Steering ties for the best zero-shot accuracy (53.0 ± 0.4 %, distill 53.1")


def test_a_tie_among_strategies_that_steer_is_a_win() -> None:
    results = {"erm": row(0.485, 0.5, OTHER), "steer": row(0.530, 0.6), "steer_init": row(0.529, 0.599, OTHER)}
    conclusion = conclude(results)
    assert conclusion.sentence.startswith("Steering wins zero-shot accuracy (53.0 ± 0.4 %, ERM 48.5 ± 0.4 %)")


def test_without_anything_that_steers_it_is_about_the_winner() -> None:
    conclusion = conclude({"erm": row(0.485, 0.613, OTHER), "siglip": row(0.52, 0.55)})
    assert conclusion.sentence.startswith("SigLIP wins zero-shot accuracy (52.0 ± 0.4 %, ERM 48.5 ± 0.4 %) and loses")


def test_a_single_seed_cannot_tell() -> None:
    results = {"erm": row(0.485, 0.613, [0.0]), "steer": row(0.530, 0.520, [0.0])}
    assert conclude(results).sentence == (
        "A single seed cannot tell: steering is ahead in zero-shot accuracy (53.0 %, ERM 48.5 %) and is behind in "
        "retrieval recall at 10 (52.0 %, ERM 61.3 %). Run more seeds for a verdict."
    )


def test_a_strategy_with_one_of_three_seeds_does_not_lose() -> None:
    steer = {name: [values[0], NAN, NAN] for name, values in row(0.40, 0.40).items()}
    results = {"erm": row(0.485, 0.613, OTHER), "siglip": row(0.45, 0.55), "steer": steer}
    assert conclude(results).sentence.startswith("Steering is behind in zero-shot accuracy (39.6 %, ERM 48.5 ± 0.4 %)")


def test_without_labels_retrieval_is_the_only_headline() -> None:
    results = {
        key: {name: values for name, values in columns.items() if name != "zero_shot_top1"}
        for key, columns in {"erm": row(0, 0.613, OTHER), "steer": row(0, 0.520)}.items()
    }
    conclusion = conclude(results)
    assert len(conclusion.verdicts) == 1
    assert conclusion.sentence == decide(results).sentence
    assert "61.3 % (± 0.4) retrieval recall at 10" in conclusion.sentence


def test_classification_is_as_it_was() -> None:
    results = {"erm": {"accuracy": [0.8, 0.81, 0.82]}, "steer": {"accuracy": [0.9, 0.91, 0.92]}}
    conclusion = conclude(results)
    assert conclusion.sentence == decide(results, "accuracy").sentence
    assert conclusion.verdicts == (decide(results),)


def test_nothing_has_finished() -> None:
    conclusion = conclude({}, pairs=True)
    assert conclusion.sentence == "Nothing has finished: no strategy has a result."
    assert [verdict.certainty for verdict in conclusion.verdicts] == [Certainty.NOTHING] * 2
    alone = conclude({"erm": row(0.485, 0.613)})
    assert alone.sentence.count("Only ERM has results") == 2


def test_a_metric_of_choice() -> None:
    results = {"erm": row(0.485, 0.613, OTHER), "steer": row(0.530, 0.520)}
    assert conclude(results, "text_to_image_r10").verdicts[0].winner == "erm"
    with pytest.raises(UserError, match=r"`metric` must be one of accuracy, .*found 'f1'"):
        conclude(results, "f1")


def test_retrieval_is_the_mean_of_both_ways_seed_by_seed() -> None:
    columns = {"image_to_text_r10": [0.5, NAN, 0.7], "text_to_image_r10": [0.3, 0.4, None]}
    filled = with_retrieval({"erm": columns, "steer": {"accuracy": [0.5]}})
    assert filled["erm"]["retrieval"][0] == pytest.approx(0.4)
    assert str(filled["erm"]["retrieval"][1:]) == "[nan, nan]"
    assert "retrieval" not in filled["steer"]
    assert "retrieval" not in columns
    assert value_of({"image_to_text_r10": 0.5}, "retrieval") is None


def test_headlines_of_an_unfinished_run_on_pairs() -> None:
    assert [metric.key for metric in headlines({}, pairs=True)] == ["zero_shot_top1", "retrieval"]


@pytest.mark.parametrize("labels", [True, False])
def test_the_terminal_fits_80_columns(make_pairs_run: Callable[..., Path], labels: bool) -> None:
    results = json.loads((make_pairs_run(labels=labels) / "results.json").read_text())
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    console.print(results_table(results))
    lines = stream.getvalue().splitlines()
    head = lines[0].split()
    assert head[:2] == (["strategy", "zero-shot"] if labels else ["strategy", "retrieval"])
    assert head[-1] == "time"
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in stream.getvalue()
    assert "retrieval: mean R@10" in " ".join(stream.getvalue().split())
    steer = next(line for line in lines if line.startswith("steer "))
    assert steer.count("±") == (4 if labels else 3)


def test_the_terminal_prints_each_headline() -> None:
    stream = io.StringIO()
    results = {"erm": row(0.485, 0.613, OTHER), "steer": row(0.530, 0.520)}
    print_verdict(results, console=Console(file=stream, width=300))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("Steering wins zero-shot accuracy")
    starts = [line.split(":")[0] for line in lines if ":" in line]
    assert starts == ["Steer", "Do not steer here"]
    assert sum("against" in line or "is better than" in line or "is worse than" in line for line in lines) == 2
