"""Networks that belong to an objective."""

from guidestar.networks.temp_net import TempNet

__all__ = ["TempNet"]
