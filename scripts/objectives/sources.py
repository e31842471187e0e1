"""Instruction data of four sources: which sources a small language model is steered to, without and with a reference.

A sample is a byte, to be predicted from the bytes before it by a network with one hidden layer: its capacity is small, so
what one source gains another may lose. The reference is a narrower network, trained for a quarter of the steps on the
sources as they are mixed. With it, a source weighs by what there is left to learn beyond the reference, as in DoReMi, and
not by how hard it is.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import guidestar as gs

from .optimize import descend
from .study import Metric, Study

SOURCES = {
    "alpaca_en_demo": "Alpaca",
    "gpteacher_code": "code",
    "gpteacher_roleplay": "roleplay",
    "rasbt_instruction": "short tasks",
}
SYMBOLS, CONTEXT, EMBEDDING, HIDDEN = 128, 8, 16, 96
SMALL_HIDDEN, SMALL_STEPS, SMALL_RATE = 32, 250, 0.01
STEPS, BATCH, HELD_OUT, LOOKED_AT = 1000, 512, 0.15, 8192
RATES = (0.008, 0.032, 0.128)
#: Not tuned.
WEIGHT_LR, NU_LR, TAU, GAMMA, SMOOTHING = 0.02, 0.02, 0.1, 0.1, 0.02
TITLES = {
    "erm": "ERM",
    "erm_sources": "ERM, sources uniformly",
    "online": "OnlineGroupDROLoss",
    "online_reference": "OnlineGroupDROLoss, reference",
    "cvar": "GroupDROLoss(CVaR)",
    "cvar_reference": "GroupDROLoss(CVaR), reference",
    "kl": "GroupDROLoss(KL)",
    "kl_reference": "GroupDROLoss(KL), reference",
}
METRICS = {
    **{name: Metric(title, higher=False, percent=False) for name, title in SOURCES.items()},
    "mean": Metric("mean of the sources", higher=False, percent=False),
    "worst": Metric("worst source", higher=False, percent=False),
    "excess": Metric("worst excess over the reference", higher=False, percent=False),
}


@dataclass(frozen=True)
class Text:
    """The symbols of one source's documents one after the other, each document after `CONTEXT` zeros.

    Args:
        symbols: `[n]`.
        places: of the symbols to be predicted.
    """

    symbols: Tensor
    places: Tensor

    @staticmethod
    def of(documents: Sequence[np.ndarray]) -> Text:
        """From symbols of 1 and more."""
        gap = np.zeros(CONTEXT, dtype=np.int64)
        symbols = torch.from_numpy(np.concatenate([part for document in documents for part in (gap, document)]))
        return Text(symbols, symbols.nonzero().squeeze(1))

    def windows(self, draw: Tensor) -> Tensor:
        """`[m, CONTEXT + 1]`: the symbols to be predicted of numbers `draw`, each after its context."""
        return self.symbols[self.places[draw].unsqueeze(1) + torch.arange(-CONTEXT, 1)]


Mix = Sequence[Text]


@dataclass(frozen=True)
class Task:
    """The parts, a text a source each, and the reference."""

    train: Mix
    valid: Mix
    test: Mix
    reference: nn.Module

    def judge(self, model: nn.Module) -> dict[str, Any]:
        """What a training gives."""
        valid, test = _looked(self.valid), _looked(self.test)
        losses = _means(model, test)
        excess = losses - _means(self.reference, test)
        metrics = {name: float(loss) for name, loss in zip(SOURCES, losses, strict=True)}
        metrics |= {"mean": float(losses.mean()), "worst": float(losses.max()), "excess": float(excess.max())}
        return {"valid": -float(_means(model, valid).mean()), "test": metrics}


def _looked(mix: Mix) -> list[Tensor]:
    """Evenly spaced windows of each source, the same for every method."""
    return [text.windows(torch.arange(0, len(text.places), max(1, len(text.places) // LOOKED_AT))) for text in mix]


@torch.no_grad()
def _means(model: nn.Module, windows: Sequence[Tensor]) -> Tensor:
    return torch.stack([losses_of(model, window).mean() for window in windows])


def losses_of(model: nn.Module, windows: Tensor) -> Tensor:
    """The cross-entropy of the last symbol of each window, in nats."""
    return functional.cross_entropy(model(windows[:, :-1]), windows[:, -1], reduction="none")


def network(hidden: int) -> nn.Module:
    """One hidden layer over the embedded context."""
    return nn.Sequential(
        nn.Embedding(SYMBOLS, EMBEDDING),
        nn.Flatten(),
        nn.Linear(CONTEXT * EMBEDDING, hidden),
        nn.ReLU(),
        nn.Linear(hidden, SYMBOLS),
    )


def load(data: Path, seed: int) -> Task:
    """The set; the seed splits each source's documents, and trains the reference."""
    with gzip.open(data / "instruct_mix" / "instruct_mix.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    texts = {
        name: sorted(
            {"\n".join(r[key] for key in ("instruction", "input", "output")) for r in rows if r["source"] == name}
        )
        for name in SOURCES
    }
    code = _code(text for found in texts.values() for text in found)
    generator = np.random.default_rng(seed)
    parts: list[list[Text]] = [[], [], []]
    for found in texts.values():
        documents = [code[np.frombuffer(found[i].encode(), dtype=np.uint8)] for i in generator.permutation(len(found))]
        held_out = round(HELD_OUT * len(documents))
        cuts = (documents[2 * held_out :], documents[:held_out], documents[held_out : 2 * held_out])
        for part, chosen in zip(parts, cuts, strict=True):
            part.append(Text.of(chosen))
    train, valid, test = parts
    return Task(train, valid, test, reference(train, seed))


