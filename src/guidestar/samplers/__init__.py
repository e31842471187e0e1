"""Data sets and samplers that know each sample's row number."""

from guidestar.samplers.indexed import Indexed

__all__ = ["Indexed"]
