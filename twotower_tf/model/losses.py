"""From two towers' vectors to logits and a loss."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.model.softmax import in_batch_softmax

# 2·atanh(cosine) is infinite at ±1 and its slope 2/(1 - cosine²) with it; at 0.999 they are 7.6 and 1000.
COSINE_BOUND = 0.999


class CosineLogit(keras.layers.Layer):
    """The bounded logit 2·atanh(cosine) = ln((1 + c) / (1 - c)) of each user with each of its candidates.

    It is the inverse of p = (c + 1) / 2 under the sigmoid: sigmoid(logit) = (c + 1) / 2 while |c| <= 0.999.
    """

    def call(self, user_vectors: tf.Tensor, item_vectors: tf.Tensor) -> tf.Tensor:
        """Pairs candidates with users.

        Args:
            user_vectors: `[batch, dim]` float32, unit length.
            item_vectors: `[batch * (1 + negatives), dim]` float32, unit length: each user's own item, then the
                users' negatives, those of one user together.

        Returns:
            float32 `[batch, 1 + negatives, 1]`, the own item first.
        """
        batch, dim = tf.shape(user_vectors)[0], user_vectors.shape[1]
        negatives = tf.math.floordiv(tf.shape(item_vectors)[0], tf.maximum(batch, 1)) - 1
        own = tf.reduce_sum(item_vectors[:batch] * user_vectors, axis=1)[:, tf.newaxis, tf.newaxis]
        drawn = tf.reshape(item_vectors[batch:], [batch, negatives, dim])
        cosine = tf.concat([own, tf.linalg.matmul(drawn, user_vectors[:, :, tf.newaxis])], axis=1)
        return 2.0 * tf.math.atanh(tf.clip_by_value(cosine, -COSINE_BOUND, COSINE_BOUND))


def final_sigmoid() -> keras.layers.Layer:
    """The one sigmoid unit over the cosine logit.

    Its weight starts at one and stays positive: with a negative weight, nearer vectors would mean less likely clicks,
    and every ranking by dot product would be upside down.
    """
    return keras.layers.Dense(
        1, "sigmoid", kernel_initializer="ones", kernel_constraint=keras.constraints.NonNeg(), name="final_sigmoid"
    )


class InBatchSoftmaxLoss(keras.layers.Layer):
    """Softmax cross-entropy of each user's own item among the batch's items, added to the model's loss.

    z(u, i) = cosine(u, i) / temperature - log q(i), where q(i) is the probability that item i is in the batch
    as a row's item: the sampled-softmax correction of Bengio and Senécal (2008), for batches Yi et al., "Sampling-
    Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (RecSys 2019), equation 3. What is a training
    positive of the row's user is no negative: it is left out of the softmax (an accidental hit).
    """

    def __init__(self, temperature: float, learn_temperature: bool, correct: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.correct = correct

    def build(self, input_shape: Any) -> None:
        """Creates the temperature's logarithm, which keeps it positive."""
        self.log_temperature = self.add_weight(
            name="log_temperature",
            shape=(),
            initializer=keras.initializers.Constant(math.log(self.temperature)),
            trainable=self.learn_temperature,
        )
        super().build(input_shape)

    def call(
        self, user_vectors: tf.Tensor, item_vectors: tf.Tensor, log_q: Any, hits: Any, sample_weight: Any
    ) -> tf.Tensor:
        """Adds the weighted mean loss of the batch's rows.

        Args:
            user_vectors: `[batch, dim]` float32, unit length.
            item_vectors: `[batch, dim]` float32, unit length; row b is the positive of user b.
            log_q: `[batch, 1]` float32, natural log of the items' sampling probabilities.
            hits: `[hits, 2]` int32, (row, column) of what is no negative, the rows' own places too; sorted.
            sample_weight: `[batch, 1]` float32.

        Returns:
            int32 `[batch, 1]`: how many of the batch's other items score higher than the row's own.
        """
        users = user_vectors * tf.exp(-self.log_temperature)
        items = item_vectors
        if self.correct:
            # As one more dimension of the product: nothing of the logits' size is made twice.
            users = tf.concat([users, tf.ones_like(log_q)], axis=1)
            items = tf.concat([items, -log_q], axis=1)
        weights = sample_weight[:, 0]
        loss, ranks = in_batch_softmax(users, items, hits, tf.math.divide_no_nan(weights, tf.reduce_sum(weights)))
        self.add_loss(loss)
        return ranks[:, tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {name: getattr(self, name) for name in ("temperature", "learn_temperature", "correct")}
        return {**super().get_config(), **own}


def in_batch_top_k(k: int) -> keras.metrics.Metric:
    """The share of rows whose own item is among the k best of the batch, from the ranks."""

    def hit(_: tf.Tensor, ranks: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.reshape(ranks, [-1]) < k, tf.float32)

    return keras.metrics.MeanMetricWrapper(hit, name=f"in_batch_top_{k}")
