"""A model of pairs as a folder that Transformers loads on its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from guidestar.errors import UserError
from guidestar.files import write_json, write_text
from guidestar.models.pairs.clip_towers import ClipImageTower, ClipTextTower, import_transformers
from guidestar.models.pairs.dual import DualEncoder
from guidestar.models.pairs.pretrained import SiglipImageTower, SiglipTextTower, TransformersTokenizer
from guidestar.models.pairs.tokenizer import MARKS, BytePairTokenizer

_CARD = """# {title}

An image-text model ({kind}) trained with guidestar. Embeddings of width {width}; pictures of {size} x {size} pixels;
captions of at most {length} tokens.

```python
from transformers import {model}, AutoTokenizer

model = {model}.from_pretrained("{title}")
tokenizer = AutoTokenizer.from_pretrained("{title}")
tokens = tokenizer(["a caption"], padding={padding}, truncation=True, return_tensors="pt")
text = model.get_text_features(**tokens)
```

Pictures: the shorter side is resized to {size} pixels (bilinear), then the centre is cut out; values in [0, 1] are
normalised with the mean and standard deviation in `preprocessor_config.json`.
"""


def export_clip(model: DualEncoder, folder: Path) -> None:
    """Write a folder that `CLIPModel.from_pretrained` (or `SiglipModel`) and `AutoTokenizer` load.

    It holds `config.json`, `model.safetensors`, the tokenizer, `preprocessor_config.json` and a short `README.md`.

    Args:
        model: one with a `vit` and a `transformer` tower, or one that came from a Transformers folder.
        folder: new or empty.

    Raises:
        UserError: the model has other towers, or the folder is not empty.
        ImportError: transformers (extra `clip`) is not installed.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"`folder` must be new or an empty folder, found {folder} with something in it.")
    if not isinstance(model.tokenizer, (BytePairTokenizer, TransformersTokenizer)):
        raise UserError(
            f"`export_clip` must be given a model with a tokenizer of `train_tokenizer` or of Transformers, found "
            f"{type(model.tokenizer).__name__}."
        )
    transformers = import_transformers("`export_clip`")
    image, text = model.image_tower, model.text_tower
    # Making the modules draws random weights that are then overwritten; the caller's random state must not notice.
    with torch.random.fork_rng(devices=[]):
        if isinstance(image, ClipImageTower) and isinstance(text, ClipTextTower):
            inner = _clip(transformers, model, image, text)
        elif isinstance(image, SiglipImageTower) and isinstance(text, SiglipTextTower):
            inner = _siglip(transformers, image, text)
        else:
            raise UserError(
                "`export_clip` writes a vision transformer with a text transformer, as Transformers' CLIP is; found "
                f"{type(image).__name__} and {type(text).__name__}. Train with `image: vit` and `text: transformer`; "
                "the weights of every model are in its model.safetensors."
            )
    state = {**image.state_dict(), **text.state_dict(), "logit_scale": torch.log(model.scale().detach())}
    if isinstance(text, SiglipTextTower):
        state |= {"logit_scale": state["logit_scale"].reshape(1), "logit_bias": model.bias.detach().reshape(1)}
    inner.load_state_dict({name: tensor.cpu() for name, tensor in state.items()})
    inner.save_pretrained(folder)
    _save_tokenizer(transformers, model.tokenizer, folder)
    write_json(folder / "preprocessor_config.json", _processor(model, isinstance(text, SiglipTextTower)))
    write_text(folder / "README.md", _card(model, folder, inner))


def _clip(transformers: Any, model: DualEncoder, image: ClipImageTower, text: ClipTextTower) -> Any:
    return transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=_config(text.text_model),
            vision_config=_config(image.vision_model),
            projection_dim=model.width,
            logit_scale_init_value=math.log(model.scale().item()),
        )
    )


def _siglip(transformers: Any, image: SiglipImageTower, text: SiglipTextTower) -> Any:
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=_config(text.text_model), vision_config=_config(image.vision_model))
    )


def _config(tower: Any) -> dict[str, Any]:
    return tower.config.to_dict()


def _save_tokenizer(transformers: Any, tokenizer: BytePairTokenizer | TransformersTokenizer, folder: Path) -> None:
    if isinstance(tokenizer, TransformersTokenizer):
        tokenizer.inner.save_pretrained(folder)
    else:
        pad, end, start = MARKS
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.inner,
            pad_token=pad,
            eos_token=end,
            bos_token=start,
            model_max_length=tokenizer.length,
            split_special_tokens=True,
            model_input_names=["input_ids", "attention_mask"],
        ).save_pretrained(folder)


def _processor(model: DualEncoder, siglip: bool) -> dict[str, Any]:
    resize: dict[str, Any] = {"shortest_edge": model.size}
    if siglip:
        resize = {"height": model.size, "width": model.size}
    return {
        "image_processor_type": "SiglipImageProcessor" if siglip else "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": resize,
        "resample": 2,
        "do_center_crop": not siglip,
        "crop_size": {"height": model.size, "width": model.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": model.mean.tolist(),
        "image_std": model.std.tolist(),
    }


def _card(model: DualEncoder, folder: Path, inner: Any) -> str:
    siglip = isinstance(model.text_tower, SiglipTextTower)
    return _CARD.format(
        title=folder.resolve().name,
        kind="SigLIP" if siglip else "CLIP",
        model=type(inner).__name__,
        padding='"max_length"' if siglip else "True",
        width=model.width,
        size=model.size,
        length=model.tokenizer.length,
    )
