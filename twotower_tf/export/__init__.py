"""A trained run becomes a bundle: both towers, item vectors, index and manifest, published by one rename."""
