"""Data sets and samplers that know each sample's row number, and batch samplers that control what a batch holds."""

from guidestar.samplers.dual import DualSampler
from guidestar.samplers.group import GroupSampler
from guidestar.samplers.indexed import Indexed
from guidestar.samplers.query import QuerySampler
from guidestar.samplers.tri import TaskIndexed, TriSampler

__all__ = ["DualSampler", "GroupSampler", "Indexed", "QuerySampler", "TaskIndexed", "TriSampler"]
