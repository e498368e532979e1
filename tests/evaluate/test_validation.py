"""What the training is told where there is nothing to validate with."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from twotower_tf.errors import DataError
from twotower_tf.evaluate import protocol, validation

pytestmark = pytest.mark.tensorflow


def test_no_validation_positive_is_told_where_an_epoch_is_to_be_chosen(trained, monkeypatch):
    _, config = trained
    monkeypatch.setattr(protocol, "queries", lambda *_: np.empty(0))
    chosen = dataclasses.replace(config, train=dataclasses.replace(config.train, monitor="recall@20"))
    with pytest.raises(DataError) as error:
        validation.validator(chosen, SimpleNamespace(), SimpleNamespace())
    assert str(error.value) == (
        "the validation part has no positive that could be asked for, so that train.monitor='recall@20' can choose no "
        "epoch; give data.split a larger validation part, or keep the last epoch with --set train.monitor="
    )
    last = dataclasses.replace(config, train=dataclasses.replace(config.train, monitor=""))
    assert validation.validator(last, SimpleNamespace(), SimpleNamespace()) is None
