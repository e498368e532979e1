"""What a row's own item is compared with, and what all losses over it share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.model import replicas
from twotower_tf.model.losses.blockwise_logits import IMPOSSIBLE, LogitBlocks
from twotower_tf.model.training_metrics import InBatchTopK

# Inputs of the losses, in addition to the encoded features. A column is a candidate that every row of the batch is
# compared with: the batch's own items (where its positives are negatives of each other), shared draws, the queue.
POSITIVE_LOG_Q = "positive_log_q"  # float32 [batch, 1], of the own item under the columns' sampling mixture
NEGATIVE_LOG_Q = "negative_log_q"  # float32 [batch, n], of the row's own negatives; of hard ones, the own item's
NEGATIVE_WEIGHT = "negative_weight"  # float32 [batch, n], weight relative to a column's 1; 0 for an absent negative
COLUMN_LOG_Q = "column_log_q"  # float32 [columns, 1], +inf for an empty slot of the queue
HITS = "hits"  # int32 [hits, 2], (row, column) pairs that are not negatives, sorted by row; names no empty slot
SAMPLE_WEIGHT = "sample_weight"  # float32 [batch, 1]
USER_PLACES = "places_of_users"  # int32 [batch], whose of the user vectors a row is, with `train.rows="user"`
LABEL = "label"  # float32 [batch, 1], of the own item, 0 or 1, for losses whose configuration says `labelled`

USERS, ITEMS = "user_vectors", "item_vectors"

SPECS = {
    POSITIVE_LOG_Q: tf.TensorSpec([None, 1], tf.float32),
    NEGATIVE_LOG_Q: tf.TensorSpec([None, None], tf.float32),
    NEGATIVE_WEIGHT: tf.TensorSpec([None, None], tf.float32),
    COLUMN_LOG_Q: tf.TensorSpec([None, 1], tf.float32),
    HITS: tf.TensorSpec([None, 2], tf.int32),
    SAMPLE_WEIGHT: tf.TensorSpec([None, 1], tf.float32),
    LABEL: tf.TensorSpec([None, 1], tf.float32),
    USER_PLACES: tf.TensorSpec([None], tf.int32),
}


@dataclass(frozen=True)
class Candidates:
    """A batch taken apart. Vectors are of unit length, so that products are cosines.

    With `train.rows="user"` a row is a user: its weight is that of the user's events together, and its positive's
    cosine their weighted mean. Losses that are linear in it (`LossConfig.by_user`) are as with a row per event.

    Attributes:
        users: `[batch, dim]` float32.
        positive: `[batch]` float32, cosines of the own items.
        positive_log_q: `[batch]` float32.
        negatives: `[batch, n]` float32, cosines of the rows' own negatives.
        negatives_log_q: `[batch, n]` float32.
        negatives_weight: `[batch, n]` float32, weight of such a negative, 0 if it is absent.
        columns: `[columns, dim]` float32.
        columns_log_q: `[columns]` float32, +inf for an absent one.
        hits: `[hits, 2]` int32 (row, column).
        counts: `[batch]` float32, negatives that the row meets: columns, and the weights of its own ones.
        weights: `[batch]` float32, of the rows, 1 in all (or 0, where no row weighs anything); where several workers
            share a batch, 1 in all of theirs.
        labels: `[batch]` float32, of the own items; 1 unless the loss's configuration says `labelled`.
        products: see `LogitBlocks`.
    """

    users: tf.Tensor
    positive: tf.Tensor
    positive_log_q: tf.Tensor
    negatives: tf.Tensor
    negatives_log_q: tf.Tensor
    negatives_weight: tf.Tensor
    columns: tf.Tensor
    columns_log_q: tf.Tensor
    hits: tf.Tensor
    counts: tf.Tensor
    weights: tf.Tensor
    labels: tf.Tensor
    products: tf.DType

    def logits(self, scale: tf.Tensor | float, correct: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scale · cosine - log q, or without log q, of own items `[batch]` and of own negatives `[batch, n]`.

        `scale` is one for all rows or `[batch]`. An absent negative has `IMPOSSIBLE`.
        """
        own, negatives = self.positive * scale, self.negatives * _by_row(scale)
        if correct:
            own, negatives = own - self.positive_log_q, negatives - self.negatives_log_q
        return own, tf.where(self.negatives_weight > 0.0, negatives, IMPOSSIBLE)

    def log_weights(self) -> tf.Tensor:
        """Returns ln of each own negative's weight, `[batch, n]`; 0 for an absent one."""
        return tf.math.log(tf.where(self.negatives_weight > 0.0, self.negatives_weight, 1.0))

    def grid(self, scale: tf.Tensor | float, correct: bool, own: tf.Tensor, weights: tf.Tensor) -> LogitBlocks:
        """Returns rows and columns with the logits scale · cosine - log q, or without log q.

        Args:
            scale: 1 / temperature, one for all rows or `[batch]`.
            correct: subtracts log q.
            own: `[batch]` logits of the own items.
            weights: `[batch]`.
        """
        there = tf.math.is_finite(self.columns_log_q)
        bias = -self.columns_log_q if correct else tf.zeros_like(self.columns_log_q)
        return LogitBlocks(
            users=self.users * _by_row(scale),
            columns=self.columns,
            bias=tf.where(there, bias, IMPOSSIBLE),
            hits=self.hits,
            own=own,
            weights=weights,
            products=self.products,
        )


