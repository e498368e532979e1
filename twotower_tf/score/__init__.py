"""Answers from a bundle: the exported user tower and the index beside it. Knows SavedModels, not models."""
