"""Models of image-text pairs: two towers into one space, their tokenizers, and what comes from other libraries."""

from guidestar.models.pairs.dual import DualEncoder, initialise_from
from guidestar.models.pairs.export import export_clip
from guidestar.models.pairs.load import build_dual_encoder, load_tokenizer
from guidestar.models.pairs.settings import DualOptions, PairModelSettings, TokenizerSettings
from guidestar.models.pairs.tokenizer import BytePairTokenizer, Tokenizer, train_tokenizer

__all__ = [
    "BytePairTokenizer",
    "DualEncoder",
    "DualOptions",
    "PairModelSettings",
    "Tokenizer",
    "TokenizerSettings",
    "build_dual_encoder",
    "export_clip",
    "initialise_from",
    "load_tokenizer",
    "train_tokenizer",
]
