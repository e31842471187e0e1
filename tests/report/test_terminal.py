"""The terminal's table and verdict."""

import io

import pytest
from rich.console import Console

from guidestar.report import print_verdict, results_table

RESULTS = {
    "erm": {"accuracy": [0.85, 0.86], "balanced_accuracy": [0.84, 0.85], "nll": [0.5, 0.6], "seconds": [3.0, 4.0]},
    "steer+distill": {"accuracy": [0.94, 0.95], "balanced_accuracy": [0.93, 0.94], "nll": [0.2, 0.3], "ece": [0.1]},
}


def printed(width: int = 80, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None)
    console.print(results_table(RESULTS))
    return stream.getvalue()


def test_numbers_and_width() -> None:
    text = printed()
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "85.5 ± 0.7" in lines["erm"]
    assert "0.550 ± 0.071" in lines["erm"]
    assert "3.5 s" in lines["erm"]
    assert "94.5 ± 0.7" in lines["steer+distill"]
    assert lines["steer+distill"].split()[-2:] == ["10.0", "-"]
    assert "mean ± standard deviation over 2 seeds" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_best_is_bold_and_the_rest_is_not() -> None:
    text = printed(colour=True)
    assert "\x1b[1m94.5 ± 0.7" in text
    assert "\x1b[1m0.250 ± 0.071" in text
    assert "\x1b[1m85.5" not in text


def test_names_are_not_read_as_markup() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(results_table({"[red]x[/red]": {"accuracy": [0.5]}}))
    assert "[red]x[/red]" in stream.getvalue()


def test_print_verdict() -> None:
    stream = io.StringIO()
    print_verdict(RESULTS, console=Console(file=stream, width=200))
    first, second = stream.getvalue().splitlines()
    assert first.startswith("Steer and distil: training your own model")
    assert second.startswith("Steer+distill is better than ERM by 9.0 points")


@pytest.mark.parametrize("results", [{}, {"steer": {"accuracy": [None, None], "seconds": [1.0, 2.0]}}])
def test_when_nothing_finished(results: dict[str, dict[str, list[float | None]]]) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    console.print(results_table(results))
    table = stream.getvalue()
    assert "seed" not in table
    assert table.split()[:1] == (["strategy"] if results else [])
    print_verdict(results, console=console)
    assert stream.getvalue()[len(table) :] == "Nothing has finished: no strategy has a result.\n"


def test_the_spread_is_over_seeds_that_have_a_value() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(results_table({"erm": {"accuracy": [0.8, None]}}))
    assert "one seed: no spread" in " ".join(stream.getvalue().split())


def test_a_seed_without_a_value_is_left_out() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    console.print(results_table({"erm": {"accuracy": [0.8, None]}, "steer": {"accuracy": [None, None]}}))
    lines = {line.split()[0]: line.split()[1:] for line in stream.getvalue().splitlines() if line}
    assert lines["erm"] == ["80.0", "-"]
    assert lines["steer"] == ["-", "-"]
