"""AUC, log loss and calibration, compared with loops over pairs and numbers worked out by hand."""

import math

import numpy as np
import pytest

from twotower_tf.evaluate.click_quality import compute_quality

pytestmark = pytest.mark.tensorflow


def test_against_loops():
    rng = np.random.default_rng(4)
    probabilities = rng.integers(1, 20, 300) / 20  # many ties
    labels = rng.random(300) < probabilities
    found = compute_quality(labels, probabilities)
    pairs = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one in probabilities[labels]
        for other in probabilities[~labels]
    ]
    assert found["auc"] == pytest.approx(np.mean(pairs))
    losses = [-math.log(p if label else 1 - p) for p, label in zip(probabilities, labels, strict=True)]
    assert found["log_loss"] == pytest.approx(np.mean(losses))
    assert [each["rows"] for each in found["calibration"]] == [30] * 10
    predicted = [each["predicted"] for each in found["calibration"]]
    assert predicted == sorted(predicted) and np.mean(predicted) == pytest.approx(probabilities.mean())
    assert np.mean([each["observed"] for each in found["calibration"]]) == pytest.approx(labels.mean())
    assert all(abs(each["observed"] - each["predicted"]) < 0.25 for each in found["calibration"])


def test_by_hand():
    """Positives at .8 and .4, negatives at .4 and .2: three and a half of four pairs are in order."""
    found = compute_quality(np.array([True, True, False, False]), np.array([0.8, 0.4, 0.4, 0.2]))
    assert found["auc"] == 3.5 / 4
    assert found["log_loss"] == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.6) + math.log(0.8)) / 4)
    assert found["log_loss_of_share"] == pytest.approx(math.log(2))
    assert (found["positive_share"], found["mean_probability"]) == (0.5, pytest.approx(0.45))
    assert found["calibration"][0] == {"rows": 1, "predicted": 0.2, "observed": 0.0}
    assert found["calibration"][-1] == {"rows": 1, "predicted": 0.8, "observed": 1.0}


def test_perfect_and_useless_probabilities():
    labels = np.arange(100) % 4 == 0
    assert compute_quality(labels, np.where(labels, 0.9, 0.1))["auc"] == 1.0
    same = compute_quality(labels, np.full(100, 0.25))
    assert same["auc"] == 0.5 and same["log_loss"] == pytest.approx(same["log_loss_of_share"])
