"""The public names, and that the objectives alone bring nothing heavy with them."""

import subprocess
import sys

import pytest

import guidestar as gs


def test_every_public_name_is_there():
    for name in gs.__all__:
        assert getattr(gs, name) is not None


def test_the_store_is_reached_from_the_package():
    assert gs.reference.Store.open is not None
    assert gs.samplers.Indexed([5])[0] == (5, 0)


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        gs.nope  # noqa: B018


def test_importing_the_objectives_needs_only_torch():
    heavy = "('accelerate', 'pydantic', 'rich', 'matplotlib', 'PIL')"
    code = f"import sys, guidestar; print([n for n in {heavy} if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
