"""Towers as a client has them."""

import gc
import weakref

from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.loaded_tower import Tower


def test_a_closed_tower_has_freed_its_weights(export_dir):
    """A tower may be as large as all memory but what the training's model takes: an export has both."""
    tower = Tower.of_bundle(Bundle.read(export_dir / "7"), "item")
    weights = [weakref.ref(each) for each in tower._model.weights.values()]
    gc.disable()  # nothing else frees them
    try:
        tower.close()
    finally:
        gc.enable()
    assert weights and not any(each() is not None for each in weights)
