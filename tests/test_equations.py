"""The index of equations: what is recognised as a number, where it is found, and that docs/equations.md is up to date."""

from pathlib import Path

import pytest

from guidestar import equations
from guidestar.equations import Entry, Module, find, write_index
from guidestar.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

SOURCE = '''"""A module.

Equations:
    6.1.
"""

import math


class Thing:
    r"""A thing that is also called XYZ.

    Equations:
        6.10, 6.45 to 6.47 and 6.50 (see Table 2.3, Example 5.1); Alg. 9, 10, 12 of the book, Alg. 25 (step 11).
        Section 6.5.3, and the steps 6 to 10 of Alg. 35.

    Args:
        size: 3.14 is not an equation.
    """

    def value(self):
        """Without a section: 6.99."""
        x = math.pi  # Eq. 6.121 and 6.122, half of 2.71
        return x  # Alg. 26, step 9

    def _private(self):
        return "# Eq. 6.98"


def helper():
    return 1.5  # Eqs. 6.2
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "src" / "guidestar"
    (folder / "risks").mkdir(parents=True)
    (folder / "risks" / "thing.py").write_text(SOURCE)
    monkeypatch.setattr(equations, "PACKAGE", folder)
    return folder


def numbers(name):
    return [entry.number for module in (Module(equations.PACKAGE / "risks" / "thing.py"),) for entry in module.numbered()
            if entry.name == f"guidestar.risks.thing{name}"]  # fmt: skip


def test_docstring_sections_are_read(package):
    assert numbers("") == ["6.1"]
    assert numbers(".Thing") == [
        "6.10", "6.45", "6.46", "6.47", "6.50", "Alg. 9", "Alg. 10", "Alg. 12", "Alg. 25", "Section 6.5.3", "Alg. 35"
    ]  # fmt: skip


def test_comments_are_read_and_strings_are_not(package):
    assert numbers(".Thing.value") == ["6.121", "6.122", "Alg. 26"]
    assert numbers(".Thing._private") == []
    assert numbers(".helper") == ["6.2"]


def test_lines_are_those_of_the_number(package):
    lines = SOURCE.splitlines()
    for query, text in (
        ("6.47", "6.45 to 6.47"),
        ("Alg. 35", "Alg. 35"),
        ("6.122", "6.121 and 6.122"),
        ("6.1", "6.1."),
    ):
        (entry,) = find(query)
        assert text in lines[entry.line - 1]


@pytest.mark.parametrize(
    ("query", "number"),
    [("6.121", "6.121"), ("Eq. 6.121", "6.121"), ("eq 6.121", "6.121"), ("equation (6.121)", "6.121"), ("(6.121)", "6.121"),
     ("Alg. 26", "Alg. 26"), ("algorithm 26", "Alg. 26"), ("26", "Alg. 26"), ("6.5.3", "Section 6.5.3"),
     ("section 6.5.3", "Section 6.5.3"), (" 6.2 ", "6.2")],
)  # fmt: skip
def test_spellings_of_a_query(package, query, number):
    assert [entry.number for entry in find(query)] == [number]


def test_a_range_asks_for_each_number(package):
    assert [entry.number for entry in find("6.46 to 6.49")] == ["6.46", "6.47"]


def test_words_are_found_in_names_and_docstrings(package):
    assert [(e.number, e.name, e.line) for e in find("xyz")] == [("", "guidestar.risks.thing.Thing", 11)]
    assert [e.name for e in find("Thi")] == ["guidestar.risks.thing.Thing"]
    assert find("XY") == []


def test_nothing_is_found_for_a_number_that_is_not_there(package):
    assert find("6.98") == find("6.99") == find("3.14") == find("2.3") == find("5.1") == find("7") == []


def test_blank_query_is_an_error():
    with pytest.raises(UserError, match="`query` must be an equation"):
        find("  ")


def test_the_test_file_is_the_mirror_or_the_one_that_makes_most_objects(package):
    root = package.parents[1]
    assert find("6.10")[0].test is None
    (root / "pyproject.toml").touch()
    (root / "tests" / "risks").mkdir(parents=True)
    (root / "tests" / "test_a.py").write_text("Thing Thing Thing Thing() helper()")
    (root / "tests" / "test_b.py").write_text("Thing() Thing(1) Things()")
    assert find("6.121")[0].test == "tests/test_b.py"
    assert find("6.2")[0].test is None
    (root / "tests" / "risks" / "test_thing.py").write_text("Thing")
    assert find("6.121")[0].test == "tests/risks/test_thing.py"


def test_index_is_sorted_by_number_and_joins_the_places(package):
    (package / "a.py").write_text("def late():\n    return 0  # Eq. 6.10\n\n\ndef _early():\n    return 0  # Eq. 6.1\n")
    rows = [line for line in write_index().splitlines() if line.startswith("| ") and "Number" not in line]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "6.1", "6.2", "6.10", "6.45", "6.46", "6.47", "6.50", "6.121", "6.122",
        "Alg. 9", "Alg. 10", "Alg. 12", "Alg. 25", "Alg. 26", "Alg. 35", "Section 6.5.3",
    ]  # fmt: skip
    assert rows[0] == "| 6.1 | [`a`][guidestar.a], [`thing`][guidestar.risks.thing] | `a.py`, `risks/thing.py` |"
    assert (
        rows[2]
        == "| 6.10 | [`late`][guidestar.a.late], [`Thing`][guidestar.risks.thing.Thing] | `a.py`, `risks/thing.py` |"
    )


def test_an_entry_prints_what_it_knows():
    assert str(Entry("6.1", "a.py", 3, "guidestar.a.B", "tests/test_a.py")) == (
        "6.1  guidestar/a.py:3  guidestar.a.B  tested in tests/test_a.py"
    )
    assert str(Entry("", "a.py", 3, "guidestar.a.B")) == "guidestar/a.py:3  guidestar.a.B"


def test_main_writes_the_index(tmp_path):
    equations.main(["--write", str(tmp_path / "equations.md")])
    assert (tmp_path / "equations.md").read_text() == write_index()


@pytest.mark.parametrize(
    ("query", "name"),
    [("6.14", "guidestar.risks.kl.KL"), ("6.113", "guidestar.risks.excess.excess"), ("6.117", "guidestar.risks.cvar.CVaR"),
     ("6.120", "guidestar.risks.kl_ball.KLBall"), ("Alg. 24", "guidestar.risks.kl.KL"), ("SOX", "guidestar.tracking.Tracker"),
     ("ABSGD", "guidestar.risks.kl.KL")],
)  # fmt: skip
def test_the_real_package(query, name):
    assert name in [entry.name for entry in find(query)]


def test_the_page_is_up_to_date():
    page = ROOT / "docs" / "equations.md"
    assert page.read_text(encoding="utf-8") == write_index(), "run `python scripts/write_docs.py`"
