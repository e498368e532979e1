"""A validation split without queries is an error only if it has to choose the best epoch."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from twotower_tf.errors import DataError
from twotower_tf.evaluate import protocol, validation

pytestmark = pytest.mark.tensorflow


def test_no_validation_positive_is_told_where_an_epoch_is_to_be_chosen(trained, monkeypatch):
    _, config = trained
    monkeypatch.setattr(protocol, "build_queries", lambda *_: np.empty(0))
    chosen = dataclasses.replace(config, train=dataclasses.replace(config.train, monitor="recall@20"))
    with pytest.raises(DataError) as error:
        validation.make_validator(chosen, SimpleNamespace(), SimpleNamespace())
    assert str(error.value) == (
        "train.monitor: invalid value 'recall@20' for a validation split without an unseen positive; enlarge the "
        "validation split in data.split, or keep the last epoch with --set train.monitor="
    )
    last = dataclasses.replace(config, train=dataclasses.replace(config.train, monitor=""))
    assert validation.make_validator(last, SimpleNamespace(), SimpleNamespace()) is None
