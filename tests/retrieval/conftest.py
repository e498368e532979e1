"""What tests of answers share."""

import pytest


@pytest.fixture(scope="module")
def recommender(export_dir):
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.retrieval.recommender import Recommender

    return Recommender(Bundle.open(export_dir))
