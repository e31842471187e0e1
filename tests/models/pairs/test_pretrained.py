import json

import pytest
import torch

from guidestar.errors import UserError
from guidestar.models import weights_hash
from guidestar.models.pairs import PairModelSettings, build_dual_encoder, export_clip, load_tokenizer, train_tokenizer
from guidestar.models.pairs.pretrained import TransformersTokenizer

transformers = pytest.importorskip("transformers", reason="needs the extra `clip`")

CAPTIONS = ["A red  shoe", "a blue shirt, 3", "", "a caption that is much longer than the ten tokens there are"]
VISION = {"image_size": 16, "patch_size": 8, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
TEXT = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 10}
HEADS = {"num_attention_heads": 2}
PROCESSOR = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


def words(tokenizer, **options):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.inner, eos_token="<|endoftext|>", bos_token="<|startoftext|>", **options
    )


@pytest.fixture
def clip(tokenizer, tmp_path):
    """A CLIP folder as OpenAI's are: padding with the end mark, the largest number."""
    config = transformers.CLIPConfig(
        text_config={**TEXT, **HEADS, "vocab_size": tokenizer.vocabulary, "eos_token_id": 1, "bos_token_id": 2},
        vision_config={**VISION, **HEADS},
        projection_dim=6,
        logit_scale_init_value=3.0,
    )
    torch.manual_seed(1)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    words(tokenizer, pad_token="<|endoftext|>").save_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path


@pytest.fixture
def siglip(tokenizer, tmp_path):
    config = transformers.SiglipConfig(
        text_config={**TEXT, **HEADS, "vocab_size": tokenizer.vocabulary, "projection_size": 8, "pad_token_id": 0},
        vision_config={**VISION, **HEADS},
    )
    torch.manual_seed(2)
    transformers.SiglipModel(config).save_pretrained(tmp_path / "siglip")
    words(tokenizer, pad_token="<|pad|>").save_pretrained(tmp_path / "siglip")
    (tmp_path / "siglip" / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR}))
    return tmp_path


def build(folder, name, **options):
    return build_dual_encoder(PairModelSettings(name=f"transformers:{name}", options=options), base=folder)


