"""Evaluates a run: exact ranking of the whole catalogue, protocols, baselines, slices."""
