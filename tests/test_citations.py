"""`cite`: every public name has papers, every paper is used, and unknown names are explained."""

from pathlib import Path

import pytest
import yaml

import guidestar
from guidestar import losses, networks, optim, risks, schedules
from guidestar.citations import SELF, SOURCES, cite, references
from guidestar.errors import UserError
from guidestar.training import pair_recipe, recipe

ROOT = Path(__file__).resolve().parents[1]
STRATEGIES = {*recipe.STRATEGIES, *pair_recipe.PAIR_STRATEGIES}
WITHOUT_PAPERS = {"as_is", "erm", "finetune"}
FIELDS = {"title", "author", "year"}


@pytest.mark.parametrize(
    "name",
    [*risks.__all__, *losses.__all__, *networks.__all__, *optim.__all__, "Tracker", "Dual", "DRRho", "GroupMean"],
)
def test_every_public_class_has_a_paper(name):
    assert SOURCES.get(name), f"add {name} to guidestar.citations.SOURCES"


def test_every_strategy_has_a_paper():
    assert set(SOURCES) & STRATEGIES == STRATEGIES - WITHOUT_PAPERS


def test_every_name_exists():
    places = (guidestar, risks, losses, networks, optim, schedules)
    assert [n for n in SOURCES if n not in STRATEGIES and not any(hasattr(place, n) for place in places)] == []


def test_every_key_exists_and_every_entry_is_used():
    assert {key for keys in SOURCES.values() for key in keys} == set(references()) - {SELF}


@pytest.mark.parametrize("key", list(references()))
def test_entries_are_complete(key):
    entry = references()[key]
    fields = {line.partition("=")[0].strip() for line in entry.splitlines() if "=" in line}
    assert fields >= FIELDS
    assert entry.count("{") == entry.count("}")


def test_entries_are_not_repeated_and_keep_the_order_of_the_names():
    text = cite(["DistillationLoss", "guidestar.DRRho", "steer+distill"])
    keys = [line.partition("{")[2].rstrip(",") for line in text.splitlines() if line.startswith("@")]
    assert keys == [SELF, "hinton2015distilling", "wei2025model"]


def test_without_names_guidestar_alone_is_cited():
    assert cite() == references()[SELF] + "\n"


def test_unknown_name_is_an_error_that_suggests_one():
    with pytest.raises(
        UserError,
        match=r"`KLBal` has no citation. Did you mean KLBall\? Known names: .*CVaR, ChiSquare.*steer_init",
    ):
        cite(["KLBal"])
    with pytest.raises(UserError, match=r"`zzz` has no citation. Known names"):
        cite(["zzz"])


def test_citation_file_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == guidestar.__version__
    assert f"title  = {{{citation['title']}}}" in references()[SELF]
