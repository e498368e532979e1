"""Nearest-item search: one contract, an exact and an approximate implementation, and the bundle that holds them."""
