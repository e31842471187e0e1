"""Models of image-text pairs, and tokenizers on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidestar.errors import UserError
from guidestar.models.pairs.bag import BagTower
from guidestar.models.pairs.clip_towers import small_image_tower, small_text_tower
from guidestar.models.pairs.cnn import ConvolutionalTower
from guidestar.models.pairs.dual import DualEncoder
from guidestar.models.pairs.open_clip import from_open_clip, load_open_clip_tokenizer
from guidestar.models.pairs.pretrained import from_transformers, load_pretrained_tokenizer
from guidestar.models.pairs.settings import DualOptions, PairModelSettings
from guidestar.models.pairs.tokenizer import SETTINGS_FILE, BytePairTokenizer, Tokenizer, import_tokenizers


def build_dual_encoder(
    settings: PairModelSettings, *, tokenizer: Tokenizer | None = None, base: Path | None = None
) -> DualEncoder:
    """The model of pairs that a name stands for; its random weights come from torch's seed.

    Args:
        settings: `name` is "dual" (built-in towers), "transformers:PATH" (a folder with a CLIP or SigLIP model) or
            "open_clip:NAME"; and the model's options.
        tokenizer: the tokenizer of a built-in model; other models have their own, and take only that one.
        base: the folder of the recipe, where relative paths start; default: the current one.

    Raises:
        UserError: options that do not fit each other, no tokenizer or one of another model, broken weights.
        ImportError: an optional package is missing; names the extra.
        OSError: a folder or file is missing.

    Example:
        >>> from guidestar.models.pairs import train_tokenizer
        >>> tokenizer = train_tokenizer(["a red shoe"], vocabulary=300, length=8)
        >>> model = build_dual_encoder(PairModelSettings(), tokenizer=tokenizer)
        >>> model.size, model.width
        (40, 128)
    """
    folder = Path() if base is None else base
    origin, _, rest = settings.name.partition(":")
    if origin == "transformers":
        return _own_tokenizer(from_transformers(folder / Path(rest).expanduser(), settings.transformers), tokenizer)
    if origin == "open_clip":
        return _own_tokenizer(from_open_clip(rest, settings.open_clip, folder), tokenizer)
    if tokenizer is None:
        raise UserError(
            "`tokenizer` must be given for the model 'dual'; train one on the captions with `train_tokenizer`."
        )
    return _dual(settings.dual, tokenizer)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote into a folder.

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: there is none.
        UserError: a file is broken.
    """
    folder = Path(folder)
    if not (folder / SETTINGS_FILE).is_file():
        raise FileNotFoundError(f"`tokenizer`: there must be a folder with {SETTINGS_FILE}, found none at {folder}.")
    found = _settings(folder)
    if found["kind"] == "transformers":
        return load_pretrained_tokenizer(folder, found["length"])
    if found["kind"] == "open_clip":
        return load_open_clip_tokenizer(found["name"])
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"`tokenizer`: there must be tokenizer.json in {folder}, found none.")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    tokenizers = import_tokenizers()
    try:
        json.loads(text)
    except ValueError as error:
        raise UserError(f"`tokenizer`: {folder / 'tokenizer.json'} is no readable JSON ({error}).") from error
    return BytePairTokenizer(tokenizers.Tokenizer.from_str(text), found["length"])


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"`tokenizer`: {path} is no readable JSON ({error}).") from error
    needed = {"bpe": "length", "transformers": "length", "open_clip": "name"}
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind not in needed or needed[kind] not in found:
        raise UserError(f"`tokenizer`: {path} must name a kind ({', '.join(needed)}) and its values, found {found!r}.")
    return found


def _own_tokenizer(model: DualEncoder, tokenizer: Tokenizer | None) -> DualEncoder:
    if tokenizer is not None and tokenizer.fingerprint() != model.tokenizer.fingerprint():
        raise UserError(
            "`tokenizer` must be the model's own, found another one. Leave it out: the model brings its tokenizer."
        )
    return model


def _dual(options: DualOptions, tokenizer: Tokenizer) -> DualEncoder:
    if options.image == "cnn":
        image = ConvolutionalTower(
            options.size, options.width, hidden=options.image_hidden or 32, layers=options.image_layers or 4
        )
    else:
        image = small_image_tower(options)
    if options.text == "bag":
        text = BagTower(tokenizer.vocabulary, tokenizer.pad, options.width, hidden=options.text_hidden or 128)
    else:
        text = small_text_tower(options, tokenizer)
    return DualEncoder(image, text, tokenizer=tokenizer, size=options.size, width=options.width)
