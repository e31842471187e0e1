"""A progress bar for scoring."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s")


@contextmanager
def rows_bar(total: int, done: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr inside the block; the function that it gives moves it by a number of rows.

    Args:
        total: All rows.
        done: The rows that were finished before.
        shown: False draws nothing.

    Example:
        >>> with rows_bar(10, 4, shown=False) as advance:
        ...     advance(6)
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RowsPerSecond())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("scoring", total=total, completed=done)
        yield lambda rows: bar.update(task, advance=rows)
