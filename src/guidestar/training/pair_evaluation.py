"""What a model of pairs is worth on the test pairs: retrieval, zero-shot classification, probes and a gallery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from guidestar.data.pairs.batches import PairDataset, pad_tokens
from guidestar.data.pairs.protocol import Pairs
from guidestar.errors import UserError
from guidestar.evaluation.pairs.gallery import build_gallery
from guidestar.evaluation.pairs.probes import knn, linear_probe
from guidestar.evaluation.pairs.prompts import class_embeddings
from guidestar.evaluation.pairs.retrieval import retrieval
from guidestar.evaluation.pairs.zero_shot import zero_shot
from guidestar.models.pairs import DualEncoder
from guidestar.modes import evaluating
from guidestar.training.batches import EVALUATION_BATCH, batch_loader
from guidestar.training.pair_prepare import PairSeedData
from guidestar.training.pair_sections import PairDataSettings, PairEvaluationSettings


@dataclass(frozen=True)
class Embedded:
    """Pairs as embeddings.

    Attributes:
        rows: the rows whose picture could be read, int64 `[n]`.
        image: `[n, d]`.
        text: `[m, d]`, all captions of these rows.
        owner: which entry of `image` each caption belongs to, int64 `[m]`.
        captions: the captions.
    """

    rows: Tensor
    image: Tensor
    text: Tensor
    owner: Tensor
    captions: list[str]


class PairEvaluation:
    """Measures models on one set of test pairs; decoded test pictures stay in memory if the recipe caches.

    Args:
        data: how pictures are framed and read.
        settings: what is measured.
        pairs: the test pairs; the training pairs are what probes are fitted on.
        engine: where models run, and in which precision.
    """

    def __init__(
        self,
        data: PairDataSettings,
        settings: PairEvaluationSettings,
        pairs: PairSeedData,
        engine: Accelerator,
    ) -> None:
        self.data = data
        self.settings = settings
        self.test = pairs.test
        self.train = pairs.train
        self.class_counts = pairs.class_counts
        self.engine = engine
        self.device = engine.device
        self._pictures: dict[tuple[int, bool], PairDataset] = {}

    def metrics(self, model: DualEncoder, *, last: bool) -> dict[str, float]:
        """Retrieval, zero-shot classification where there are labels, and probes after the last step if asked for.

        Raises:
            UserError: an embedding is not finite, or no picture can be read.
        """
        with evaluating(model), torch.no_grad():
            found = self.embed(model)
            metrics = retrieval(found.image, found.text, found.owner)
            if self.test.labels is not None:
                metrics = self._zero_shot(model, found, self.test.labels) | metrics
            if last and self.settings.probe:
                metrics |= self._probes(model, found)
        return metrics

    def gallery(self, model: DualEncoder) -> dict[str, Any]:
        """Queries with what the model finds for them."""
        with evaluating(model), torch.no_grad():
            found = self.embed(model)
        rows = found.rows.tolist()
        return build_gallery(
            found.image,
            found.text,
            found.owner,
            found.captions,
            lambda place: self.test.picture(rows[place]),
            self.test.keys(rows),
            queries=self.settings.queries,
        )

    def embed(self, model: DualEncoder) -> Embedded:
        """All test pairs, in evaluation mode and without a graph; every caption of a row counts."""
        rows, image = self._images(model, self.test, np.arange(len(self.test)))
        captions, owner = [], []
        for place, row in enumerate(rows.tolist()):
            own = self.test.captions(row)
            captions += own
            owner += [place] * len(own)
        tokenizer = model.tokenizer
        text = []
        for start in range(0, len(captions), EVALUATION_BATCH):
            ids = tokenizer(captions[start : start + EVALUATION_BATCH])
            text.append(self._encode_text(model, pad_tokens(ids, length=tokenizer.length, pad=tokenizer.pad)))
        return Embedded(rows, image, torch.cat(text), torch.tensor(owner, device=self.device), captions)

    def _images(self, model: DualEncoder, pairs: Pairs, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The rows whose picture could be read, and their embeddings."""
        dataset = self._dataset(model, pairs)
        starts = range(0, len(rows), EVALUATION_BATCH)
        loader = batch_loader(
            dataset,
            lambda: ((0, rows[start : start + EVALUATION_BATCH].tolist()) for start in starts),
            workers=0,
            pin=False,
        )
        kept, image = [], []
        for batch in loader:
            if not len(batch):
                continue
            kept.append(batch.rows)
            with self.engine.autocast():
                image.append(model.encode_image(batch.images.to(self.device)).float())
        if not kept:
            raise UserError(f"none of the {len(rows)} rows of {pairs.name!r} can be read. Repair the data.")
        return torch.cat(kept), torch.cat(image)

    def _dataset(self, model: DualEncoder, pairs: Pairs) -> PairDataset:
        key = (model.size, pairs is self.test)
        if key not in self._pictures:
            crop: Literal["squash", "center"] = "squash" if self.data.crop == "squash" else "center"
            self._pictures[key] = PairDataset(
                pairs,
                size=model.size,
                tokenizer=_NoTokens(),
                captions="first",
                crop=crop,
                cache=self.data.cache and pairs is self.test,
                on_error="omit" if self.data.on_error == "skip" else "raise",
            )
        return self._pictures[key]

    def _encode_text(self, model: DualEncoder, tokens: Tensor) -> Tensor:
        with self.engine.autocast():
            return model.encode_text(tokens.to(self.device)).float()

    def _zero_shot(self, model: DualEncoder, found: Embedded, labels: Tensor) -> dict[str, float]:
        labels = labels[found.rows]
        classes = self._classes(labels)
        place = torch.full((len(self.test.class_names),), -1, dtype=torch.int64)
        place[classes] = torch.arange(len(classes))
        own = place[labels]
        there = own >= 0
        names = [self.test.class_names[number] for number in classes.tolist()]
        prompts = class_embeddings(
            lambda tokens: self._encode_text(model, tokens),
            cast(Any, model.tokenizer),
            names,
            self.settings.templates,
            device=self.device,
        )
        image = found.image[there.to(self.device)]
        return zero_shot(image, prompts, own[there].to(self.device), float(model.scale().detach()))

    def _classes(self, labels: Tensor) -> Tensor:
        """The classes that compete: all, or the most frequent ones of all pairs, ties by number."""
        count = torch.bincount(labels) if self.class_counts is None else self.class_counts
        wanted = len(count) if self.settings.classes is None else min(self.settings.classes, len(count))
        return torch.sort(count, descending=True, stable=True).indices[:wanted]

    def _probes(self, model: DualEncoder, found: Embedded) -> dict[str, float]:
        if self.test.labels is None or self.train.labels is None:
            return {}
        order = np.random.default_rng(0).permutation(len(self.train))[: self.settings.probe_samples]
        rows, image = self._images(model, self.train, np.sort(order))
        own = (image.cpu(), self.train.labels[rows], found.image.cpu(), self.test.labels[found.rows])
        return {"linear_probe": linear_probe(*own), "knn": knn(*own)}


class _NoTokens:
    """The pictures alone are wanted."""

    length, pad = 1, 0

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [[] for _ in texts]
