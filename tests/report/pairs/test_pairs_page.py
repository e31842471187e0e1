"""The report of a run on image-text pairs: tables, curves and the gallery; nothing that does not apply."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from guidestar.report import build_report, conclude
from guidestar.report.gallery import embedded_jpeg, read_galleries
from guidestar.report.rundir import read_run

MakeRun = Callable[..., Path]
EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Tags, attributes and text; every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]

    @property
    def plain(self) -> str:
        return " ".join(self.text.replace("\u00a0", " ").split())


def test_contents(make_pairs_run: MakeRun) -> None:
    path = make_pairs_run()
    page = Page(build_report([path]))
    conclusion = conclude(read_run(path).results)
    assert conclusion.sentence.startswith("Steering wins zero-shot accuracy")
    for sentence in (conclusion.sentence, *(verdict.sentence for verdict in conclusion.verdicts)):
        assert sentence in page.plain
    for heading in (
        *("Zero-shot classification", "Retrieval", "Frozen features", "Learning curves", "What the models find"),
        *("Zero-shot top-1 against ERM, points", "Mean R@10 against ERM, points", "Image to text R@1, %"),
    ):
        assert heading in page.plain
    assert "40 % of the captions exchanged" in page.plain
    assert "2500 clean pairs" in page.plain
    assert "constant (tau 0.05, gamma 1.0)" in page.plain
    assert "DRRho-CLIP: a wrong partner weighs more" in page.plain
    assert "lower is better for NLL (negative log-likelihood) and calibration error" in page.plain
    # Two headlines, each in a wide and a narrow form.
    assert page.tags.count("svg") == 4


def test_what_does_not_apply_is_left_out(make_pairs_run: MakeRun) -> None:
    page = Page(build_report([make_pairs_run(labels=False)]))
    for words in ("What weight", "sample weights", "samples weighted", "Zero-shot", "Frozen", "NLL", "lower is better"):
        assert words not in page.plain.split("How it was made")[0]
    assert page.tags.count("svg") == 2
    assert "Retrieval recall at 10 on the test data while training" in page.plain


def test_numbers_are_those_of_the_run(make_pairs_run: MakeRun) -> None:
    path = make_pairs_run()
    totals = json.loads((path / "results.json").read_text())["steer"]
    both = totals["image_to_text_r10"] + totals["text_to_image_r10"]
    row = re.search(r"steer([\d.]+) ± ", Page(build_report([path])).plain.split("Mean R@10, %")[1])
    assert row
    assert row[1] == f"{100 * sum(both) / len(both):.1f}"


def test_the_gallery_shows_every_strategy_and_opens_the_winner(make_pairs_run: MakeRun) -> None:
    path = make_pairs_run()
    text = build_report([path]).read_text()
    opened = re.findall(r'<details class="gallery"[^>]* open>.*?</summary>', text, flags=re.DOTALL)
    assert len(opened) == 1
    assert re.search(r"</span>steer <span>", opened[0])
    page = Page(path / "report.html")
    # 11 strategies, 6 captions with 5 images each, and 6 images.
    assert page.tags.count("img") == 11 * (6 * 5 + 6)
    assert all(value.startswith("data:image/jpeg;base64,/9j/") for value in page.values("src"))
    assert page.plain.count("found 5 of 6 images and 5 of 6 captions, seed 0") == 11
    assert page.plain.count("Red chequered cotton shirt with long sleeves") >= 11 * 2
    assert "script" not in page.tags
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_what_is_no_jpeg_does_not_reach_the_page(make_pairs_run: MakeRun) -> None:
    path = make_pairs_run(note=EVIL)
    svg = base64.b64encode(b"<svg onload='alert(1)'/>").decode()
    bad = ["https://example.org/a.jpeg", 'x" onerror="alert(1)', svg, None, 3, "/9j/4AA\n"]
    found = [{"key": EVIL, "jpeg": value, "right": True, "score": "high"} for value in bad]
    record = {"text_to_image": [{"caption": EVIL, "found": found}], "image_to_text": "nothing"}
    for strategy in sorted((path / "seed-0").iterdir()):
        (strategy / "gallery.json").unlink()
    (path / "seed-0" / "steer" / "gallery.json").write_text(json.dumps(record))
    out = build_report([path])
    page = Page(out)
    assert "img" not in page.tags
    assert "script" not in page.tags
    assert EVIL not in out.read_text()
    assert page.plain.count("image left out: not an embedded JPEG") == len(bad)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


@pytest.mark.parametrize("value", [None, 5, "", "/9j", "AAAA", "/9j/4AA", "data:image/jpeg;base64,/9j/4AAQ", "é"])
def test_no_jpeg(value: object) -> None:
    assert embedded_jpeg(value) is None


def test_a_broken_gallery_is_a_warning(make_pairs_run: MakeRun) -> None:
    path = make_pairs_run()
    (path / "seed-0" / "erm" / "gallery.json").write_text("{")
    (path / "seed-0" / "steer" / "gallery.json").write_text("[]")
    galleries, warnings = read_galleries(read_run(path))
    assert len(galleries) == 9
    assert warnings[0].startswith("gallery.json of erm on seed 0 cannot be read")
    assert warnings[1] == "gallery.json of steer on seed 0 holds no retrievals."
    text = Page(build_report([path])).plain
    assert "gallery.json of erm on seed 0 cannot be read" in text


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "seed-0" / "steer").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("task: pairs\nname: products\nstrategies: [erm, steer]\n")
    text = Page(build_report([tmp_path])).plain
    assert text.count("Nothing has finished: no strategy has a result.") == 1
    assert "erm: not started" in text
    assert "There are no learning curves" in text
    assert "weights" not in text


def test_pairs_and_classifiers_side_by_side(make_pairs_run: MakeRun, make_run: MakeRun) -> None:
    paths = [make_pairs_run("a"), make_pairs_run("b", labels=False), make_run("digits", seeds=2)]
    page = Page(build_report(paths))
    glance = page.plain.split("All runs at a glance")[1].split("Steering wins")[0]
    for heading in ("Zero-shot accuracy, %", "Retrieval recall at 10, %", "Accuracy, %"):
        assert glance.count(heading) == 1
    zero_shot = glance.split("Zero-shot accuracy, %")[1].split("Retrieval recall at 10, %")[0]
    assert " a39" in zero_shot
    assert " b" not in zero_shot.replace(" best", "").replace(" bold", "")
    assert "digits" not in zero_shot
    ids = page.values("id")
    assert len(ids) == len(set(ids))
