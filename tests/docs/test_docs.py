"""The documentation: its code runs, its recipes load, its links and formulas resolve, and nothing comes from elsewhere."""

import html
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from guidestar.cli import app
from guidestar.training.recipe_io import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NAMES = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES]

#: Packages without which a page's code can't run.
_NEEDS = {"groups.md": "torchjd", "pairs.md": "tokenizers"} | dict.fromkeys(
    ["ranking.md", "tables.md", "tutorial.md"], "sklearn"
)
#: How far the numbers of a page's training may be from those shown: they depend on the version of torch.
_TOLERANCES = {"tutorial.md": 0.3, "ranking.md": 0.05, "extreme.md": 0.05, "tables.md": 0.05}

_FENCE = re.compile(r"^```(?P<head>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """The head, text and first line number of each fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(m["head"], m["body"], text.count("\n", 0, m.start()) + 2) for m in _FENCE.finditer(text)]


def run_page(page: Path) -> tuple[dict, list[tuple[str, str]]]:
    """Run a page's Python blocks in one namespace; what each printed, with the `text` block that follows it."""
    namespace: dict = {"__name__": "__docs__"}
    printed = []
    found = blocks(page)
    for number, (head, body, line) in enumerate(found):
        if head.split(" ")[0] != "python":
            continue
        assert head == "python", f"{page.name}:{line - 1}: a Python block must run, found `{head}`"
        output: list[str] = []
        namespace["print"] = lambda *values, out=output: out.append(" ".join(map(str, values)))
        exec(compile("\n" * (line - 1) + body, str(page), "exec"), namespace)
        following = found[number + 1] if number + 1 < len(found) else ("", "", 0)
        printed.append(("\n".join(output), following[1].strip() if following[0] == "text" else ""))
    return namespace, printed


def agree(output: str, shown: str, tolerance: float) -> None:
    """The same words, and numbers that differ by no more than the tolerance."""
    words = [_NUMBER.sub("#", re.sub(r"\s+", " ", text)).strip() for text in (output, shown)]
    assert words[0] == words[1]
    found, expected = ([float(number) for number in _NUMBER.findall(text)] for text in (output, shown))
    assert found == pytest.approx(expected, abs=tolerance)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, and no engine left over from or for another test."""
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", [n for n, page in zip(NAMES, PAGES, strict=True) if "```python" in page.read_text()])
def test_code_runs_and_prints_what_the_page_shows(name, elsewhere):
    if name in _NEEDS:
        pytest.importorskip(_NEEDS[name])
    _, printed = run_page(ROOT / "docs" / name)
    for output, shown in printed:
        if shown:
            agree(output, shown, tolerance=2.0 if "%" in shown else _TOLERANCES.get(name, 0.02))


def test_the_readme_runs(elsewhere):
    namespace, _ = run_page(ROOT / "README.md")
    assert namespace["losses"].grad.argmax() == 1  # learnable and not learnt
    assert namespace["weight"].grad is not None


def test_the_tutorial_shows_what_it_says(elsewhere):
    pytest.importorskip("sklearn")
    namespace, _ = run_page(ROOT / "docs" / "tutorial.md")
    results = namespace["results"]
    assert results["steered"] > max(results["reference"], results["erm"]) + 0.01
    assert results["dro"] < results["erm"] - 0.01
    weights, wrong = namespace["weights"], namespace["wrong"]
    assert weights[wrong].mean() < 0.5 * weights[~wrong].mean()


def test_recipes_in_the_pages_load(tmp_path):
    found = [(name, body) for name, page in zip(NAMES, PAGES, strict=True) for head, body, _ in blocks(page)
             if head.startswith("yaml") and 'title="' in head]  # fmt: skip
    assert {name for name, _ in found} >= {"tutorial.md", "recipe.md", "pairs.md"}
    for name, body in found:
        path = tmp_path / f"{Path(name).stem}.yaml"
        path.write_text(body, encoding="utf-8")
        assert load_recipe(path).recipe.model.name


@pytest.mark.slow
def test_the_commands_of_the_guide_to_pairs_run(elsewhere):
    pytest.importorskip("tokenizers")
    pytest.importorskip("sklearn")
    found = blocks(ROOT / "docs" / "pairs.md")
    drawing = next(body for head, body, _ in found if head == "python")
    exec(compile(drawing, "pairs.md", "exec"), {"__name__": "__docs__"})
    recipe = next(body for head, body, _ in found if 'title="shop.yaml"' in head)
    shorter = re.sub(r"epochs: \d+", "epochs: 1", recipe.replace("seeds: [0, 1, 2]", "seeds: [0]"))
    assert shorter.count("epochs: 1") == 2
    Path("shop.yaml").write_text(shorter, encoding="utf-8")
    scripts = [body.replace("\\\n", " ") for head, body, _ in found if head == "bash"]
    lines = [line for script in scripts for line in script.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("guidestar ")]
    assert {command[0] for command in commands} == {
        "index", "train", "compare", "evaluate", "score", "export", "scaling"
    }  # fmt: skip
    for command in commands:
        AcceleratorState._reset_state(reset_partial_state=True)
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, f"{command}: {done.output} {done.exception!r}"
    for left in ("shards/train-001.tar.index", "runs/shop/report.html", "runs/slow/seed-0/steer/model.safetensors",
                 "exported/model.json", "runs/shop-scaling/scaling.html"):  # fmt: skip
        assert Path(left).is_file(), left


def test_generated_pages_are_up_to_date():
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / "scripts" / "write_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.pages().items():
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert page == text, f"docs/{name} is stale: run `python scripts/write_docs.py`"


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    inline = hooks.on_page_content(r'<p>a <span class="arithmatex">\(\ell_j &lt; \tau\)</span> b</p>')
    assert inline.startswith("<p>a <math")
    assert inline.endswith("</math> b</p>")
    assert "<mi>\N{SCRIPT SMALL L}</mi>" in html.unescape(inline)
    block = hooks.on_page_content('<div class="arithmatex">\\[\nx\n\\]</div>')
    assert 'display="block"' in block


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("latex2mathml")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES) - 1
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:link|script|img|iframe|source)[^>]*?(?:href|src)="((?:https?:)?//[^"]+)"', text)
        assert loaded == [], page.name
        assert "arithmatex" not in text, f"{page.name}: a formula was left as TeX"