def _code(texts: Iterator[str]) -> np.ndarray:
    """Byte -> symbol: 1 for all bytes but the most frequent, 0 for none."""
    counts = np.bincount(np.frombuffer("".join(texts).encode(), dtype=np.uint8), minlength=256)
    code = np.ones(256, dtype=np.int64)
    code[np.argsort(-counts, kind="stable")[: SYMBOLS - 2]] = np.arange(2, SYMBOLS)
    return code


def reference(mix: Mix, seed: int) -> nn.Module:
    """The small network, trained on the sources as they are mixed."""
    torch.manual_seed(seed)
    model = network(SMALL_HIDDEN)
    batches = drawn(mix, seed + 1000, uniformly=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=SMALL_RATE)
    for _ in descend(optimizer, SMALL_STEPS, lambda step: losses_of(model, next(batches)[0]).mean()):
        pass
    return model.requires_grad_(False)


def drawn(mix: Mix, seed: int, uniformly: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of windows and the numbers of their sources: as many of each source, or by the sources' sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([len(text.places) for text in mix])
    shares = torch.ones(len(mix)) if uniformly else sizes.float()
    while True:
        if uniformly:
            counts = torch.full((len(mix),), BATCH // len(mix))
        else:
            counts = torch.multinomial(shares, BATCH, replacement=True, generator=generator).bincount(
                minlength=len(mix)
            )
        windows = [
            text.windows(torch.randint(len(text.places), (count,), generator=generator))
            for text, count in zip(mix, counts.tolist(), strict=True)
        ]
        yield torch.cat(windows), torch.repeat_interleave(torch.arange(len(mix)), counts)


class Average(nn.Module):
    """The mean loss, whatever the sources."""

    def forward(self, losses: Tensor, group: Tensor) -> Tensor:
        """The mean."""
        return losses.mean()


@dataclass(frozen=True)
class Trained:
    """A network trained with a loss over per-sample losses and sources.

    Args:
        make_loss: of the number of sources.
        uniformly: a batch has as many samples of each source.
        steered: the loss gets the losses of the reference.
        settings: learning rates.
    """

    make_loss: Callable[[int], nn.Module]
    uniformly: bool = True
    steered: bool = False
    settings: Sequence[float] = RATES

    def fit(self, task: Task, setting: float, seed: int, steps: int = STEPS) -> dict[str, Any]:
        """Train a new network."""
        torch.manual_seed(seed)
        model, loss = network(HIDDEN), self.make_loss(len(task.train))
        batches = drawn(task.train, seed, self.uniformly)
        optimizer = torch.optim.Adam(model.parameters(), lr=setting)

        def objective(step: int) -> Tensor:
            windows, group = next(batches)
            more = {"reference_losses": losses_of(task.reference, windows)} if self.steered else {}
            return loss(losses_of(model, windows), group, **more)

        for _ in descend(optimizer, steps, objective):
            pass
        return task.judge(model)


def _online(count: int) -> nn.Module:
    return gs.losses.OnlineGroupDROLoss(count, lr=WEIGHT_LR)


def _cvar(count: int) -> nn.Module:
    """The worst half of the sources."""
    risk = gs.CVaR(0.5, lr=NU_LR, smoothing=SMOOTHING)
    return gs.losses.GroupDROLoss(risk, gs.GroupMean(count, gamma=GAMMA))


def _kl(count: int) -> nn.Module:
    return gs.losses.GroupDROLoss(gs.KL(TAU), gs.GroupMean(count, gamma=GAMMA))


def _facts(task: Task) -> dict[str, float]:
    losses = _means(task.reference, _looked(task.test))
    sizes = {f"train_{name}": len(text.places) for name, text in zip(SOURCES, task.train, strict=True)}
    return sizes | {f"reference_{name}": float(loss) for name, loss in zip(SOURCES, losses, strict=True)}


STUDY = Study(
    "sources",
    load,
    {
        "erm": Trained(lambda count: Average(), uniformly=False),
        "erm_sources": Trained(lambda count: Average()),
        "online": Trained(_online),
        "online_reference": Trained(_online, steered=True),
        "cvar": Trained(_cvar),
        "cvar_reference": Trained(_cvar, steered=True),
        "kl": Trained(_kl),
        "kl_reference": Trained(_kl, steered=True),
    },
    _facts,
)
