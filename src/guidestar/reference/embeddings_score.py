"""Scoring image-text pairs: the program that fills a store of embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from guidestar.errors import UserError
from guidestar.modes import evaluating
from guidestar.reference.bar import rows_bar
from guidestar.reference.embeddings_files import write_part
from guidestar.reference.embeddings_meta import DTYPES, EmbeddingMeta, Part, cut_parts, installed_version
from guidestar.reference.embeddings_store import EmbeddingStore
from guidestar.reference.pair_inputs import (
    CROP,
    PairEncoder,
    PairForward,
    PairInputs,
    PairReader,
    ScorablePairs,
    image_means,
)

_BLOCK = 16384  # rows that are in memory at once, with all of their captions
_SHOWN = 5  # keys named in an error


def score_pairs(
    model: PairEncoder,
    pairs: ScorablePairs,
    path: str | Path,
    *,
    batch_size: int,
    device: str | torch.device,
    precision: str = "fp32",
    weights_hash: str,
    reference_name: str,
    rank: int = 0,
    world: int = 1,
    on_part: Callable[[int], None] | None = None,
    workers: int = 0,
    command: str = "",
    progress: bool = True,
    dtype: str = "float16",
    block: int = _BLOCK,
    on_error: Literal["raise", "skip"] = "raise",
) -> EmbeddingStore:
    """Write the embeddings of every image and every caption into a store, one file a part of the data.

    Images are scaled to the reference's size and cut at the centre, captions go through the reference's tokenizer,
    embeddings have norm 1. Parts that are already finished are skipped, so that calling this again continues where a
    killed run stopped, with the same bytes in the end. Memory does not grow with the data.

    With several processes, each calls this with its own `rank`: process r of W writes the parts r, r + W, ...; the
    store is complete when all of them have returned.

    Args:
        model: The two towers, their tokenizer and image size; used in evaluation mode, its training flags are put back
            afterwards.
        pairs: The pairs to score, with the captions that training will use (mismatched ones are embedded as they are).
        path: The store's folder, which is made or continued.
        batch_size: Images, and captions, in a forward pass.
        device: Where the model runs; it is moved there.
        precision: "fp32", or "bf16" for a forward pass under autocast.
        weights_hash: The hash of the model's weights.
        reference_name: The reference's name, for messages.
        rank: This process's number.
        world: How many processes share the work.
        on_part: Called with the number of rows that this process has scored so far, after each part.
        workers: How many processes read and decode the data.
        command: The command line, for the record.
        progress: Whether process 0 shows a progress bar on stderr.
        dtype: "float16" or "float32": the type of the stored embeddings.
        block: Parts with more rows are cut.
        on_error: "raise", or "skip" for rows whose picture or captions cannot be read: they are logged and stay without
            embeddings, and asking for them raises.

    Returns:
        The store.

    Raises:
        UserError: A row cannot be read, an embedding is NaN or zero, the folder holds the store of something else
            (changed data, other weights, another tokenizer), or an argument is out of range.
        DiskFull: The disk is full; finished parts are safe.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> class Words:
        ...     length, pad = 8, 0
        ...     def __call__(self, captions): return [[ord(letter) % 4 for letter in text] for text in captions]
        ...     def fingerprint(self): return "letters"
        >>> class Towers(nn.Module):
        ...     size, width, tokenizer = 2, 3, Words()
        ...     def encode_image(self, images): return images.mean(dim=(2, 3))
        ...     def encode_text(self, tokens): return nn.functional.one_hot(tokens[:, 0], 4)[:, 1:].float()
        >>> class Pets:
        ...     name, max_captions = "pets", 1
        ...     def __len__(self): return 2
        ...     def keys(self, rows): return [f"pet-{row}" for row in rows]
        ...     def captions(self, row): return [["a cat", "a dog"][row]]
        ...     def picture(self, row): return Image.new("RGB", (4, 4), ["red", "blue"][row])
        ...     def parts(self): return [("pets", 0, 2)]
        ...     def fingerprint(self): return "f0"
        >>> store = score_pairs(Towers(), Pets(), Path(tempfile.mkdtemp()) / "store", batch_size=2, device="cpu",
        ...                     weights_hash="w0", reference_name="toy", progress=False)
        >>> len(store), store.width, store.missing(), store.part(0).image.tolist()
        (2, 3, [], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    """
    _check_arguments(batch_size, block, workers, rank, world)
    _check_choices(dtype, on_error)
    if not len(pairs):
        raise UserError(f"`pairs` {pairs.name!r} is empty: there is nothing to score.")
    device = torch.device(device)
    forward = PairForward(model, device, precision)
    meta = EmbeddingMeta(
        width=model.width,
        dtype=dtype,
        reference={"name": reference_name, "weights": weights_hash, "tokenizer": model.tokenizer.fingerprint()},
        dataset={"name": pairs.name, "fingerprint": pairs.fingerprint()},
        preprocessing={"size": model.size, "crop": CROP, "precision": precision},
        parts=cut_parts(pairs.parts(), len(pairs), block),
        command=command,
        version=installed_version(),
    )
    store = EmbeddingStore.create(path, meta, pairs)
    work = _Work(store, batch_size, rank, world)
    module = cast(nn.Module, model)
    with (
        evaluating(module.to(device)),
        torch.inference_mode(),
        rows_bar(work.total, work.done, shown=progress and rank == 0) as advance,
    ):
        batches = iter(_loader(PairReader(pairs, model.size, model.tokenizer, skip=on_error == "skip"), work, workers))
        done = 0
        for part in work.todo:
            scored = _Scored(getattr(torch, dtype))
            for rows in work.batches(part):
                scored.add(forward, next(batches), batch_size)
                advance(len(rows))
            _write(store, part, scored)
            done += part.stop - part.start
            if on_part is not None:
                on_part(done)
    return store


class _Work:
    """This process's unfinished parts, cut into batches; a batch sampler for `DataLoader`.

    A batch never spans two parts: which rows are together in a batch changes the last bits of their embeddings.
    """

    def __init__(self, store: EmbeddingStore, batch_size: int, rank: int, world: int) -> None:
        self._batch_size = batch_size
        missing = set(store.missing())
        own = range(rank, len(store.meta.parts), world)
        for index in own:
            if index not in missing:
                store.part(index)  # A damaged file is found now and not by the training.
        self.todo = [store.meta.parts[index] for index in own if index in missing]
        self.total = sum(store.meta.parts[index].stop - store.meta.parts[index].start for index in own)
        self.done = self.total - sum(part.stop - part.start for part in self.todo)

    def __iter__(self) -> Iterator[list[int]]:
        for part in self.todo:
            yield from self.batches(part)

    def batches(self, part: Part) -> Iterator[list[int]]:
        for first in range(part.start, part.stop, self._batch_size):
            yield list(range(first, min(first + self._batch_size, part.stop)))


@dataclass
class _Scored:
    """What is known about the rows of a part so far; embeddings stay on the device until the part is finished."""

    dtype: torch.dtype
    image: list[torch.Tensor] = field(default_factory=list)
    text: list[torch.Tensor] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    means: list[np.ndarray] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def add(self, forward: PairForward, inputs: PairInputs, batch_size: int) -> None:
        readable = torch.from_numpy(inputs.counts > 0)
        if readable.any():
            self.image.append(forward.image(inputs.images[readable]).to(self.dtype))
        self.text += [forward.text(tokens).to(self.dtype) for tokens in inputs.tokens.split(batch_size) if len(tokens)]
        self.counts.append(inputs.counts)
        self.hashes.append(inputs.caption_hashes)
        self.means.append(np.where(inputs.counts > 0, image_means(inputs.images), np.nan).astype(np.float32))
        self.keys += inputs.keys


def _write(store: EmbeddingStore, part: Part, scored: _Scored) -> None:
    counts = np.concatenate(scored.counts)
    of_caption = np.repeat(np.arange(len(counts)), counts)
    readable = counts > 0
    image = np.full((len(counts), store.width), np.nan, dtype=store.meta.dtype)
    image[readable] = _checked("image", scored.image, store, np.flatnonzero(readable), scored.keys)
    text = _checked("text", scored.text, store, of_caption, scored.keys)
    write_part(
        store.path,
        store.meta,
        part,
        image=image,
        text=text,
        counts=counts,
        keys=scored.keys,
        caption_hashes=np.concatenate(scored.hashes),
        image_means=np.concatenate(scored.means),
    )


def _checked(
    side: str, embeddings: list[torch.Tensor], store: EmbeddingStore, owners: np.ndarray, keys: list[str]
) -> np.ndarray:
    """The embeddings of a part in the store's type; `owners` says which key each belongs to."""
    values = torch.cat(embeddings).cpu().numpy() if embeddings else np.empty((0, store.width), dtype=store.meta.dtype)
    embeddings.clear()  # All of a part is in memory here; twice is enough.
    if values.shape != (len(owners), store.width):
        raise UserError(
            f"`model` gave {side} embeddings of shape {values.shape}, expected {(len(owners), store.width)}: its `width` "
            f"is {store.width}."
        )
    bad = np.unique(owners[~np.isfinite(values).all(axis=1)]).tolist()
    if bad:
        names = ", ".join(repr(keys[i]) for i in bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise UserError(
            f"The reference's {side} embeddings of {len(bad):,} rows are NaN, infinite or zero: {names}. A reference "
            "with such values cannot be used. Look at these rows, at the reference's weights, or score with `precision` "
            "fp32."
        )
    return values


def _loader(reader: PairReader, work: _Work, workers: int) -> DataLoader[PairInputs]:
    dataset = cast("Dataset[PairInputs]", reader)  # a map-style data set by its methods
    # Its own generator: the loader would otherwise draw a seed from the global one, and what trains next would differ.
    return DataLoader(dataset, batch_sampler=work, num_workers=workers, collate_fn=_as_is, generator=torch.Generator())


def _as_is(batch: Any) -> Any:
    return batch


def _check_arguments(batch_size: int, block: int, workers: int, rank: int, world: int) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("block", block, 1), ("workers", workers, 0)):
        if value < least:
            raise UserError(f"`{name}` must be at least {least}, found {value}.")
    if not 0 <= rank < world:
        raise UserError(f"`rank` must be between 0 and `world` - 1, found rank {rank} of world {world}.")


def _check_choices(dtype: str, on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise UserError(f"`on_error` must be raise or skip, found {on_error!r}.")
    if dtype not in DTYPES:
        raise UserError(f"`dtype` must be one of {', '.join(DTYPES)}, found {dtype!r}.")
