"""Negatives and their sampling probabilities."""
