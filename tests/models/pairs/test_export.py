import json

import numpy as np
import pytest
import torch
from PIL import Image

from guidestar.errors import UserError
from guidestar.models import weights_hash
from guidestar.models.pairs import PairModelSettings, build_dual_encoder, export_clip

transformers = pytest.importorskip("transformers", reason="needs the extra `clip`")

# Needs Pillow alone; in older releases it had the plain name.
Processor = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
CAPTIONS = ["A red  shoe", "a blue shirt, 3", "", "a caption that is much longer than the ten tokens <|endoftext|>"]


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in CAPTIONS]


def tensor(pictures):
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures])


@pytest.mark.parametrize("batch", [1, 4])
def test_transformers_alone_gives_the_same_embeddings(transformers_model, tokenizer, padded, pictures, tmp_path, batch):
    model = transformers_model.eval()
    with torch.no_grad():
        model.log_scale.fill_(3.0)
    export_clip(model, tmp_path / "export")
    loaded = transformers.CLIPModel.from_pretrained(tmp_path / "export").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    processor = Processor.from_pretrained(tmp_path / "export")
    tokens = words(CAPTIONS[-batch:], padding=True, truncation=True, return_tensors="pt")
    assert [row[row != tokenizer.pad].tolist() for row in tokens["input_ids"]] == tokenizer(CAPTIONS[-batch:])
    pixels = processor(images=pictures[-batch:], return_tensors="pt")
    with torch.no_grad():
        out = loaded(**tokens, **pixels)
        image, text = model(tensor(pictures[-batch:]), padded(tokenizer, CAPTIONS[-batch:]))
    torch.testing.assert_close(out.image_embeds, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.text_embeds, text, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.logits_per_image, model.scale() * image @ text.T, rtol=0, atol=1e-3)


def test_pictures_of_another_shape_are_cut_as_the_card_says(transformers_model, tmp_path):
    export_clip(transformers_model, tmp_path / "export")
    processor = Processor.from_pretrained(tmp_path / "export")
    wide = Image.new("RGB", (64, 32), (255, 0, 0))
    wide.paste((0, 255, 0), (16, 0, 48, 32))
    pixels = processor(images=[wide], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    # Green alone is left: (1 - 0.5) / 0.25 and (0 - 0.5) / 0.25.
    torch.testing.assert_close(pixels[0, :, :, 2:-2].amax((1, 2)), torch.tensor([-2.0, 2.0, -2.0]), rtol=0, atol=1e-5)


def test_a_folder_that_was_exported_is_a_model_again(transformers_model, padded, pictures, tmp_path):
    export_clip(transformers_model, tmp_path / "clip")
    again = build_dual_encoder(PairModelSettings(name="transformers:clip"), base=tmp_path)
    assert again.size == 16
    assert again.mean.tolist() == transformers_model.mean.tolist()
    torch.testing.assert_close(again.tau(), transformers_model.tau())
    with torch.no_grad():
        tokens = padded(again.tokenizer, CAPTIONS)
        for one, other in zip(
            again(tensor(pictures), tokens), transformers_model(tensor(pictures), tokens), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    export_clip(again, tmp_path / "second")
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["text_config"]["eos_token_id"] == 1
    twice = build_dual_encoder(PairModelSettings(name="transformers:second"), base=tmp_path)
    assert weights_hash(twice) == weights_hash(again)


def test_the_card_names_the_model(transformers_model, tmp_path):
    export_clip(transformers_model, tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert 'CLIPModel.from_pretrained("export")' in card
    assert "16 x 16 pixels" in card
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_exporting_draws_no_random_number(transformers_model, tmp_path):
    before = torch.random.get_rng_state()
    export_clip(transformers_model, tmp_path / "export")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("options", [{}, {"image": "vit", "image_hidden": 16}])
def test_towers_that_transformers_has_not(make, tmp_path, options):
    with pytest.raises(
        UserError, match=r"found (Conv|Clip)\w+ and BagTower. Train with `image: vit` and `text: transf"
    ):
        export_clip(make(**options), tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_folders_with_something_in_them(transformers_model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="`folder` must be new or an empty folder"):
            export_clip(transformers_model, folder)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_tokenizers_that_cannot_be_written(transformers_model, tmp_path):
    class Words:
        length = 10

    transformers_model.tokenizer = Words()
    with pytest.raises(UserError, match="a tokenizer of `train_tokenizer` or of Transformers, found Words"):
        export_clip(transformers_model, tmp_path / "export")
    assert not (tmp_path / "export").exists()