def normalised(images):
    mean, std = (torch.tensor(PROCESSOR[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    return (images - mean) / std


@pytest.mark.parametrize(("name", "padding"), [("clip", True), ("siglip", "max_length")])
def test_the_same_embeddings_as_transformers(request, padded, tmp_path, name, padding):
    request.getfixturevalue(name)
    model = build(tmp_path, name).eval()
    inner = transformers.AutoModel.from_pretrained(tmp_path / name).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
    rows = tokenizer(CAPTIONS, padding=padding, truncation=True, max_length=10, return_tensors="pt")["input_ids"]
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        out = inner(input_ids=rows, pixel_values=normalised(images))
        image, text = model(images, padded(model.tokenizer, CAPTIONS))
        alone = torch.cat([model.encode_text(padded(model.tokenizer, [caption])) for caption in CAPTIONS])
    torch.testing.assert_close(image, out.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(text, out.text_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, out.text_embeds, rtol=0, atol=1e-5)
    scores = model.scale() * image @ text.T + model.bias
    torch.testing.assert_close(scores, out.logits_per_image, rtol=0, atol=1e-3)
    assert (model.size, model.width) == (16, 6 if name == "clip" else 8)
    assert model.bias.requires_grad is False


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_training_freezing_and_recomputing(request, padded, tmp_path, name):
    request.getfixturevalue(name)
    model = build(tmp_path, name)
    model.freeze("image")
    model.checkpoint_gradients()
    model.train()
    image, text = model(torch.rand(4, 3, 16, 16), padded(model.tokenizer, CAPTIONS))
    (image * text).sum().backward()
    assert all(parameter.grad is None for parameter in model.image_tower.parameters())
    assert any(bool((p.grad != 0).any()) for p in model.text_tower.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_exported_again(request, padded, tmp_path, name):
    request.getfixturevalue(name)
    model = build(tmp_path, name)
    export_clip(model, tmp_path / "out")
    again = build(tmp_path, "out")
    assert weights_hash(again) == weights_hash(model)
    tokens = padded(model.tokenizer, CAPTIONS)
    with torch.no_grad():
        assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    assert again.tokenizer.fingerprint() == model.tokenizer.fingerprint()


def test_random_weights_on_request(clip):
    hashes = {weights_hash(build(clip, "clip", pretrained=False)) for _ in range(2)}
    assert len(hashes) == 2
    assert weights_hash(build(clip, "clip")) == weights_hash(build(clip, "clip"))


def test_half_precision_files_are_read_as_float32(clip):
    config = transformers.AutoConfig.from_pretrained(clip / "clip")
    transformers.CLIPModel(config).half().save_pretrained(clip / "clip")
    assert {parameter.dtype for parameter in build(clip, "clip").parameters()} == {torch.float32}


def test_tokenizer_face(clip, tmp_path):
    tokenizer = build(clip, "clip").tokenizer
    rows = tokenizer(CAPTIONS)
    assert rows[2] == [2, 1]
    assert max(map(len, rows)) == tokenizer.length == 10
    assert all(row[0] == 2 and row[-1] == 1 for row in rows)
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again(CAPTIONS) == rows
    with pytest.raises(TypeError, match="found int at 0"):
        tokenizer([3])


def test_its_own_tokenizer_is_the_only_one(clip, tokenizer):
    settings = PairModelSettings(name="transformers:clip")
    own = build_dual_encoder(settings, base=clip).tokenizer
    build_dual_encoder(settings, tokenizer=own, base=clip)
    with pytest.raises(UserError, match="`tokenizer` must be the model's own, found another one"):
        build_dual_encoder(settings, tokenizer=tokenizer, base=clip)


def test_a_tokenizer_of_another_model_in_the_folder(clip):
    larger = train_tokenizer(["a red shoe", "green umbrellas under yellow lamps"] * 3, vocabulary=400, length=10)
    words(larger, pad_token="<|endoftext|>").save_pretrained(clip / "clip")
    with pytest.raises(UserError, match=r"has \d+ tokens, but the text model only \d+; it is the tokenizer of another"):
        build(clip, "clip")


def test_folders_that_are_not_whole(clip):
    folder = clip / "clip"
    with pytest.raises(NotADirectoryError, match=r"must be a folder with config.json at .*nope, found none"):
        build(clip, "nope")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"the weights in .* cannot be read"):
        build(clip, "clip")
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"must hold preprocessor_config.json with image_mean and image_std"):
        build(clip, "clip")


def test_missing_weights_and_files(clip):
    import safetensors.torch

    folder = clip / "clip"
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"are incomplete; missing: visual_projection.weight"):
        build(clip, "clip")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"the weights in .* cannot be read"):
        build(clip, "clip")
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"`tokenizer`: .* holds none that Transformers can read"):
        build(clip, "clip")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"`tokenizer`: .* must hold one of tokenizer.json, vocab.json"):
        build(clip, "clip")


def test_other_kinds_and_widths(siglip):
    transformers.BertConfig().save_pretrained(siglip / "bert")
    with pytest.raises(UserError, match="must hold a clip or siglip model, found 'bert'"):
        build(siglip, "bert")
    config = json.loads((siglip / "siglip" / "config.json").read_text())
    config["text_config"]["projection_size"] = 4
    (siglip / "siglip" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="must have one width, found 8 and 4"):
        build(siglip, "siglip", pretrained=False)


def test_a_tokenizer_without_padding_and_end(tokenizer):
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.inner)
    with pytest.raises(UserError, match="must have a padding token or an end token, found neither"):
        TransformersTokenizer(bare, 10)
