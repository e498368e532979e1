"""Training metrics: click metrics, and in-batch top-k accuracy.

They count in float64, as an epoch may have more than 2^24 rows, which float32 cannot count one by one.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

_BUCKETS = 200  # of probabilities; 0.5 is a boundary


class ClickMetrics(keras.metrics.Metric):
    """Weighted AUC, accuracy, precision and recall of click probabilities, from one histogram.

    The definitions are those of Keras's four metrics, which would read every probability four times: the area under the
    ROC curve by the trapezoidal rule with 201 thresholds, the others at a threshold of 0.5.
    """

    def __init__(self, name: str = "clicks") -> None:
        super().__init__(name=name)
        self.counts = self.add_weight(name="counts", shape=(_BUCKETS, 2), initializer="zeros", dtype=tf.float64)

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Counts `[batch, candidates, 1]` labels (0 or 1) and probabilities, `[batch, candidates]` weights."""
        label, probability = tf.reshape(y_true, [-1]), tf.reshape(y_pred, [-1])
        weight = tf.ones_like(label) if sample_weight is None else tf.reshape(sample_weight, [-1])
        # Bucket i holds probabilities in (i / 200, (i + 1) / 200].
        bucket = tf.cast(tf.maximum(tf.math.ceil(probability * _BUCKETS) - 1.0, 0.0), tf.int32)
        clicked = weight * label
        both = tf.cast(tf.stack([clicked, weight - clicked], axis=1), tf.float64)
        self.counts.assign_add(tf.math.unsorted_segment_sum(both, bucket, _BUCKETS))

    def reset_state(self) -> None:
        """Resets all counts to zero."""
        self.counts.assign(tf.zeros_like(self.counts))

    def result(self) -> dict[str, tf.Tensor]:
        """Returns `auc`, `binary_accuracy`, `precision` and `recall`; 0 if undefined."""
        above = tf.cumsum(self.counts, reverse=True)  # above the lower bound of each bucket
        clicked, other = above[0, 0], above[0, 1]
        true_positives, false_positives = above[_BUCKETS // 2, 0], above[_BUCKETS // 2, 1]
        heights = above[:, 0] - self.counts[:, 0] / 2.0
        right = true_positives + other - false_positives
        share = tf.math.divide_no_nan
        return {
            "auc": share(tf.reduce_sum(self.counts[:, 1] * heights), clicked * other),
            "binary_accuracy": share(right, clicked + other),
            "precision": share(true_positives, true_positives + false_positives),
            "recall": share(true_positives, clicked),
        }


class InBatchTopK(keras.metrics.Mean):
    """The share of ranked rows whose own item is among the top k of its candidates."""

    def __init__(self, k: int) -> None:
        super().__init__(name=f"in_batch_top_{k}", dtype=tf.float64)
        self.k = k

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds ranks float32 `[batch, 1]`, negative for rows that were not ranked, with weights `[batch, 1]`."""
        ranked = tf.cast(y_pred >= 0, tf.float32)
        super().update_state(y_pred < self.k, ranked if sample_weight is None else ranked * sample_weight)
