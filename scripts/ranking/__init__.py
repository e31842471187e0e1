"""Objectives of ranking on real data: tasks, one training harness, peers, tables and figures.

Run from the root of the repository with `python -m scripts.ranking --help`.
"""
