"""The base of every loss: inputs to a scalar, metrics, reset, epoch."""

from __future__ import annotations

from guidestar.state import Counter, Stateful


class Loss(Stateful):
    """A training objective: a module whose forward gives a scalar; any optimizer trains it, no engine is assumed.

    A subclass is a pure formula plus the state that its trackers, duals and risks hold. Never wrap a loss in DDP.
    """

    def metrics(self) -> dict[str, float]:
        """Numbers worth logging: `empty`, how many rows (or batches) had nothing to learn from so far."""
        counters = [module for module in self.modules() if isinstance(module, Counter)]
        return {"empty": float(sum(int(counter.count) for counter in counters))}
