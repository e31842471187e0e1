import sys
from types import SimpleNamespace

import pytest

from guidestar.errors import UserError
from guidestar.models.pairs import PairModelSettings, build_dual_encoder
from guidestar.models.pairs.bag import BagTower
from guidestar.models.pairs.cnn import ConvolutionalTower


def test_a_built_in_model_needs_a_tokenizer():
    with pytest.raises(UserError, match="`tokenizer` must be given for the model 'dual'"):
        build_dual_encoder(PairModelSettings())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ConvolutionalTower(4, 8, layers=4),
            "`size` must be at least 8 for 4 stages that halve it each, found 4",
        ),
        (
            lambda: ConvolutionalTower(40, 8, hidden=12),
            "`image_hidden` must be a multiple of 8 for `image: cnn`, found 12",
        ),
        (lambda: ConvolutionalTower(40, 0), "`width` must be a whole number of at least 1, found 0"),
        (lambda: BagTower(10, 0, 8, hidden=0), "`text_hidden` must be a whole number of at least 1, found 0"),
    ],
)
def test_towers_that_do_not_fit(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_a_text_transformer_needs_an_end_mark():
    foreign = SimpleNamespace(vocabulary=10, length=8, pad=0)
    with pytest.raises(UserError, match="`text: transformer` needs a tokenizer with an end mark"):
        build_dual_encoder(PairModelSettings(options={"text": "transformer"}), tokenizer=foreign)


@pytest.mark.parametrize(
    ("options", "what"), [({"image": "vit"}, "`image: vit`"), ({"text": "transformer"}, "`text: transformer`")]
)
def test_transformers_that_is_not_installed(monkeypatch, tokenizer, options, what):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=rf'{what} needs transformers: pip install "guidestar\[clip\]"'):
        build_dual_encoder(PairModelSettings(options=options), tokenizer=tokenizer)
