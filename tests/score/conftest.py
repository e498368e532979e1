"""What tests of scoring share."""

import pytest


@pytest.fixture(scope="session")
def loaded_towers():
    """User towers by bundle, loaded once: that takes longer than the scorers that use them."""
    return {}


@pytest.fixture
def one_tower(monkeypatch, loaded_towers):
    """Scorers of this process share their bundle's tower."""
    from twotower_tf.score import scorer

    load = scorer.UserTower

    def shared(bundle):
        if bundle.path not in loaded_towers:
            loaded_towers[bundle.path] = load(bundle)
        return loaded_towers[bundle.path]

    monkeypatch.setattr(scorer, "UserTower", shared)
