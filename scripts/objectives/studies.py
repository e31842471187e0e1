"""All studies by name."""

from __future__ import annotations

from . import adult, films, iwildcam, lists, longtail, movielens, omniglot, sources, spectral
from .study import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        lists.STUDY,
        movielens.STUDY,
        adult.STUDY,
        films.STUDY,
        omniglot.STUDY,
        *spectral.STUDIES,
        longtail.STUDY,
        iwildcam.STUDY,
        sources.STUDY,
    )
}

#: Names of the spectral studies, which share a file and a figure.
SPECTRAL = frozenset(study.name for study in spectral.STUDIES)
