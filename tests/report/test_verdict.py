"""The verdict's decision and its wording."""

import pytest

from guidestar.errors import UserError
from guidestar.report import Certainty, decide

NAN = float("nan")
# Deviations over five seeds, so that means stay as given and the spreads are small.
SHAPE = [-0.010, -0.005, 0.0, 0.005, 0.010]
OTHER = [0.004, -0.008, 0.010, -0.002, -0.004]


def around(mean: float, shape: list[float] = SHAPE, scale: float = 0.5) -> dict[str, list[float]]:
    return {"accuracy": [mean + scale * step for step in shape]}


def noisy_digits() -> dict[str, dict[str, list[float]]]:
    return {
        "as_is": {"accuracy": [0.901] * 5},
        "erm": around(0.852, OTHER),
        "select": around(0.930, OTHER),
        "distill": around(0.920),
        "steer": around(0.947),
    }


def test_steering_wins() -> None:
    verdict = decide(noisy_digits())
    assert (verdict.certainty, verdict.winner, verdict.tied) == (Certainty.CLEAR, "steer", ("steer",))
    assert verdict.way == "train from scratch, steered by it"
    assert verdict.sentence == (
        "Steer: training your own model with the reference as guide gives 94.7 % (± 0.4) test accuracy over 5 seeds; "
        "the next best, select, 93.0 % (± 0.4); the reference itself 90.1 %; plain training (ERM) 85.2 % (± 0.4)."
    )
    assert verdict.notes[0].startswith("Steer is better than select by 1.7 points (95 % interval ")
    assert verdict.notes[1].startswith("Steer is better than ERM by 9.5 points (95 % interval ")
    assert verdict.notes[1].endswith("paired over 5 seeds.")


def test_plain_training_wins() -> None:
    verdict = decide({"as_is": {"accuracy": [0.91] * 5}, "erm": around(0.973), "steer": around(0.962, OTHER)})
    assert verdict.winner == "erm"
    assert verdict.certainty is Certainty.CLEAR
    assert verdict.sentence == (
        "Do not steer here: plain training (ERM) reaches 97.3 % (± 0.4) test accuracy over 5 seeds, "
        "above the reference (91.0 %) and steering (96.2 ± 0.4 %)."
    )


def test_plain_training_wins_where_nothing_steers() -> None:
    verdict = decide({"erm": around(0.97), "distill": around(0.95, OTHER), "as_is": around(0.90)})
    assert verdict.sentence.startswith("Train without the reference: plain training (ERM) reaches 97.0 %")
    assert "above the reference (90.0 ± 0.4 %) and the next best, distill (95.0 ± 0.4 %)." in verdict.sentence


def test_the_reference_wins() -> None:
    verdict = decide({"as_is": {"accuracy": [0.99] * 5}, "finetune": around(0.95), "erm": around(0.90)})
    assert verdict.way == "use it as it is"
    assert verdict.sentence == (
        "Use the reference as it is: it has 99.0 % test accuracy; the best model of your own, finetune, "
        "95.0 % (± 0.4) over 5 seeds; plain training (ERM) 90.0 % (± 0.4)."
    )


@pytest.mark.parametrize(
    ("winner", "way", "start"),
    [
        ("finetune", "fine-tune it", "Fine-tune: fine-tuning the reference gives"),
        ("distill", "distil from it", "Distil: training your own model on the reference's outputs gives"),
        ("select", "train from scratch, on samples it picks", "Select: training your own model on the samples"),
        ("steer+distill", "train from scratch, steered by it", "Steer and distil: training your own model"),
        ("dro", "train from scratch without it", "Train without the reference: robust training"),
    ],
)
def test_each_way_can_win(winner: str, way: str, start: str) -> None:
    verdict = decide({winner: around(0.95), "erm": around(0.85, OTHER)})
    assert (verdict.winner, verdict.way) == (winner, way)
    assert verdict.sentence.startswith(start)


