"""A finished store as a source of reference values for the rows of a split."""

import numpy as np
import torch

from guidestar.errors import UserError
from guidestar.reference.forward import input_mean
from guidestar.reference.protocols import ScorableSplit
from guidestar.reference.store import Store
from guidestar.reference.values import as_rows, name_rows

_COMPARED = 64  # rows whose content is compared
_TOLERANCE = 1e-3  # picture decoders of different versions agree to well within this


class StoredReference:
    """What a store says about the rows of a split, joined by key.

    The split may be the scored one, a subset of it, the same rows in another order, or have other labels; each row's
    loss is always that of the split's label. Where the fingerprint is not the scored split's, rows are found by their
    keys, and the inputs of a few rows are compared with what was scored: keys such as "0", "1", ... fit any data.

    Args:
        store: The store.
        split: The split in whose row numbers rows are given, without augmentation.

    Attributes:
        forward_samples: How many samples the reference model was run on: always 0.

    Raises:
        UserError: A row's key is not in the store or its scores are not written, the content differs, the number of
            classes differs, or labels changed and the store has no logits.
    """

    def __init__(self, store: Store, split: ScorableSplit) -> None:
        self.forward_samples = 0
        self._store = store
        self._labels = split.labels.detach().cpu().long()
        if store.meta.classes is not None:
            store.check({"classes": split.num_classes})
        if split.fingerprint() == store.meta.dataset["fingerprint"]:
            store.check({"rows": len(split)})
            self._rows = np.arange(len(split), dtype=np.int64)
        else:
            self._rows = store.rows_of(split.keys(list(range(len(split)))))
            _compare_content(store, split, self._rows)
        missing = self._rows[~store.validity()[self._rows]]
        if len(missing):
            store.require_complete()
        if "logits" not in store.meta.arrays:
            # Fails now if a label changed, and not at the first step that meets one.
            store.losses_for(self._rows, self._labels)

    def losses(self, rows: torch.Tensor, inputs: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
        """The reference's losses, float32 [B], on the labels' device.

        Args:
            rows: The split's rows, integers [B]; on the CPU, or each call waits for the device.
            inputs: Not used.
            labels: The rows' labels. Those of the split are what counts; on the CPU they are compared with them.

        Raises:
            UserError: A label is not the split's.
            IndexError: A row is out of range.
        """
        own = as_rows(rows, len(self._rows))
        expected = self._labels[own]
        if labels.device.type == "cpu" and not torch.equal(labels.long(), expected):
            bad = own[(labels != expected).numpy()]
            raise UserError(
                f"`labels` must be those of the split that the reference was joined to; rows {name_rows(bad)} differ. "
                "Join the reference to `split.with_labels(labels)`."
            )
        return self._store.losses_for(self._rows[own], expected).to(labels.device, non_blocking=True)

    def logits(self, rows: torch.Tensor, inputs: torch.Tensor | None = None) -> torch.Tensor:
        """The reference's logits, float32 [B, C], on the inputs' device (without inputs: the CPU).

        Args:
            rows: The split's rows, integers [B].
            inputs: Only their device is used.

        Raises:
            UserError: The store has no logits.
            IndexError: A row is out of range.
        """
        found = self._store.read("logits", self._rows[as_rows(rows, len(self._rows))])
        return found if inputs is None else found.to(inputs.device, non_blocking=True)

    def losses_and_logits(
        self, rows: torch.Tensor, inputs: torch.Tensor | None, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both, for objectives that need both; arguments and errors as in `losses` and `logits`."""
        return self.losses(rows, inputs, labels), self.logits(rows, inputs)


def _compare_content(store: Store, split: ScorableSplit, store_rows: np.ndarray) -> None:
    if "input_mean" not in store.meta.arrays or not len(store_rows):
        return
    rows = np.unique(np.linspace(0, len(store_rows) - 1, _COMPARED).astype(np.int64))
    found = input_mean(split.__getitems__(rows.tolist())[0]).cpu()
    scored = store.read("input_mean", store_rows[rows])
    same = torch.isclose(found, scored, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True).numpy()
    if not same.all():
        raise UserError(
            f"The row keys of {split.name!r} are in the reference store {store.path}, but the inputs differ in "
            f"{int((~same).sum())} of {len(rows)} rows that were compared: {name_rows(rows[~same])}. "
            f"The store was made for {store.meta.dataset['name']!r} with other contents, another input size or another "
            "encoding. Score this data into another folder."
        )
