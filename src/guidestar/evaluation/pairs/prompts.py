"""Class names as embeddings: the mean over prompts."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn

from guidestar.errors import UserError

DEFAULT_TEMPLATES = ("{}", "a photo of a {}.", "a picture of a {}.")
PROMPTS_AT_ONCE = 256


class PromptTokenizer(Protocol):
    """What is needed of a tokenizer."""

    @property
    def pad(self) -> int: ...

    def __call__(self, texts: list[str]) -> list[list[int]]: ...


def class_embeddings(
    encode_text: Callable[[torch.Tensor], torch.Tensor],
    tokenizer: PromptTokenizer,
    class_names: Sequence[str],
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    *,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """One embedding a class: the mean of its unit-norm prompt embeddings, at unit norm again.

    e_c = v_c / |v_c|,  v_c = mean over templates t of f(t(c)) / |f(t(c))|

    Args:
        encode_text: tokens [B, T] to embeddings [B, d]; its model must be in evaluation mode.
        tokenizer: texts to lists of token ids; `pad` fills up shorter ones.
        class_names: C names.
        templates: prompts with `{}` where the name goes.
        device: where tokens are sent.

    Returns:
        [C, d], unit norm.

    Raises:
        UserError: there are no classes or no templates, a name is empty, a template has no `{}`, or the prompts of a
            class cancel.

    Example:
        >>> class Letters:
        ...     pad = 0
        ...     def __call__(self, texts):
        ...         return [[ord(letter) % 8 for letter in text] for text in texts]
        >>> count = lambda tokens: torch.stack([(tokens == k).sum(1).float() for k in range(1, 8)], dim=1)
        >>> class_embeddings(count, Letters(), ["cat", "dog"], ["{}", "a {}"]).norm(dim=1)
        tensor([1., 1.])
    """
    if not class_names or any(not name.strip() for name in class_names):
        raise UserError(f"`class_names` must hold at least one name and no empty one, found {list(class_names)}.")
    wrong = [template for template in templates if "{}" not in template]
    if not templates or wrong:
        raise UserError(
            "`templates` must hold at least one prompt, each with `{}` where the class name goes, found "
            f"{wrong or 'none'}; such as 'a photo of a {{}}.'."
        )
    # Not str.format: other braces in a template or a name are text.
    prompts = [template.replace("{}", name) for name in class_names for template in templates]
    with torch.no_grad():
        parts = []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            ids = [torch.tensor(line) for line in tokenizer(prompts[start : start + PROMPTS_AT_ONCE])]
            tokens = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad)
            parts.append(encode_text(tokens.to(device)))
        embeddings = nn.functional.normalize(torch.cat(parts).float(), dim=1)
        means = embeddings.reshape(len(class_names), len(templates), -1).mean(dim=1)
    lost = (means.norm(dim=1) < 1e-6).nonzero().flatten()
    if len(lost):
        raise UserError(
            f"`templates` must give prompts that do not cancel; those of class {class_names[int(lost[0])]!r} have a "
            "mean embedding of zero: the model has probably collapsed."
        )
    return nn.functional.normalize(means, dim=1)
