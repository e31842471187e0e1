"""A store of embeddings as a source of reference embeddings for the rows of image-text pairs."""

import numpy as np
import torch

from guidestar.errors import UserError
from guidestar.reference.embeddings_store import EmbeddingStore
from guidestar.reference.keys import find_hashes, hash_keys
from guidestar.reference.pair_inputs import ScorablePairs, image_means, read_images, unit
from guidestar.reference.values import as_rows, name_rows

_COMPARED = 64  # rows whose captions and images are compared when pairs are joined
_TOLERANCE = 1e-3  # picture decoders of different versions agree to well within this
_CHUNK = 1 << 16  # keys that are hashed in one go
_SHOWN = 5  # keys named in an error


class StoredEmbeddings:
    """What a store says about the rows of image-text pairs, joined by key and by caption.

    The pairs may be the scored ones, a subset, or the same in another order or with other captions left out. Pairs with
    the fingerprint of the scored ones need no join and no memory. For others, rows are found by their keys (about 60
    bytes a row), a few images are compared with what was scored, and each caption is looked up among those that were
    scored for its row, so that a caption that was changed or moved to another image never gets the embedding of the old
    one.

    Args:
        store: The store.
        pairs: The pairs in whose row numbers rows are given.
        device: Where the embeddings are returned.

    Attributes:
        forward_samples: How many samples the reference model was run on: always 0.

    Raises:
        UserError: A row's key is not in the store, its part is not written yet, or its captions or image are not those
            that were scored.

    Example:
        >>> import tempfile
        >>> from guidestar.reference.embeddings import score_pairs
        >>> import numpy as np
        >>> from guidestar.data.pairs import MemoryContent, RowPairs
        >>> from guidestar.data.pairs.strings import CaptionLists
        >>> from guidestar.models.pairs import PairModelSettings, build_dual_encoder, train_tokenizer
        >>> captions = [["a red shoe", "red"], ["a blue shirt"]]
        >>> images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
        >>> pairs = RowPairs(MemoryContent(images, CaptionLists.of(captions), None, 64), name="train")
        >>> tokenizer = train_tokenizer(sum(captions, []), vocabulary=300, length=8)
        >>> model = build_dual_encoder(PairModelSettings(options={"width": 4}), tokenizer=tokenizer)
        >>> store = score_pairs(model, pairs, tempfile.mkdtemp(), batch_size=2, device="cpu", weights_hash="w0",
        ...                     reference_name="small", progress=False)
        >>> reference = StoredEmbeddings(store, pairs)
        >>> image, text = reference.embeddings(torch.tensor([1, 0, 0]), torch.tensor([0, 0, 1]))
        >>> image.shape, text.shape
        (torch.Size([3, 4]), torch.Size([3, 4]))
    """

    def __init__(self, store: EmbeddingStore, pairs: ScorablePairs, device: str | torch.device = "cpu") -> None:
        self.forward_samples = 0
        self._store, self._pairs, self._device = store, pairs, torch.device(device)
        self._rows: np.ndarray | None = None
        self._places = np.empty((0, 0), dtype=np.int16)
        if pairs.fingerprint() == store.meta.dataset["fingerprint"]:
            store.check({"rows": len(pairs)})
            store.require_complete()
            return
        self._rows = join_pairs(store, pairs)
        # Which of its row's stored captions each caption is; -1: not looked up yet.
        self._places = np.full((len(pairs), pairs.max_captions), -1, dtype=np.int16)
        sample = np.unique(np.linspace(0, len(pairs) - 1, _COMPARED).astype(np.int64)) if len(pairs) else None
        if sample is not None:
            self._find_captions(sample)
            _compare_images(store, pairs, sample, self._rows[sample])

    @property
    def width(self) -> int:
        """The width d of the embeddings."""
        return self._store.width

    def embeddings(self, rows: torch.Tensor, choice: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The reference's embeddings, image [B, d] and text [B, d], float32 with norm 1.

        Args:
            rows: The pairs' rows, integers [B]; on the CPU, or each call waits for the device.
            choice: Which of each row's captions, int64 [B], from 0.

        Raises:
            UserError: A caption is not one that was scored, or a stored embedding is damaged.
            IndexError: A row or a caption is out of range.
        """
        own = as_rows(rows, len(self._pairs)).reshape(-1)
        chosen = choice.detach().cpu().numpy().astype(np.int64).reshape(-1)
        if chosen.shape != own.shape:
            raise UserError(f"`choice` must have one entry a row: {len(own)}, found {len(chosen)}.")
        places, found = chosen, own
        if self._rows is not None:
            found, places = self._rows[own], self._joined(own, chosen)
        image, text = self._store.read(found, places)
        return self._unit("image", image, own), self._unit("text", text, own)

    def _unit(self, side: str, values: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        bad = ~(np.isfinite(values).all(axis=1) & (values != 0).any(axis=1))
        if bad.any():
            raise UserError(
                f"The reference store {self._store.path} is damaged: the {side} embeddings of rows {name_rows(rows[bad])} "
                f"(key {self._pairs.keys(rows[bad][:1].tolist())[0]!r}) are not numbers with a direction. Delete the "
                "store and score again (`guidestar score RECIPE`)."
            )
        return unit(torch.from_numpy(values).to(self._device, non_blocking=True))

    def _joined(self, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Which of the stored captions of each row is the chosen one."""
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < self._places.shape[1]:
            raise IndexError(
                f"`choice` must be between 0 and {self._places.shape[1] - 1}, found {chosen.min()} to {chosen.max()}."
            )
        self._find_captions(np.unique(rows[self._places[rows, 0] < 0]))
        places = self._places[rows, chosen].astype(np.int64)
        if (places < 0).any():
            bad = rows[places < 0]
            raise IndexError(
                f"`choice` must be less than the number of captions of a row; it is not in {name_rows(bad)}."
            )
        return places

    def _find_captions(self, rows: np.ndarray) -> None:
        if self._rows is None:
            return
        for part, where, positions in self._store.by_part(self._rows[rows]):
            for row, position in zip(rows[where].tolist(), positions.tolist(), strict=True):
                stored = part.caption_hash[part.first_caption[position] : part.first_caption[position + 1]]
                if not len(stored):
                    self._places[row] = 0  # It could not be read; the store says so when it is asked for.
                    continue
                places = {value: place for place, value in reversed(list(enumerate(stored.tolist())))}
                wanted = [places.get(value, -1) for value in hash_keys(self._pairs.captions(row)).tolist()]
                if -1 in wanted:
                    self._refuse_captions(row, wanted.index(-1))
                self._places[row, : len(wanted)] = wanted

    def _refuse_captions(self, row: int, caption: int) -> None:
        text = self._pairs.captions(row)[caption]
        raise UserError(
            f"The captions of key {self._pairs.keys([row])[0]!r} (row {row} of {self._pairs.name!r}) are not those that "
            f"were scored: {text[:80]!r} has no embedding in the reference store {self._store.path}. Score these pairs, "
            "with their present captions, into another folder (`guidestar score RECIPE`)."
        )


def join_pairs(store: EmbeddingStore, pairs: ScorablePairs) -> np.ndarray:
    """The store's row of each of the pairs, found by key: int64 [n].

    Args:
        store: The store; parts that are not written do not count.
        pairs: The pairs.

    Raises:
        UserError: A key is not in the store, or is there more than once.
    """
    wanted = np.empty(len(pairs), dtype=np.uint64)
    for start in range(0, len(pairs), _CHUNK):
        stop = min(start + _CHUNK, len(pairs))
        wanted[start:stop] = hash_keys(pairs.keys(range(start, stop)))
    column, there = np.zeros(len(store), dtype=np.uint64), np.zeros(len(store), dtype=bool)
    missing = store.missing()
    for index in sorted(set(range(len(store.meta.parts))) - set(missing)):
        part = store.meta.parts[index]
        column[part.start : part.stop], there[part.start : part.stop] = store.part(index).key_hash, True
    rows, counts = find_hashes(wanted, column, lambda start, stop: there[start:stop])
    for bad, where in ((counts == 0, "without a row in"), (counts > 1, "more than once in")):
        found = np.flatnonzero(bad)
        if len(found):
            names = ", ".join(map(repr, pairs.keys(found[:_SHOWN].tolist()))) + (", ..." if len(found) > _SHOWN else "")
            half = f" {store.describe_missing(missing)}" if missing else ""
            raise UserError(
                f"{len(found):,} of {len(pairs):,} keys of {pairs.name!r} are {where} the reference store {store.path}: "
                f"{names}. The shards changed since they were scored, or the store was made for other data: score these "
                f"pairs into another folder (`guidestar score RECIPE`).{half}"
            )
    return rows


def _compare_images(store: EmbeddingStore, pairs: ScorablePairs, rows: np.ndarray, store_rows: np.ndarray) -> None:
    scored = np.empty(len(rows), dtype=np.float32)
    for part, where, positions in store.by_part(store_rows):
        scored[where] = part.image_mean[positions]
    # NaN: the row could not be read when it was scored.
    rows, scored = rows[np.isfinite(scored)], scored[np.isfinite(scored)]
    found = image_means(read_images(pairs, rows.tolist(), store.meta.preprocessing["size"]))
    same = np.isclose(found, scored, rtol=_TOLERANCE, atol=_TOLERANCE)
    if not same.all():
        keys = ", ".join(map(repr, pairs.keys(rows[~same][:_SHOWN].tolist())))
        raise UserError(
            f"The keys of {pairs.name!r} are in the reference store {store.path}, but the images differ in "
            f"{int((~same).sum())} of {len(rows)} rows that were compared (keys {keys}). The images changed since they "
            f"were scored, or the store was made for other data ({store.meta.dataset['name']!r}). Score these pairs into "
            "another folder (`guidestar score RECIPE`)."
        )
