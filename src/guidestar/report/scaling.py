"""Scaling laws of strategies: error against compute, with the reference's own cost left out and counted."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from guidestar.errors import UserError
from guidestar.evaluation.power_law import Interval, PowerLawFit, compute_ratio, fit_power_law
from guidestar.report.strategies import describe, in_order
from guidestar.report.tables import MINUS
from guidestar.report.verdict import name_of

# Compute is recorded in the first and shown in the largest of which the dearest run has at least one.
UNITS = {"GFLOPs": 1.0, "TFLOPs": 1e3, "PFLOPs": 1e6, "EFLOPs": 1e9, "ZFLOPs": 1e12}
WITHOUT, WITH = "not counted", "counted"


@dataclass(frozen=True)
class Record:
    """One run of the grid.

    Args:
        strategy: what was trained.
        model: the size of the model, in words.
        samples: training samples.
        seed: of the run.
        compute: GFLOPs of the training.
        reference_compute: GFLOPs that the reference cost it: training and asking it; 0 without one.
        error: on the test data, a fraction above 0.
        metric: what the error is 1 less of, a key of `METRICS`.
    """

    strategy: str
    model: str
    samples: int
    seed: int
    compute: float
    reference_compute: float
    error: float
    metric: str = "accuracy"


@dataclass(frozen=True)
class Law:
    """The laws of a strategy.

    Args:
        strategy: whose they are.
        line: E = a C^b.
        offset: E = a C^b + c; None with fewer than four amounts of compute, which leave nothing to judge it by.
        points: compute (in the unit of the panel) and error of each run.
    """

    strategy: str
    line: PowerLawFit
    offset: PowerLawFit | None
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Saving:
    """The compute of a strategy as a multiple of plain training's, at an error that both reach.

    Args:
        strategy: which one.
        error: the error.
        ratio: below 1, the strategy is cheaper.
    """

    strategy: str
    error: float
    ratio: Interval


@dataclass(frozen=True)
class Panel:
    """One way to count.

    Args:
        counting: whether the reference's cost is counted, in words.
        laws: one a strategy.
        savings: every other strategy against plain training; empty without plain training.
    """

    counting: str
    laws: list[Law]
    savings: list[Saving]


@dataclass(frozen=True)
class Scaling:
    """The laws of a grid.

    Args:
        unit: what compute is shown in.
        records: the runs.
        panels: the reference's cost left out, and counted.
    """

    unit: str
    records: list[Record]
    panels: list[Panel]

    def sentences(self) -> list[str]:
        """What it comes to, one sentence a strategy and way to count.

        Example:
            >>> runs = [Record("erm", "a", n, 0, float(n), 0.0, 0.9 * n**-0.2) for n in (1, 10, 100)]
            >>> runs += [Record("steer", "a", n, 0, float(n), 5.0, 0.8 * n**-0.2) for n in (1, 10, 100)]
            >>> print(fit_scaling(runs).sentences()[0])
            With the reference's cost not counted, steer needs 0.55 times the compute of ERM for an error of 53.5 %
            (95 % interval 0.55 to 0.55).
        """
        return [_sentence(panel.counting, saving) for panel in self.panels for saving in panel.savings]


def read_records(path: Path) -> list[Record]:
    """The runs of a grid.

    Args:
        path: `scaling.json`: a list of objects with the keys of `Record`, of which `metric` may be missing; further
            keys are ignored.

    Returns:
        The records.

    Raises:
        UserError: the file is no such list, is empty, or a number is missing, not finite or negative.
        OSError: the file cannot be read.

    Example:
        >>> read_records(Path("no/scaling.json"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'no/scaling.json'
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"`{path}` must be a JSON list of runs: {error}") from error
    if not isinstance(values, list) or not values:
        raise UserError(f"`{path}` must be a JSON list of at least one run: finish a cell of the grid first.")
    return [_record(value, f"`{path}`, run {place}") for place, value in enumerate(values)]


def fit_scaling(records: list[Record], draws: int = 1000) -> Scaling:
    """Fit the laws of every strategy, with the reference's cost left out and counted.

    Args:
        records: runs at two or more amounts of compute for each strategy.
        draws: bootstrap fits behind each interval.

    Returns:
        The laws.

    Raises:
        UserError: there are no records, a strategy has a single amount of compute, or an error is 0.

    Example:
        >>> runs = [Record("erm", "a", n, 0, float(n), 0.0, 0.9 * n**-0.2) for n in (1, 10, 100)]
        >>> round(fit_scaling(runs).panels[0].laws[0].line.law.b, 6)
        -0.2
    """
    if not records:
        raise UserError("`records` must hold at least one run, found none.")
    dearest = max(record.compute + record.reference_compute for record in records)
    unit = max((unit for unit in UNITS if dearest >= UNITS[unit]), key=lambda unit: UNITS[unit], default="GFLOPs")
    panels = []
    for counting in (WITHOUT, WITH):
        laws = [_law(key, records, counting, UNITS[unit], draws) for key in in_order({r.strategy for r in records})]
        panels.append(Panel(counting, laws, _savings(laws)))
    return Scaling(unit, records, panels)


def _law(strategy: str, records: list[Record], counting: str, unit: float, draws: int) -> Law:
    points = [
        ((record.compute + (record.reference_compute if counting == WITH else 0.0)) / unit, record.error)
        for record in records
        if record.strategy == strategy
    ]
    compute, error = [point[0] for point in points], [point[1] for point in points]
    try:
        line = fit_power_law(compute, error, draws=draws)
        offset = fit_power_law(compute, error, offset=True, draws=draws) if len(set(compute)) > 3 else None
    except UserError as problem:
        raise UserError(f"the runs of {strategy} give no scaling law: {problem}") from problem
    return Law(strategy, line, offset, points)


def _savings(laws: list[Law]) -> list[Saving]:
    plain = next((law for law in laws if law.strategy == "erm"), None)
    if plain is None:
        return []
    savings = []
    for law in laws:
        if law is not plain:
            error = _shared_error(law, plain)
            savings.append(Saving(law.strategy, error, compute_ratio(law.line, plain.line, error)))
    return savings


def _shared_error(first: Law, second: Law) -> float:
    """The middle, on a logarithmic axis, of the errors that both have; where they do not overlap, of the gap."""
    errors = [[error for _, error in law.points] for law in (first, second)]
    return math.sqrt(max(min(each) for each in errors) * min(max(each) for each in errors))


def _sentence(counting: str, saving: Saving) -> str:
    ratio = saving.ratio
    head = f"With the reference's cost {counting}, {name_of(saving.strategy)}"
    goal = f"an error of {100 * saving.error:.1f} %"
    if not math.isfinite(ratio.value):
        return f"{head} and ERM cannot be compared at {goal}: one of the laws does not reach it."
    needs = f"{head} needs {ratio_text(ratio.value)} times the compute of ERM for {goal}"
    if math.isnan(ratio.low):
        return f"{needs}; there are too few runs for an interval."
    interval = f"(95 % interval {ratio_text(ratio.low)} to {ratio_text(ratio.high)})"
    if ratio.low <= 1 <= ratio.high:
        return f"{needs} {interval}, which is no measurable difference."
    return f"{needs} {interval}."


def ratio_text(value: float) -> str:
    """A ratio of compute.

    Args:
        value: the ratio; may be infinite.

    Returns:
        Two decimals below 10, else two significant digits.

    Example:
        >>> ratio_text(0.613), ratio_text(431.0), ratio_text(float("inf"))
        ('0.61', '430', 'infinity')
    """
    if math.isinf(value):
        return "infinity"
    return f"{value:.2f}" if value < 10 else f"{float(f'{value:.2g}'):,.0f}".replace(",", "\u202f")


def interval_text(interval: Interval, digits: int = 3) -> str:
    """A parameter of a law with its interval.

    Args:
        interval: the parameter.
        digits: decimals.

    Returns:
        The value, with the interval in brackets where there is one.

    Example:
        >>> interval_text(Interval(-0.2, -0.25, -0.15))
        '−0.200 [−0.250, −0.150]'
    """
    texts = [f"{number:.{digits}f}".replace("-", MINUS) for number in (interval.value, interval.low, interval.high)]
    return texts[0] if math.isnan(interval.low) else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def law_rows(scaling: Scaling) -> list[list[str]]:
    """The laws as rows of a table.

    Args:
        scaling: the laws.

    Returns:
        For each panel, strategy and kind of law: how the reference is counted, strategy, law, a, b, c and the
        root mean square deviation in log error.

    Example:
        >>> runs = [Record("erm", "a", n, 0, float(n), 0.0, 0.9 * n**-0.2) for n in (1, 10, 100)]
        >>> law_rows(fit_scaling(runs))[0][:3]
        ['not counted', 'erm', 'a C^b']
    """
    rows = []
    for panel in scaling.panels:
        for law in panel.laws:
            for name, fit in (("a C^b", law.line), ("a C^b + c", law.offset)):
                if fit is not None:
                    c = interval_text(fit.c) if fit is law.offset else ""
                    spread = "" if math.isnan(fit.deviation) else f"{fit.deviation:.3f}"
                    key = describe(law.strategy).key
                    rows.append([panel.counting, key, name, interval_text(fit.a), interval_text(fit.b), c, spread])
    return rows


def _record(value: Any, where: str) -> Record:
    names = [field.name for field in fields(Record) if field.name != "metric"]
    missing = [name for name in names if not isinstance(value, dict) or name not in value]
    if missing:
        raise UserError(f"{where} must have the keys {', '.join(names)}; it lacks {', '.join(missing)}.")
    for name in ("compute", "reference_compute", "error", "samples"):
        number = value[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            raise UserError(f"{where}: `{name}` must be a finite number of at least 0, found {number!r}.")
    return Record(
        str(value["strategy"]),
        str(value["model"]),
        int(value["samples"]),
        int(value["seed"]),
        float(value["compute"]),
        float(value["reference_compute"]),
        float(value["error"]),
        str(value.get("metric", "accuracy")),
    )
