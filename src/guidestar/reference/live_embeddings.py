"""A two-tower reference that is run on each batch: online scoring of image-text pairs."""

import copy
from typing import cast

import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.reference.pair_inputs import PairEncoder, PairForward, ScorablePairs, read_images, read_tokens
from guidestar.reference.values import as_rows


class LiveEmbeddings:
    """A frozen copy of a model that is asked about each batch, with the methods of `StoredEmbeddings`.

    It sees what `score_pairs` saw: the pairs' plain pictures at its own size, cut at the centre, and the captions
    through its own tokenizer. It agrees with a store to the precision of the store's type.

    Args:
        model: The reference; a copy is taken, so that training the original (fine-tuning) does not move it.
        pairs: The pairs in whose row numbers rows are given.
        precision: "fp32", or "bf16" for a forward pass under autocast.
        device: Where the copy runs and the embeddings are returned; by default where the model is.

    Attributes:
        forward_samples: How many pairs the copy was run on.

    Raises:
        UserError: The precision is neither.

    Example:
        >>> import numpy as np
        >>> from guidestar.data.pairs import MemoryContent, RowPairs
        >>> from guidestar.data.pairs.strings import CaptionLists
        >>> from guidestar.models.pairs import PairModelSettings, build_dual_encoder, train_tokenizer
        >>> captions = [["a red shoe", "red"], ["a blue shirt"]]
        >>> images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
        >>> pairs = RowPairs(MemoryContent(images, CaptionLists.of(captions), None, 64), name="train")
        >>> tokenizer = train_tokenizer(sum(captions, []), vocabulary=300, length=8)
        >>> model = build_dual_encoder(PairModelSettings(options={"width": 4}), tokenizer=tokenizer)
        >>> reference = LiveEmbeddings(model, pairs)
        >>> image, text = reference.embeddings(torch.tensor([1, 0, 0]), torch.tensor([0, 0, 1]))
        >>> image.shape, text.shape, reference.forward_samples
        (torch.Size([3, 4]), torch.Size([3, 4]), 3)
    """

    def __init__(
        self,
        model: PairEncoder,
        pairs: ScorablePairs,
        precision: str = "fp32",
        device: str | torch.device | None = None,
    ) -> None:
        module = cast(nn.Module, copy.deepcopy(model)).eval().requires_grad_(False)
        own = next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
        where = own if device is None else torch.device(device)
        self.model = cast(PairEncoder, module.to(where))
        self._pairs = pairs
        self._forward = PairForward(self.model, where, precision)
        self.forward_samples = 0

    @property
    def width(self) -> int:
        """The width d of the embeddings."""
        return self.model.width

    def embeddings(self, rows: torch.Tensor, choice: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The reference's embeddings, image [B, d] and text [B, d], float32 with norm 1, without a gradient.

        Args:
            rows: The pairs' rows, integers [B].
            choice: Which of each row's captions, int64 [B], from 0.

        Raises:
            UserError: An embedding is NaN or zero.
            IndexError: A row or a caption is out of range.
        """
        own = as_rows(rows, len(self._pairs)).reshape(-1).tolist()
        chosen = choice.detach().cpu().reshape(-1).tolist()
        if len(chosen) != len(own):
            raise UserError(f"`choice` must have one entry a row: {len(own)}, found {len(chosen)}.")
        captions = [self._caption(row, caption) for row, caption in zip(own, chosen, strict=True)]
        # no_grad and not inference_mode: the values become constants of the target's graph.
        with torch.no_grad():
            image = self._forward.image(read_images(self._pairs, own, self.model.size))
            text = self._forward.text(read_tokens(captions, self.model.tokenizer))
        self.forward_samples += len(own)
        return image, text

    def _caption(self, row: int, caption: int) -> str:
        captions = self._pairs.captions(row)
        if not 0 <= caption < len(captions):
            raise IndexError(
                f"`choice` must be less than the number of captions of a row; row {row} has {len(captions)}, "
                f"found {caption}."
            )
        return captions[caption]
