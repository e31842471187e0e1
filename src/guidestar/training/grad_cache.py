"""Exact gradient accumulation for losses that contrast every pair of a batch with every other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Chunk = tuple[Tensor, Tensor]


def cached_backward(
    encode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    chunks: Sequence[Chunk],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    shared: Sequence[Tensor] = (),
    own: Sequence[Tensor] = (),
    no_sync: Callable[[], AbstractContextManager] = nullcontext,
    last: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradient of a loss of the whole batch, with the inner values of only one chunk in memory at a time.

    All chunks are encoded without a graph; the loss gives $\partial L/\partial e$ for every embedding e; then each chunk
    is encoded again, with the random numbers of the first time, and $\sum_e \langle \partial L/\partial e, e\rangle$ is
    differentiated. By the chain rule the sum over the chunks is the gradient of L. The towers must treat each row by
    itself (no batch normalisation in training mode).

    Args:
        encode: (images, tokens) of a chunk to embeddings, image and text `[b, d]`.
        chunks: the batch, cut.
        loss_of: embeddings of the whole batch, image and text `[B, d]`, to the scalar loss; called once.
        shared: parameters of the model that the loss uses directly, such as its temperature.
        own: parameters that belong to the loss; their gradients are added here and not exchanged.
        no_sync: a context in which processes do not exchange gradients.
        last: whether the last chunk's backward pass exchanges them.

    Returns:
        The loss and the embeddings, detached.

    Source:
        Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> halves = [(torch.eye(2)[:1], torch.eye(2)[:1]), (torch.eye(2)[1:], torch.eye(2)[1:])]
        >>> _ = cached_backward(lambda x, y: (x * weight, y * weight), halves, lambda x, y: (x @ y.T).logsumexp((0, 1)))
        >>> weight.grad
        tensor([0.7311, 0.7311])
    """
    states, encoded = [], []
    with torch.no_grad():
        for images, tokens in chunks:
            states.append(_RandomState(images.device))
            encoded.append(encode(images, tokens))
    image, text = (torch.cat([pair[side] for pair in encoded]).requires_grad_() for side in (0, 1))
    loss = loss_of(image, text)
    wanted = [image, text, *(leaf for leaf in (*shared, *own) if leaf.requires_grad)]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    gradients = {id(leaf): torch.zeros_like(leaf) if g is None else g for leaf, g in zip(wanted, found, strict=True)}
    for leaf in own:
        if leaf.requires_grad:
            leaf.grad = gradients[id(leaf)] if leaf.grad is None else leaf.grad + gradients[id(leaf)]
    sizes = [len(images) for images, _ in chunks]
    by_chunk = zip(gradients[id(image)].split(sizes), gradients[id(text)].split(sizes), strict=True)
    after = _RandomState(image.device)
    for place, ((images, tokens), state, parts) in enumerate(zip(chunks, states, by_chunk, strict=True)):
        final = place == len(chunks) - 1
        with nullcontext() if last and final else no_sync():
            state.restore()
            surrogate = sum((e * g).sum() for e, g in zip(encode(images, tokens), parts, strict=True))
            if final:  # so that their gradients are exchanged together with the others
                surrogate = surrogate + sum((leaf * gradients[id(leaf)]).sum() for leaf in shared if leaf.requires_grad)
            torch.as_tensor(surrogate).backward()
    after.restore()
    return loss.detach(), image.detach(), text.detach()


class _RandomState:
    """The state of the random numbers that layers draw: the CPU's, and the device's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
