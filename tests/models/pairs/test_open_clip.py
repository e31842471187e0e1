"""The calls to open_clip are checked against a stand-in; open_clip itself where it is installed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from guidestar.errors import UserError
from guidestar.models.pairs import PairModelSettings, build_dual_encoder, export_clip, load_tokenizer

LENGTH, WORDS = 8, {"!": 0, "red": 1, "shoe": 2, "<start>": 3, "<end>": 4}


def rows(texts):
    """Texts as open_clip gives them: start, words, end, then zeros to the full length."""
    out = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
    for row, text in zip(out, texts, strict=True):
        numbers = [3, *(WORDS[word] for word in text.lower().split() if word in WORDS), 4][:LENGTH]
        row[: len(numbers)] = torch.tensor(numbers)
    return out


class Visual(nn.Module):
    image_mean, image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

    def __init__(self, size):
        super().__init__()
        self.image_size = size
        self.linear = nn.Linear(3, 4)
        self.checkpointing = False

    def set_grad_checkpointing(self, enable=True):
        self.checkpointing = enable

    def forward(self, images):
        return self.linear(images.mean((2, 3)))


class Text(Visual):
    def forward(self, tokens):
        assert tokens.shape[1] == LENGTH
        return self.linear(tokens.float().mean(1, keepdim=True) ** torch.arange(3))


@pytest.fixture
def open_clip(monkeypatch):
    module = ModuleType("open_clip")
    module.calls = []
    module.size = (16, 16)

    def create_model(name, **options):
        module.calls.append((name, options))
        model = nn.Module()
        model.visual, model.text = Visual(module.size), Text(0)
        model.logit_scale, model.logit_bias = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor(-3.0))
        return model

    def tokenizer(texts):
        return rows(texts)

    module.create_model = create_model
    module.get_model_config = lambda name: {"embed_dim": 4}
    module.list_models = lambda: ["Tiny-B-32", "Tiny-B-16", "Other"]
    words = SimpleNamespace(encoder=WORDS)
    face = type("Words", (), {"__call__": staticmethod(tokenizer), "encoder": words.encoder})
    module.get_tokenizer = lambda name: face()
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return module


def build(base=None, **options):
    return build_dual_encoder(PairModelSettings(name="open_clip:Tiny-B-32", options=options), base=base)


def test_towers_statistics_and_scale(open_clip):
    model = build()
    assert open_clip.calls == [("Tiny-B-32", {"pretrained": None, "force_custom_text": True, "pretrained_hf": False})]
    assert (model.size, model.width, model.tokenizer.length, model.tokenizer.pad) == (16, 4, LENGTH, 0)
    assert (model.log_scale.item(), model.bias.item()) == (2.0, -3.0)
    images = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    expected = model.image_tower.inner.linear((images.mean((2, 3)) - mean) / std)
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.encode_image(images), expected, rtol=1e-5, atol=1e-6)
    # Rows are filled up again to what open_clip itself would give.
    expected = model.text_tower.inner(rows(["red shoe"]))
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert torch.equal(model.encode_text(torch.tensor(model.tokenizer(["red shoe"]))), expected)


def test_freezing_recomputing_and_weights(open_clip, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"")
    model = build(tmp_path, pretrained="weights.pt")
    assert open_clip.calls[-1][1]["pretrained"] == str(tmp_path / "weights.pt")
    model.checkpoint_gradients()
    assert model.image_tower.inner.checkpointing
    assert model.text_tower.inner.checkpointing
    model.freeze("text")
    assert not any(parameter.requires_grad for parameter in model.text_tower.parameters())
    with pytest.raises(FileNotFoundError, match=r"`pretrained` must be a file, found none at .*nope.pt"):
        build(tmp_path, pretrained="nope.pt")


@pytest.mark.usefixtures("open_clip")
def test_tokenizer_face(tmp_path):
    tokenizer = build().tokenizer
    assert tokenizer(["red shoe", "", "red " * 20]) == [[3, 1, 2, 4], [3, 4], [3] + [1] * 7]
    assert tokenizer([]) == []
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again(["shoe"]) == [[3, 2, 4]]
    with pytest.raises(TypeError, match="found int at 0"):
        tokenizer([3])


def test_what_is_refused(open_clip, tokenizer, tmp_path):
    with pytest.raises(UserError, match="open_clip has no model 'Tiny-C'; it has: Tiny-B-32, Tiny-B-16"):
        build_dual_encoder(PairModelSettings(name="open_clip:Tiny-C"))
    with pytest.raises(UserError, match="`tokenizer` must be the model's own"):
        build_dual_encoder(PairModelSettings(name="open_clip:Tiny-B-32"), tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"`export_clip` must be given a model with .* found OpenClipTokenizer"):
        export_clip(build(), tmp_path / "export")
    open_clip.size = (16, 24)
    with pytest.raises(UserError, match="must take square pictures, found 16 x 24"):
        build()


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="needs open_clip: pip install open_clip_torch"):
        build()


@pytest.mark.slow
def test_open_clip_itself():
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch")
    model = build_dual_encoder(PairModelSettings(name="open_clip:RN50")).eval()
    inner = open_clip.create_model("RN50")
    missing = inner.visual.load_state_dict(model.image_tower.inner.state_dict())
    assert not missing.missing_keys
    texts = ["a red shoe", "", "a blue shirt with dots " * 20]
    own = [torch.tensor(row) for row in model.tokenizer(texts)]
    tokens = nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=model.tokenizer.pad)
    whole = open_clip.get_tokenizer("RN50")(texts)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = model.text_tower.inner(whole)
        expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(model.encode_text(tokens), expected, rtol=0, atol=1e-5)
        assert model.encode_image(images).shape == (1, 1024)
