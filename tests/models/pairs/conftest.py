"""A tokenizer and a builder of small models."""

from __future__ import annotations

import pytest
import torch

from guidestar.models.pairs import DualEncoder, PairModelSettings, build_dual_encoder, train_tokenizer

CAPTIONS = [f"a {colour} {thing}, {n}" for n in range(5) for colour in ("red", "blue") for thing in ("shoe", "shirt")]
SMALL = {"size": 16, "width": 8, "image_hidden": 8, "image_layers": 3, "text_hidden": 16}


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(CAPTIONS, vocabulary=300, length=10)


@pytest.fixture
def make(tokenizer):
    def build(seed: int = 0, other=None, **options) -> DualEncoder:
        torch.manual_seed(seed)
        settings = PairModelSettings(options={**SMALL, **options})
        return build_dual_encoder(settings, tokenizer=other or tokenizer)

    return build


@pytest.fixture
def transformers_model(make):
    """Towers that Transformers' CLIP has too."""
    heads = {"image_heads": 2, "text_heads": 2, "image_layers": 2, "text_layers": 2}
    return make(image="vit", text="transformer", image_hidden=16, **heads)


@pytest.fixture(scope="session")
def padded():
    """Captions as the rows of one tensor."""

    def build(tokenizer, captions):
        rows = [torch.tensor(row) for row in tokenizer(captions)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad)

    return build
