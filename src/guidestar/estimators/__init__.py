"""Estimators for tables with scikit-learn's interface."""
