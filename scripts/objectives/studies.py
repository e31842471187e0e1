"""All studies by name."""

from __future__ import annotations

from . import lists
from .study import Study

STUDIES: dict[str, Study] = {study.name: study for study in (lists.STUDY,)}
