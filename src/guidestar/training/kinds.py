"""Which stepper trains which kind of recipe."""

from __future__ import annotations

from guidestar.training.classification import ClassificationStepper
from guidestar.training.job import Job
from guidestar.training.recipe import Recipe
from guidestar.training.steppers import Stepper


def stepper_of(job: Job) -> Stepper:
    """The stepper of a job.

    Raises:
        UserError: the recipe's sizes do not fit.
    """
    if isinstance(job.recipe, Recipe):
        return ClassificationStepper(job)
    from guidestar.training.pair_stepper import PairStepper

    return PairStepper(job)
