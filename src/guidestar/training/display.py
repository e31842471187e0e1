"""What a run tells whoever watches it. This one is silent; the command line has one with progress bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Called with (done, of how many, the objective or None).
Progress = Callable[[int, int, float | None], None]


class Display:
    """Watches a run and shows nothing.

    Example:
        >>> Display().begin("steer, seed 0")(1, 10, 0.5)
    """

    def begin(self, title: str) -> Progress:
        """A training or scoring begins; what is returned is called as it goes on."""
        return lambda done, total, objective: None

    def note(self, text: str) -> None:
        """Something that the user should know, and that is no error."""

    def finished(self, title: str, result: dict[str, Any]) -> None:
        """A training has ended with this result."""