def test_no_measurable_difference() -> None:
    results = {"steer": around(0.940), "select": around(0.938, OTHER), "erm": around(0.85)}
    verdict = decide(results)
    assert verdict.certainty is Certainty.TIED
    assert verdict.tied == ("steer", "select")
    assert verdict.sentence.startswith(
        "No measurable difference between steer and select with 5 seeds: steer 94.0 % (± 0.4), select 93.8 % (± 0.4) "
        "test accuracy; plain training (ERM) 85.0 %"
    )
    assert "nothing measurable" not in verdict.sentence


def test_a_tie_with_plain_training_says_that_the_reference_brings_nothing() -> None:
    verdict = decide({"steer": around(0.940), "erm": around(0.938, OTHER), "as_is": around(0.8)})
    assert verdict.sentence.startswith("No measurable difference between steer and ERM with 5 seeds")
    assert verdict.sentence.endswith("The reference brings nothing measurable here.")


def test_a_tie_with_the_reference_says_that_it_needs_no_training() -> None:
    verdict = decide({"finetune": around(0.940), "as_is": around(0.938, OTHER), "erm": around(0.8)})
    assert verdict.sentence.endswith("Using the reference as it is needs no training.")


def test_a_tie_within_one_way_leaves_the_way_clear() -> None:
    verdict = decide({"steer": around(0.940), "steer+distill": around(0.939, OTHER), "erm": around(0.85)})
    assert verdict.certainty is Certainty.CLEAR
    assert verdict.tied == ("steer", "steer+distill")
    assert verdict.sentence.startswith("Steer: ")
    assert "the next best, ERM, 85.0 %" in verdict.sentence
    assert verdict.notes[0] == "No measurable difference between steer and steer+distill with 5 seeds."


def test_a_long_tie_gives_the_range() -> None:
    shapes = {"a": SHAPE, "b": OTHER, "c": SHAPE[::-1], "d": OTHER[::-1]}
    results = {key: around(0.94, shape) for key, shape in shapes.items()}
    assert "with 5 seeds: from 94.0 % (± 0.4) to 94.0 % (± 0.4) test accuracy." in decide(results).sentence


def test_a_single_seed_cannot_tell() -> None:
    verdict = decide({key: {"accuracy": row["accuracy"][:1]} for key, row in noisy_digits().items()})
    assert verdict.certainty is Certainty.SINGLE_SEED
    assert verdict.sentence.startswith("A single seed cannot tell: steer is highest with 94.2 % test accuracy; next is")
    assert verdict.sentence.endswith("Run more seeds for a verdict.")


def test_one_common_seed_cannot_tell_and_says_what_is_incomplete() -> None:
    verdict = decide({"steer": {"accuracy": [0.95, NAN, NAN]}, "erm": {"accuracy": [0.85, 0.86, 0.84]}})
    assert verdict.certainty is Certainty.SINGLE_SEED
    assert verdict.notes == ("Steer has results for 1 of 3 seeds.",)


def test_nothing_to_compare() -> None:
    assert decide({"steer": around(0.9)}).sentence == (
        "Only steer has results: 90.0 % (± 0.4) test accuracy over 5 seeds. There is nothing to compare it with."
    )
    nothing = decide({"steer": {"accuracy": [NAN]}, "erm": {}})
    assert (nothing.certainty, nothing.winner) == (Certainty.NOTHING, None)
    assert nothing.sentence == "No strategy has a result for test accuracy yet."
    assert decide({}).certainty is Certainty.NOTHING


def test_a_metric_where_less_is_better() -> None:
    results = {"erm": {"nll": [0.50, 0.52, 0.51]}, "steer": {"nll": [0.30, 0.31, 0.30]}}
    verdict = decide(results, "nll")
    assert verdict.winner == "steer"
    assert verdict.notes[0].startswith("Steer is better than ERM by 0.207 (95 % interval 0.")
    worse = decide({"erm": results["steer"], "steer": results["erm"]}, "nll")
    assert ", below steering (0.510 ± 0.010)." in worse.sentence


def test_unknown_metric() -> None:
    with pytest.raises(UserError, match=r"`metric` must be one of accuracy, .*found 'f1'"):
        decide({}, "f1")
