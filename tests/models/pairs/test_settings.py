import pytest
from pydantic import ValidationError

from guidestar.models.pairs import DualOptions, PairModelSettings, TokenizerSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "resnet"}, "option `image`: Input should be 'cnn' or 'vit', found 'resnet'"),
        ({"width": 0}, "option `width`: Input should be greater than 0, found 0"),
        ({"width": "128"}, "option `width`: Input should be a valid integer, found '128'"),
        (
            {"hidden": 3},
            "`model` 'dual' has no option `hidden`; the options are: image, text, width, size, image_hidden",
        ),
        ({"patch": 8}, "`patch` is for `image: vit`; found `image: cnn`"),
        ({"image_heads": 2}, "`image_heads` is for `image: vit`; found `image: cnn`"),
        ({"text_layers": 2}, "`text_layers` is for `text: transformer`; found `text: bag`"),
        ({"text_heads": 2}, "`text_heads` is for `text: transformer`; found `text: bag`"),
        ({"image": "vit", "size": 36}, "`patch` must divide `size` 36, found 8"),
        ({"image": "vit", "size": 16, "patch": 32}, "`patch` must divide `size` 16, found 32"),
        ({"image": "vit", "image_hidden": 30}, "`image_heads` must divide `image_hidden` 30, found 4"),
        ({"text": "transformer", "text_heads": 3}, "`text_heads` must divide `text_hidden` 128, found 3"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValidationError, match=message):
        PairModelSettings(options=options)


@pytest.mark.parametrize("name", ["clip", "", "transformers:", "open_clip", "timm:resnet18"])
def test_unknown_names(name):
    with pytest.raises(ValidationError, match="must be dual, transformers:PATH or open_clip:NAME, found"):
        PairModelSettings(name=name)


def test_options_of_other_origins():
    with pytest.raises(ValidationError, match="'transformers:a' has no option `width`; the options are: pretrained"):
        PairModelSettings(name="transformers:a", options={"width": 3})
    with pytest.raises(ValidationError, match="option `pretrained`: Input should be a valid string, found True"):
        PairModelSettings(name="open_clip:ViT-B-32", options={"pretrained": True})


def test_what_brings_what():
    built_in = PairModelSettings()
    assert not built_in.brings_tokenizer
    assert not built_in.brings_weights
    for name, without in (("transformers:a", False), ("open_clip:a", None)):
        trained = PairModelSettings(name=name, options={"pretrained": True if without is False else "a.pt"})
        assert trained.brings_tokenizer
        assert trained.brings_weights
        assert not PairModelSettings(name=name, options={"pretrained": without}).brings_weights
        assert trained.same_architecture(PairModelSettings(name=name))


def test_same_architecture():
    assert PairModelSettings().same_architecture(PairModelSettings(options={"width": 128}))
    assert not PairModelSettings().same_architecture(PairModelSettings(options={"width": 64}))
    assert not PairModelSettings().same_architecture(None)
    assert not PairModelSettings().same_architecture(PairModelSettings(name="transformers:a"))


def test_settings_survive_json():
    settings = PairModelSettings(options={"image": "vit", "size": 48})
    assert PairModelSettings.model_validate_json(settings.model_dump_json()) == settings
    assert settings.dual == DualOptions(image="vit", size=48)


def test_tokenizer_settings():
    with pytest.raises(ValidationError, match="greater than or equal to 259"):
        TokenizerSettings(vocabulary=258)
    with pytest.raises(ValidationError, match="greater than or equal to 3"):
        TokenizerSettings(length=2)


def test_every_setting_is_described():
    for kind in (DualOptions, PairModelSettings, TokenizerSettings):
        assert all(field.description for field in kind.model_fields.values())
