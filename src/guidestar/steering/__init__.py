"""Steering: losses relative to a reference model, and the strategies that use one."""

from guidestar.steering.rho import DRRho

__all__ = ["DRRho"]
