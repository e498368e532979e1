"""Models whose tables hold something: a new table is zero, and a tower over zeros says nothing."""

import numpy as np

from twotower_tf.model.embeddings import EmbeddingTable


def fill_tables(model, seed=0):
    """Gives every row of the model's tables random content; returns the model."""
    for layer in model.layers:
        if isinstance(layer, EmbeddingTable):
            layer.draw_rows(np.ones(layer.rows, bool), seed)
    return model


def filled_table(rows, dim, **more):
    """A table of its own with random content."""
    table = EmbeddingTable(rows, dim, **more)
    table.build(None)
    table.table.assign(np.random.default_rng(rows).normal(size=(rows, dim)))
    return table
