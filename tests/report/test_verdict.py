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
    assert verdict.sentence == (
        "Highest: steer, 94.0 % (± 0.4) test accuracy over 5 seeds; select (93.8 ± 0.4 %) is not measurably worse; "
        "plain training (ERM) 85.0 % (± 0.4)."
    )
    assert "no measurable gain" not in verdict.sentence


def test_a_tie_with_plain_training_says_that_the_reference_brings_nothing() -> None:
    verdict = decide({"steer": around(0.940), "erm": around(0.938, OTHER), "as_is": around(0.8)})
    assert "; ERM (93.8 ± 0.4 %) is not measurably worse; the reference itself 80.0 % (± 0.4)." in verdict.sentence
    assert verdict.sentence.endswith("The reference brings no measurable gain in test accuracy.")
    assert verdict.notes == ()


def test_a_tie_with_the_winner_does_not_hide_that_steering_is_better_than_erm() -> None:
    erm, steer, select = [0.80, 0.81, 0.82], [0.81, 0.8201, 0.83], [0.75, 0.86, 0.90]
    verdict = decide({"erm": {"accuracy": erm}, "steer": {"accuracy": steer}, "select": {"accuracy": select}})
    assert verdict.certainty is Certainty.TIED
    assert verdict.sentence == (
        "Highest: select, 83.7 % (± 7.8) test accuracy over 3 seeds; steer (82.0 ± 1.0 %) and ERM (81.0 ± 1.0 %) "
        "are not measurably worse."
    )
    assert verdict.notes == ("Steer is better than ERM by 1.0 points (95 % interval 1.0 to 1.0), paired over 3 seeds.",)


@pytest.mark.parametrize(
    ("select", "sentence"),
    [
        (
            [0.75, 0.86, 0.90],
            "Highest: ERM, 85.0 % test accuracy over 3 seeds; select (83.7 ± 7.8 %) is not measurably worse.",
        ),
        (
            [0.78, 0.89, 0.93],
            "Highest: select, 86.7 % (± 7.8) test accuracy over 3 seeds; ERM (85.0 %) and steer (80.0 ± 0.1 %) "
            "are not measurably worse.",
        ),
    ],
)
def test_a_tie_with_the_winner_does_not_hide_that_steering_is_worse_than_erm(
    select: list[float], sentence: str
) -> None:
    steer = {"accuracy": [0.80, 0.801, 0.80]}
    verdict = decide({"erm": {"accuracy": [0.85] * 3}, "steer": steer, "select": {"accuracy": select}})
    assert verdict.sentence == f"{sentence} The reference brings no measurable gain in test accuracy."
    assert verdict.notes == ("Steer is worse than ERM by 5.0 points (95 % interval 4.8 to 5.1), paired over 3 seeds.",)


def test_the_note_is_about_what_is_measurably_better_than_erm_even_if_another_mean_is_higher() -> None:
    noisy, clear = {"accuracy": [0.75, 0.86, 0.90]}, {"accuracy": [0.81, 0.8201, 0.83]}
    verdict = decide({"erm": {"accuracy": [0.80, 0.81, 0.82]}, "distill": clear, "select": noisy})
    assert "no measurable gain" not in verdict.sentence
    assert verdict.notes[0].startswith("Distill is better than ERM by 1.0 points")


def test_the_best_use_of_the_reference_and_steering_are_both_compared_with_erm() -> None:
    results = {"as_is": around(0.95), "finetune": around(0.949, OTHER), "steer": around(0.90), "erm": around(0.85)}
    verdict = decide(results)
    assert verdict.certainty is Certainty.TIED
    assert [note.split(" by ")[0] for note in verdict.notes] == [
        "The reference is better than ERM",
        "Steer is better than ERM",
    ]


def test_without_anything_that_uses_the_reference_nothing_is_said_about_it() -> None:
    verdict = decide({"erm": around(0.940), "dro": around(0.939, OTHER)})
    assert verdict.sentence == (
        "Highest: ERM, 94.0 % (± 0.4) test accuracy over 5 seeds; DRO (93.9 ± 0.4 %) is not measurably worse."
    )


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
    shapes = {"a": SHAPE, "b": OTHER, "c": SHAPE[::-1], "d": OTHER[::-1], "e": OTHER}
    results = {key: around(0.94 - 0.0001 * place, shape) for place, (key, shape) in enumerate(shapes.items())}
    assert decide(results).sentence == (
        "Highest: a, 94.0 % (± 0.4) test accuracy over 5 seeds; b, c, d and e (from 94.0 ± 0.4 % to 94.0 ± 0.4 %) "
        "are not measurably worse."
    )


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
    assert nothing.sentence == "Nothing has finished: no strategy has a result."
    only = decide({"steer": {"accuracy": [0.9]}}, "nll")
    assert only.sentence == "No strategy has a result for negative log-likelihood on the test data."
    assert decide({}).certainty is Certainty.NOTHING


def test_a_metric_where_less_is_better() -> None:
    results = {"erm": {"nll": [0.50, 0.52, 0.51]}, "steer": {"nll": [0.30, 0.31, 0.30]}}
    verdict = decide(results, "nll")
    assert verdict.winner == "steer"
    assert verdict.notes[0].startswith("Steer is better than ERM by 0.207 (95 % interval 0.")
    worse = decide({"erm": results["steer"], "steer": results["erm"]}, "nll")
    assert ", below steering (0.510 ± 0.010)." in worse.sentence
    tied = decide({"erm": {"nll": [0.30, 0.32, 0.31]}, "steer": {"nll": [0.31, 0.29, 0.31]}}, "nll")
    assert tied.sentence.startswith("Lowest: steer, 0.303 (± 0.012) negative log-likelihood")


def test_unknown_metric() -> None:
    with pytest.raises(UserError, match=r"`metric` must be one of accuracy, .*found 'f1'"):
        decide({}, "f1")
