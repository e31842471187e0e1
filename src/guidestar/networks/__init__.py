"""Networks that belong to an objective."""

from guidestar.networks.class_weights import ClassWeights
from guidestar.networks.compositional import CompositionalStep
from guidestar.networks.temp_net import TempNet

__all__ = ["ClassWeights", "CompositionalStep", "TempNet"]