def _by_row(scale: tf.Tensor | float) -> tf.Tensor | float:
    """Returns a scale to multiply `[batch, n]` with."""
    return scale if isinstance(scale, float) or not scale.shape.rank else scale[:, tf.newaxis]


class CandidateLoss(keras.layers.Layer):
    """Adds a loss over the rows' candidates to the model's, and returns what training metrics look at.

    A subclass defines `compare`; where that returns something else than ranks, `training_metrics` as well.

    The loss is the mean of the rows' losses weighted by `sample_weight`: Σ w·L / Σ w, so that weights ten times as
    large teach the same. Hits, empty slots of the queue and negatives of weight 0 enter no sum and no count.

    Where several workers share a batch, rows are the worker's own, columns those of the whole batch, and the loss is
    the sum of all workers' parts (`model.replicas`), which holds for every loss that is linear in `Candidates.weights`.

    The queue is Wang et al., "Cross-Batch Negative Sampling for Training Two-Tower Recommenders" (SIGIR 2021): item
    vectors of the batches before, oldest first, as they were, without a gradient. What would have pushed them away from
    the users pushes the batch's own items instead, drawn alike: their gradient as columns is (batch + queue) / batch
    times as large. Without that an item is drawn to its users as before and pushed from the others by a fraction, and
    all items gather in one place (not in the paper; docs/benchmarks.md has the figures).
    """

    def __init__(
        self, in_batch: bool = False, shared: bool = True, queue: int = 0, products: str = "float32", **kwargs: Any
    ) -> None:
        """Says what the columns are.

        Args:
            in_batch: the batch's own items are the first of them.
            shared: there may be shared draws, which come next.
            queue: slots of the queue, which is the last of them.
            products: the type that rows and columns are multiplied in, "float32" or "bfloat16".
            kwargs: of the layer.
        """
        super().__init__(**kwargs)
        self.in_batch = in_batch
        self.shared = shared
        self.queue = queue
        self.products = products

    def build(self, input_shape: Any) -> None:
        """Creates the queue."""
        if self.queue:
            shape = (self.queue, input_shape[ITEMS][-1])
            self.past = self.add_weight(name="queue", shape=shape, initializer="zeros", trainable=False)
        super().build(input_shape)

    def probability_parameters(self) -> dict[str, float] | None:
        """Returns the numbers by which a cosine becomes the probability of a label 1; None where the loss has none."""
        return None

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Compares; in training, the queue then takes in the batch's own items.

        Args:
            inputs: `user_vectors` `[batch, dim]` (with `places_of_users`, `[users, dim]`) and `item_vectors`
                `[batch * (1 + n) + shared, dim]`, float32 of unit
                length: the rows' own items, then the rows' negatives, those of one row together, then the shared
                ones. Besides what `SPECS` names: `sample_weight` always, `negative_weight` where rows have their own
                negatives, `column_log_q` and `hits` where there are columns; `positive_log_q` and, with negatives,
                `negative_log_q`, or `label` for a loss whose configuration says `labelled`.
            training: whether this is a training step.

        Returns:
            float32, as `compare` says: ranks as `[batch, 1]`, anything else in its own shape.
        """
        candidates, own, columns = self._take_apart(inputs)
        loss, outputs = self.compare(candidates)
        self.add_loss(replicas.share_loss(loss))
        if HITS in inputs:
            self.add_metric(self._masked_share(candidates, tf.shape(own)[0]), name="masked_share")
        if self.queue and training:
            self.past.assign(tf.concat([self.past, tf.stop_gradient(columns)], axis=0)[-self.queue :])
        # As float32: Keras casts the weights of its metrics to the type of what they look at.
        outputs = tf.cast(outputs, tf.float32)
        return outputs[:, tf.newaxis] if outputs.shape.rank == 1 else outputs

    def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the loss and what `training_metrics` look at.

        Returns:
            The loss float32 `[]`, and int32 `[batch]` ranks: how many of the row's candidates have a higher logit than
            its own item; -1 for rows after the first `blockwise_logits.RANKED`, which are not ranked. A loss that is
            `labelled` returns probabilities float32 `[batch, 1 + n, 1]` instead, the own item's first.
        """
        raise NotImplementedError

    @staticmethod
    def training_metrics() -> list[keras.metrics.Metric]:
        """Creates the metrics of the layer's output."""
        return [InBatchTopK(1), InBatchTopK(10)]

    def _take_apart(self, inputs: dict[str, tf.Tensor]) -> tuple[Candidates, tf.Tensor, tf.Tensor]:
        """Returns the rows, and the own items' vectors, one per event: `[batch, dim]`, and those of all workers."""
        users, items, weights = inputs[USERS], inputs[ITEMS], inputs[SAMPLE_WEIGHT][:, 0]
        batch, dim = tf.shape(weights)[0], users.shape[1]
        nothing = tf.zeros([batch, 0])
        negatives_weight = inputs.get(NEGATIVE_WEIGHT, nothing)
        drawn = tf.shape(negatives_weight)[1]
        own, items = items[:batch], items[batch:]
        negatives = tf.reshape(items[: batch * drawn], [batch, drawn, dim])
        hits = inputs.get(HITS, tf.zeros([0, 2], tf.int32))
        columns_log_q = inputs.get(COLUMN_LOG_Q, tf.zeros([0, 1]))[:, 0]
        drawn_for_all = items[batch * drawn :]
        columns = [replicas.gather_rows(drawn_for_all) if self.shared and COLUMN_LOG_Q in inputs else drawn_for_all]
        everyone = replicas.gather_rows(own) if self.in_batch or self.queue else own
        if self.in_batch:
            columns.insert(0, self._standing_for_queue(everyone, columns_log_q))
        if self.queue:
            columns.append(tf.stop_gradient(tf.identity(self.past)))
        positive_log_q = inputs.get(POSITIVE_LOG_Q, tf.zeros([batch, 1]))[:, 0]
        if USER_PLACES in inputs:
            places, rows = inputs[USER_PLACES], tf.shape(users)[0]
            positive = tf.reduce_sum(tf.gather(users, places) * own, axis=1)
            total = tf.math.unsorted_segment_sum(weights, places, rows)
            share = tf.math.divide_no_nan(weights, tf.gather(total, places))
            positive, positive_log_q = (
                tf.math.unsorted_segment_sum(share * each, places, rows) for each in (positive, positive_log_q)
            )
            weights, negatives, negatives_weight = total, negatives[:rows], negatives_weight[:rows]
        else:
            rows, positive = batch, tf.reduce_sum(users * own, axis=1)
        bounds = tf.searchsorted(hits[:, 0], tf.range(rows + 1))
        there = tf.math.count_nonzero(tf.math.is_finite(columns_log_q), dtype=tf.int32)
        met = tf.cast(there - (bounds[1:] - bounds[:-1]), tf.float32) + tf.reduce_sum(negatives_weight, axis=1)
        candidates = Candidates(
            users=users,
            positive=positive,
            positive_log_q=positive_log_q,
            negatives=tf.squeeze(tf.matmul(negatives, users[:, :, tf.newaxis]), axis=2),
            negatives_log_q=inputs.get(NEGATIVE_LOG_Q, tf.zeros_like(negatives_weight)),
            negatives_weight=negatives_weight,
            columns=tf.concat(columns, axis=0),
            columns_log_q=columns_log_q,
            hits=hits,
            counts=met,
            weights=tf.math.divide_no_nan(weights, replicas.sum_over_replicas(tf.reduce_sum(weights))),
            labels=inputs.get(LABEL, tf.ones([rows, 1]))[:, 0],
            products=tf.as_dtype(self.products),
        )
        return candidates, own, everyone

    def _standing_for_queue(self, own: tf.Tensor, columns_log_q: tf.Tensor) -> tf.Tensor:
        """Returns the batch's own items as columns, which take the gradient of the queue's slots as well."""
        if not self.queue:
            return own
        batch = tf.cast(tf.shape(own)[0], tf.float32)
        held = tf.reduce_sum(tf.cast(tf.math.is_finite(columns_log_q[-self.queue :]), tf.float32))

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def standing(vectors: tf.Tensor) -> Any:
            return tf.identity(vectors), lambda upstream: upstream * ((batch + held) / batch)

        return standing(own)

    def _masked_share(self, candidates: Candidates, events: tf.Tensor) -> tf.Tensor:
        """Returns the share of (row, column) pairs that are hits, without the events' own items and empty slots."""
        batch = tf.cast(tf.shape(candidates.users)[0], tf.float32)
        there = tf.reduce_sum(tf.cast(tf.math.is_finite(candidates.columns_log_q), tf.float32))
        itself = tf.cast(events, tf.float32) if self.in_batch else 0.0
        hits = tf.cast(tf.shape(candidates.hits)[0], tf.float32)
        return tf.math.divide_no_nan(hits - itself, batch * there - itself)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("in_batch", "shared", "queue", "products")}
        return {**super().get_config(), **own}
