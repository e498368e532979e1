"""Names that a bundle's SavedModels have for the outside. Imports no TensorFlow."""

from __future__ import annotations

SERVING_DEFAULT, FROM_EXAMPLES, RECOMMEND = "serving_default", "from_examples", "recommend"
MODEL_VERSION = "model_version"
ITEM_IDS, SCORES = "item_ids", "scores"

VERSION_NODE = "bundle_version"  # the constant of a graph that holds the version, so that it can be changed
EMBEDDED_IDS, EMBEDDED_VECTORS = "item_ids", "item_vectors"  # variables that `recommend` answers from
TOLERANCE = 1e-5  # between two computations of one vector; float32 sums in another order differ by 1e-7
