"""Ranking of lists, groups, extreme classification, spectral risks and label losses on real data.

Run from the root of the repository with `python -m scripts.objectives --help`.
"""
