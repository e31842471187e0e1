"""The HTML report: what is in it, that it loads nothing, and that user text stays text."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from guidestar.errors import UserError
from guidestar.report import build_report, decide
from guidestar.report.rundir import read_run

MakeRun = Callable[..., Path]
VOID = {"meta", "img", "br"}
EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Collects tags, attributes and ids, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def parse(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def test_contents(make_run: MakeRun) -> None:
    path = make_run()
    out = build_report([path])
    assert out == path / "report.html"
    page = parse(out)
    text = plain(page.text)
    results = read_run(path).results
    assert decide(results).sentence in text
    for heading in ("Results", "Learning curves", "What weight the samples got", "What it cost", "How it was made"):
        assert heading in text
    mean = 100 * float(np.mean(results["steer"]["accuracy"]))
    assert f"{mean:.1f} ± " in text
    assert "30 % of the labels changed" in text
    assert "kl (tau 1.0, gamma 0.9)" in text
    assert page.tags.count("img") == 24
    assert page.tags.count("svg") == 4
    assert "2.13.0" in text
    assert "sklearn_digits" in text


def test_weight_shares_are_those_of_the_files(make_run: MakeRun) -> None:
    path = make_run(seeds=2)
    clean, corrupted = [], []
    for seed in (0, 1):
        arrays = np.load(path / f"seed-{seed}" / "steer" / "weights.npz")
        same = arrays["label"] == arrays["true_label"]
        clean.append(arrays["weight"][same].astype(np.float64))
        corrupted.append(arrays["weight"][~same].astype(np.float64))
    right, wrong = np.concatenate(clean), np.concatenate(corrupted)
    share = 100 * wrong.sum() / (wrong.sum() + right.sum())
    assert (
        f"With steer, the mean weight of clean samples is {right.mean():.2f}, of corrupted ones {wrong.mean():.2f}: "
        f"the corrupted samples are 30.0 % of all and got {share:.1f} % of the weight."
    ) in plain(parse(build_report([path])).text)


def test_nothing_is_loaded_from_elsewhere(make_run: MakeRun) -> None:
    out = build_report([make_run(seeds=2)])
    page = parse(out)
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not {"script", "link", "iframe", "object", "embed", "form", "base", "metadata"} & set(page.tags)
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    assert all(value.startswith("#") for value in page.values("href") + page.values("xlink:href"))
    text = out.read_text()
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}


def test_ids_are_unique_and_every_reference_has_one(make_run: MakeRun) -> None:
    paths = [make_run("a", seeds=2), make_run("b", seeds=2)]
    out = build_report(paths)
    page = parse(out)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    referred = [value[1:] for value in page.values("href")] + re.findall(r"url\(#([^)]+)\)", out.read_text())
    assert referred
    assert set(referred) <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_figures_take_their_colours_from_the_page(make_run: MakeRun) -> None:
    text = build_report([make_run(seeds=2)]).read_text()
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    used = set(re.findall(r"var\(--([a-z-]+)\)", drawings))
    assert {"grid", "muted", "s-steer", "s-erm", "s-as-is", "clean", "corrupted"} <= used
    assert not re.search(r"(?:fill|stroke): ?#", drawings)
    light, dark = text.split("prefers-color-scheme: dark", 1)
    assert all(f"--{name}:" in light and f"--{name}:" in dark for name in used)


def test_the_same_run_gives_the_same_file(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run(seeds=2)
    first, second = (build_report([path], tmp_path / name) for name in ("one.html", "two.html"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(file.name for file in tmp_path.glob("*.html*")) == ["one.html", "two.html"]


def test_user_text_is_escaped(make_run: MakeRun) -> None:
    path = make_run(seeds=1, name=EVIL, model={"name": EVIL, "options": {EVIL: EVIL}}, note=EVIL)
    (path / "environment.json").write_text(json.dumps({EVIL: EVIL}))
    samples = {
        end: [
            {"row": 1, "key": EVIL, "label": EVIL, "true_label": EVIL + "2", "weight": 1, "text": EVIL, "image": image}
            for image in (None, 'x" onerror="alert(1)', f"data:image/png;base64,{EVIL}")
        ]
        for end in ("most", "least")
    }
    (path / "seed-0" / "steer" / "samples.json").write_text(json.dumps(samples))
    failed = {"status": "failed", "error": EVIL}
    (path / "seed-0" / "select" / "result.json").write_text(json.dumps(failed))
    evil_strategy = path / "seed-0" / "<img src=x onerror=alert(1)>"
    shutil.copytree(path / "seed-0" / "erm", evil_strategy)
    (path / "broken").mkdir()
    out = build_report([path])
    page = parse(out)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert EVIL not in out.read_text()
    assert page.text.count(EVIL) >= 12
    assert page.text.count("image left out: not an embedded PNG") == 4


def test_the_recipe_is_shown_without_the_folders_of_the_run(make_run: MakeRun) -> None:
    long = "/somewhere/" + "a long folder name/" * 6
    path = make_run(seeds=1, output="/elsewhere/runs", base=f"{long}recipes", note={"output": "/kept", "base": "kept"})
    assert "a long folder\n  name/a" in (path / "recipe.yaml").read_text()
    shown = re.search(r"<pre>(.*?)</pre>", build_report([path]).read_text(), flags=re.DOTALL)
    assert shown
    text = shown[1]
    assert not re.search(r"^(?:base|output)", text, flags=re.MULTILINE)
    assert "elsewhere" not in text
    assert "folder" not in text
    assert "\nnote:\n  output: /kept\n  base: kept" in text
    assert "\ntraining:\n" in text


def test_several_runs_are_compared(make_run: MakeRun) -> None:
    paths = [make_run("clean", seeds=2), make_run("noisy", seeds=3)]
    out = build_report(paths)
    assert out == paths[0].parent / "report.html"
    page = parse(out)
    text = plain(page.text)
    assert "All runs at a glance" in text
    for path in paths:
        assert decide(read_run(path).results).sentence in text
    assert {"#run0", "#run1"} <= set(page.values("href"))


def test_an_unfinished_run_says_so(make_run: MakeRun) -> None:
    path = make_run(seeds=2)
    (path / "results.json").unlink()
    for strategy in ("dro", "finetune", "distill", "select", "steer", "steer+distill"):
        for seed in (0, 1):
            shutil.rmtree(path / f"seed-{seed}" / strategy)
    (path / "seed-0" / "steer").mkdir()
    text = plain(parse(build_report([path])).text)
    assert "steer: unfinished, not a step yet (seed 0)" in text
    assert "distill: not started" in text
    assert "There are no sample weights" in text
    assert "There are no samples to show: steer has left no readable samples.json" in text


def test_a_run_with_nothing_in_it_yet(tmp_path: Path) -> None:
    (tmp_path / "seed-0" / "steer").mkdir(parents=True)
    text = plain(parse(build_report([tmp_path])).text)
    for sentence in (
        "Nothing has finished: no strategy has a result.",
        "There are no results yet: no strategy has finished.",
        "There are no learning curves",
        "There are no sample weights",
        "The run holds no costs.",
        "environment.json is missing",
        "recipe.yaml is missing",
    ):
        assert sentence in text


def test_weights_of_zero_and_unknown_true_labels(make_run: MakeRun) -> None:
    path = make_run(seeds=1)
    np.savez(path / "seed-0" / "steer" / "weights.npz", weight=np.array([0.0] * 5 + [2.0] * 5))
    text = plain(parse(build_report([path])).text)
    assert "With steer, the mean weight is 1.00; 50.0 % of the samples weigh less than 0.1." in text
    np.savez(path / "seed-0" / "steer" / "weights.npz", weight=np.zeros(5))
    assert "the mean weight is 0.00; 100.0 % of the samples" in plain(parse(build_report([path])).text)


def test_another_metric(make_run: MakeRun) -> None:
    text = plain(parse(build_report([make_run(seeds=3)], metric="nll")).text)
    assert "negative log-likelihood on the test data over 3 seeds" in text
    assert "NLL against ERM" in text


def test_bad_arguments(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`run_dirs` must name at least one"):
        build_report([])
    with pytest.raises(UserError, match=r"`metric` must be one of .*found 'f1'"):
        build_report([make_run(seeds=1)], metric="f1")
    with pytest.raises(UserError, match="`run` must be a run directory"):
        build_report([tmp_path])


def test_an_older_report_survives_a_failure(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_run(seeds=1)
    out = build_report([path])
    before = out.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("guidestar.files.os.replace", full)
    with pytest.raises(UserError, match=r"the disk is full: .*report.html"):
        build_report([path])
    assert out.read_bytes() == before
    assert [file.name for file in path.iterdir() if "tmp" in file.name] == []
