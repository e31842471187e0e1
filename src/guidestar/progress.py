"""Progress bars for the command line."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from guidestar.training.display import Display
from guidestar.training.display import Progress as Callback


def headline(metrics: dict[str, float]) -> list[tuple[str, float]]:
    """The one or two metrics by which a training is known, each with a word for it.

    Example:
        >>> headline({"zero_shot_top1": 0.5, "image_to_text_r10": 0.25, "text_to_image_r10": 0.75})
        [('zero-shot', 0.5), ('R@10', 0.5)]
    """
    if "accuracy" in metrics:
        return [("accuracy", metrics["accuracy"])]
    found = [("zero-shot", metrics["zero_shot_top1"])] if "zero_shot_top1" in metrics else []
    return [*found, ("R@10", (metrics["image_to_text_r10"] + metrics["text_to_image_r10"]) / 2)]


class BarDisplay(Display):
    """One bar for the whole run and one for what is going on; a line for each training that ended.

    Args:
        console: where to draw; on anything but a terminal only the lines are printed, and nothing on a quiet one.
        trainings: how many trainings the run has.
    """

    def __init__(self, console: Console, trainings: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        shown = console.is_terminal and not console.quiet
        self.bars = Progress(*columns, console=console, transient=True, disable=not shown)
        self.all: TaskID | None = (
            self.bars.add_task("all trainings", total=trainings, note="") if trainings > 1 else None
        )
        self.now = self.bars.add_task("reading the data", total=None, note="")

    def begin(self, title: str) -> Callback:
        """Show a new bar in place of the last one."""
        self.bars.reset(self.now, description=title, total=None, note="")

        def update(done: int, total: int, objective: float | None) -> None:
            note = "" if objective is None else f"objective {objective:.3f}"
            self.bars.update(self.now, completed=done, total=total, note=note)

        return update

    def note(self, text: str) -> None:
        """Print it above the bars."""
        self.bars.console.print(f"note: {text}", markup=False, highlight=False)

    def finished(self, title: str, result: dict[str, Any]) -> None:
        """Advance the run's bar and print how the training ended."""
        if self.all is not None:
            self.bars.advance(self.all)
        if result["status"] == "failed":
            self.bars.console.print(f"[red]{title}: failed[/red]", highlight=False)
            self.bars.console.print(result["error"], markup=False, highlight=False)
            return
        seconds = result["cost"]["seconds"]
        shown = "   ".join(f"{word} {100 * value:5.1f} %" for word, value in headline(result["metrics"]))
        self.bars.console.print(f"{title:28} {shown}   {seconds:6.1f} s", highlight=False)

    def __enter__(self) -> BarDisplay:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()
