"""`PositionedSampler`: what the batch samplers share; an epoch, a position in it, and the share of one rank."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from guidestar import distributed
from guidestar.samplers.arrays import count


class PositionedSampler(Sampler[list[Any]]):
    """Base of the batch samplers: the batch is a function of (seed, epoch, step), and the state is these numbers.

    The first pass over the sampler is epoch 0, or the one that `set_epoch` named; each further one is the next.

    With `world` ranks every rank computes the same global batch and yields its share: the shares are disjoint, have the
    same size on all ranks, and together are the batch of a single process. (`accelerate.prepare` deals whole batches to
    the processes instead: a sampler of a loader that is prepared by it gets `rank=0, world=1`.)

    Args:
        seed: the random numbers are a function of it; no other generator is read or moved.
        rank: number of this process; None: that of the process group, 0 without one.
        world: number of processes; None: that of the process group, 1 without one.

    State:
        `epoch` and `step`, the number of batches of this epoch that were drawn.

    Raises:
        TypeError: `seed`, `rank` or `world` is no integer.
        ValueError: `rank` does not lie in `0 ... world - 1`, or `seed` is negative.
    """

    #: Batches always have their full size (read by accelerate).
    drop_last = True
    #: Samples of this rank's share of a batch (read by accelerate).
    batch_size: int

    def __init__(self, seed: int, rank: int | None, world: int | None) -> None:
        self.seed = count(seed, "seed", least=0)
        self.world = count(distributed.world_size() if world is None else world, "world")
        self.rank = count(distributed.rank() if rank is None else rank, "rank", least=0)
        if self.rank >= self.world:
            raise ValueError(f"`rank` must lie in 0 ... {self.world - 1} with `world` = {self.world}, found {rank}.")
        self.epoch = 0
        self.step = 0
        self._waiting = True  # the epoch has been set and no pass over it was begun

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches of an epoch."""

    @abstractmethod
    def batch(self, epoch: int, step: int) -> list[Any]:
        """This rank's share of batch `step` of `epoch`."""

    @abstractmethod
    def _identity(self) -> dict[str, int]:
        """Numbers by which a state of other data or other settings is recognised."""

    def __iter__(self) -> Iterator[list[Any]]:
        if not self._waiting:
            self.epoch, self.step = self.epoch + 1, 0
        self._waiting = False
        epoch, step = self.epoch, self.step
        while step < len(self):
            batch = self.batch(epoch, step)
            step += 1
            self.epoch, self.step = epoch, step
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass this epoch, from its first batch.

        After `load_state_dict` the epoch that was loaded is continued where the state stood.

        Args:
            epoch: number of the epoch, from 0.

        Raises:
            ValueError: it is negative.
        """
        epoch = count(epoch, "epoch", least=0)
        if not self._waiting or epoch != self.epoch:
            self.step = 0
        self.epoch, self._waiting = epoch, True

    def state_dict(self, step: int | None = None) -> dict[str, int]:
        """Where the sampler stands; loaded into another one it yields the next batches, bit for bit.

        Args:
            step: number of batches of the epoch that have been trained on; None: that were drawn. A `DataLoader` with
                workers draws batches ahead, so with workers say here how many of them have come out of the loader.

        Raises:
            ValueError: the epoch has fewer batches.
        """
        step = self.step if step is None else count(step, "step", least=0)
        if step > len(self):
            raise ValueError(f"`step` must be at most {len(self)}, the number of batches of an epoch. Found {step}.")
        epoch = self.epoch
        if step == len(self):
            epoch, step = epoch + 1, 0
        return {"epoch": epoch, "step": step, "seed": self.seed, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where `state` stood.

        Args:
            state: from `state_dict` of a sampler with the same data, settings and seed; the ranks may be others.

        Raises:
            ValueError: it comes from other data (other rows, or in another order), settings or another seed, or stands
                behind the end of an epoch.
        """
        own = {"seed": self.seed, **self._identity()}
        for name, value in own.items():
            if state.get(name) != value:
                raise ValueError(
                    f"`state` belongs to another sampler: its {name} is {state.get(name)}, here it is {value}. "
                    "Build the sampler with the data and the settings that it was saved with."
                )
        epoch, step = count(state["epoch"], "epoch", least=0), count(state["step"], "step", least=0)
        if step > len(self):
            raise ValueError(f"`state` stands at batch {step}, but an epoch has {len(self)} batches.")
        self.epoch, self.step = epoch, step
        self._waiting = True

    def share(self, of: int, name: str) -> slice:
        """The places of this rank among `of` things that are divided over the ranks.

        Args:
            of: how many there are in a batch.
            name: what they are, for the message.

        Raises:
            ValueError: they can't be divided evenly.
        """
        if of % self.world:
            below = of - of % self.world
            works = f"{below} or {below + self.world}" if below else f"{self.world}"
            raise ValueError(
                f"A batch has {of} {name}, which can't be divided evenly over {self.world} ranks. "
                f"{works} {name} would work."
            )
        size = of // self.world
        return slice(self.rank * size, (self.rank + 1) * size)
