"""Exports a trained run: SavedModels with their signatures, refresh, Redis."""
