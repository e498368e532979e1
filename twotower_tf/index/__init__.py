"""Nearest-neighbour search: the `Searcher` contract and its backends."""
