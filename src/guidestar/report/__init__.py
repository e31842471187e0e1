"""The report of a run: verdict, tables, figures and samples in one HTML file, and the same in short in a terminal."""

from guidestar.report.conclusion import Conclusion, conclude
from guidestar.report.page import build_report
from guidestar.report.scaling_page import build_scaling
from guidestar.report.terminal import print_verdict, results_table
from guidestar.report.verdict import Certainty, Verdict, decide

__all__ = [
    "Certainty",
    "Conclusion",
    "Verdict",
    "build_report",
    "build_scaling",
    "conclude",
    "decide",
    "print_verdict",
    "results_table",
]
