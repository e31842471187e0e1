"""What a tokenizer of captions is, and the built-in one: byte-level BPE trained on the user's own captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from guidestar.errors import UserError
from guidestar.files import write_json, write_text
from guidestar.models.pairs.settings import SMALLEST_VOCABULARY

if TYPE_CHECKING:
    import tokenizers

# The end mark is not 2: a Transformers CLIP text model takes an end mark of 2 for "the largest number of the row".
PAD, END, START = 0, 1, 2
MARKS = ("<|pad|>", "<|endoftext|>", "<|startoftext|>")
SETTINGS_FILE = "guidestar_tokenizer.json"
# What two tokenizers with the same vocabulary could still treat differently.
_PROBES = (
    "",
    "A photo of a  Cat.",
    "naïve Ünïcödé 北京 🙂",
    "don't 3.14 2024-01-01",
    "<|endoftext|> <pad>",
    "\tx\n y ",
)


class Tokenizer(Protocol):
    """Captions to token numbers."""

    length: int
    pad: int
    vocabulary: int

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The numbers of each caption, marks included, at most `length`, without padding."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the numbers."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` reads."""
        ...


class BytePairTokenizer:
    """Byte-level BPE in lower case, with start, end and padding marks; marks written in a caption are plain text.

    Args:
        inner: the trained tokenizer.
        length: longest caption in tokens; a longer one is cut and keeps its end mark.

    Raises:
        UserError: `length` is below 3.

    Example:
        >>> tokenizer = train_tokenizer(["a red shoe", "a blue shoe"], vocabulary=300, length=8)
        >>> tokenizer([""]), len(tokenizer(["a very long caption about a red shoe"])[0])
        ([[2, 1]], 8)
    """

    pad = PAD
    start = START
    end = END

    def __init__(self, inner: tokenizers.Tokenizer, length: int) -> None:
        if length < 3:
            raise UserError(f"`length` must be at least 3 (start, one token, end), found {length}.")
        self.inner = inner
        self.length = length
        self.vocabulary: int = inner.get_vocab_size()
        self._prepare()

    def _prepare(self) -> None:
        self.inner.no_padding()
        self.inner.enable_truncation(self.length)
        # A caption that contains "<|endoftext|>" must not end there.
        self.inner.encode_special_tokens = True

    def __setstate__(self, state: dict[str, object]) -> None:
        # A copy or a pickle of `inner` forgets how it treats marks.
        self.__dict__.update(state)
        self._prepare()

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The numbers of each caption.

        Args:
            captions: the captions.

        Raises:
            TypeError: a caption is not a string.
        """
        check_captions(captions)
        # One at a time: `encode_batch` starts threads, and a worker process forked after that prints a warning.
        return [self.inner.encode(caption).ids for caption in captions]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the numbers."""
        return fingerprint_of(self, self.inner.get_vocab())

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and the length into a folder, which is made.

        Raises:
            OSError: it cannot be written.
        """
        write_text(Path(folder) / "tokenizer.json", self.inner.to_str(pretty=True))
        write_json(Path(folder) / SETTINGS_FILE, {"kind": "bpe", "length": self.length})


def train_tokenizer(captions: Iterable[str], vocabulary: int, length: int) -> BytePairTokenizer:
    """A byte-level BPE tokenizer for these captions; the same captions in any order give the same one.

    Args:
        captions: the captions to learn from; only those of the training data.
        vocabulary: largest number of tokens, of which 259 are bytes and marks; fewer where the captions hold less.
        length: longest caption in tokens, start and end included.

    Raises:
        UserError: `vocabulary` or `length` is too small, or there are no captions.
        TypeError: a caption is not a string.
        ImportError: tokenizers (extra `clip`) is not installed.

    Example:
        >>> tokenizer = train_tokenizer(["red shoe"] * 3, vocabulary=270, length=8)
        >>> tokenizer.vocabulary, tokenizer(["Red  shoe"]) == tokenizer(["red shoe"])
        (266, True)
    """
    if vocabulary < SMALLEST_VOCABULARY:
        raise UserError(
            f"`vocabulary` must be at least {SMALLEST_VOCABULARY} (256 bytes and 3 marks), found {vocabulary}."
        )
    texts = list(captions)
    check_captions(texts)
    if not any(text.strip() for text in texts):
        raise UserError("`captions` must hold at least one that is not empty, found none.")
    tokenizers = import_tokenizers()
    pipeline = tokenizers.Tokenizer(tokenizers.models.BPE())
    pipeline.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.NFC(),
            tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            tokenizers.normalizers.Strip(),
            tokenizers.normalizers.Lowercase(),
        ]
    )
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    pipeline.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(MARKS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pipeline.train_from_iterator(sorted(texts), trainer)
    pipeline.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{MARKS[START]} $A {MARKS[END]}", special_tokens=[(MARKS[START], START), (MARKS[END], END)]
    )
    return BytePairTokenizer(pipeline, length)


def check_captions(captions: Sequence[str]) -> None:
    """Raise if a caption is not a string.

    Raises:
        TypeError: names the place and the type.
    """
    if isinstance(captions, str):
        raise TypeError("`captions` must be a list of strings, found one string.")
    for place, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise TypeError(f"`captions` must be strings, found {type(caption).__name__} at {place}.")


def fingerprint_of(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> str:
    """SHA-256 (hex) over a tokenizer's vocabulary, length and padding, and the numbers of a few telling texts.

    Args:
        tokenizer: the tokenizer.
        vocabulary: token to number.
    """
    facts = [tokenizer.length, tokenizer.pad, sorted(vocabulary.items()), tokenizer(_PROBES)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def import_tokenizers():
    """The tokenizers package.

    Raises:
        ImportError: it (extra `clip`) is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError('a tokenizer of captions needs tokenizers: pip install "guidestar[clip]"') from error
    return tokenizers
