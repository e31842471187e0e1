"""A reference model that is run on each batch: online scoring."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from guidestar.reference.forward import Forward


class LiveReference:
    """A frozen copy of a model that is asked about each batch, with the methods of `StoredReference`.

    Without augmentation it agrees with a store to the precision of the store's types. With augmentation it sees each
    sample as the target does, where a store only knows the plain one.

    Args:
        model: The reference; a copy is taken, so that training the original (fine-tuning) does not move it.
        precision: "fp32", or "bf16" for a forward pass under autocast.
        device: Where the copy runs; by default where the model is.

    Attributes:
        forward_samples: How many samples the copy was run on.

    Raises:
        UserError: The precision is neither.

    Example:
        >>> reference = LiveReference(nn.Linear(2, 3))
        >>> reference.losses(torch.tensor([4, 7]), torch.ones(2, 2), torch.tensor([0, 2])).shape
        torch.Size([2])
        >>> reference.forward_samples
        2
    """

    def __init__(self, model: nn.Module, precision: str = "fp32", device: str | torch.device | None = None) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        own = next((tensor.device for tensor in self.model.state_dict().values()), torch.device("cpu"))
        where = own if device is None else torch.device(device)
        self._forward = Forward(self.model.to(where), where, precision)
        self.forward_samples = 0

    def losses(self, rows: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The reference's losses, float32 [B], without a gradient.

        Args:
            rows: Not used.
            inputs: What the reference looks at, [B, ...].
            labels: Their labels, int64 [B].
        """
        return self.losses_and_logits(rows, inputs, labels)[0]

    def logits(self, rows: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """The reference's logits, float32 [B, C], without a gradient.

        Args:
            rows: Not used.
            inputs: What the reference looks at, [B, ...].
        """
        # no_grad and not inference_mode: the values become constants of the target's graph.
        with torch.no_grad():
            logits = self._forward(inputs)
        self.forward_samples += len(inputs)
        return logits

    def losses_and_logits(
        self, rows: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both in one forward pass; arguments as in `losses` and `logits`."""
        logits = self.logits(rows, inputs)
        return F.cross_entropy(logits, labels.to(logits.device, non_blocking=True), reduction="none"), logits
