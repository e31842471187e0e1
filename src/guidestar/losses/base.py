"""The base of every loss: inputs to a scalar, metrics, reset, epoch."""

from __future__ import annotations

from guidestar.risks.kl_ball import KLBall
from guidestar.state import Counter, Stateful


class Loss(Stateful):
    """A training objective: a module whose forward gives a scalar; any optimizer trains it, no engine is assumed.

    A subclass is a pure formula plus the state that its trackers, duals and risks hold. Never wrap a loss in DDP.
    """

    def metrics(self) -> dict[str, float]:
        """Numbers worth logging.

        `empty`: how many rows (or batches, or anchors) had nothing to learn from so far; `tau` (`image_tau`,
        `text_tau`): the mean of the temperatures that are learnt inside.
        """
        counters = [module for module in self.modules() if isinstance(module, Counter)]
        found = {"empty": float(sum(int(counter.count) for counter in counters))}
        for name, module in self.named_modules():
            if isinstance(module, KLBall):
                found[name.rpartition(".")[2].replace("risk", "tau")] = float(module.dual.memory.values.mean())
        return found
