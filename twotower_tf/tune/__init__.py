"""Hyper-parameter search on validation data, with Optuna."""
