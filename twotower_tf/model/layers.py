"""Layers of both towers: unit length, products of bfloat16 in training, repeatable dropout; initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from twotower_tf.features import time_gaps
from twotower_tf.model import replicas

_SMALLEST_NORM = 1e-6
_NUMBER_SCALE = 0.1  # of the initial weights of numbers, so that ±3 deviations start within the size of embeddings


class UnitLength(keras.layers.Layer):
    """Divides each row by its length; a row of (almost) no length becomes the diagonal, so that every one is unit."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps `[batch, dim]` to unit rows `[batch, dim]`."""
        x = tf.cast(x, tf.float32)
        square = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
        too_short = square <= _SMALLEST_NORM**2  # false for NaN, which must not pass for a direction
        # Both branches of a `where` are differentiated: the unused one must be finite as well.
        unit = x * tf.math.rsqrt(tf.where(too_short, 1.0, square))
        return tf.where(too_short, tf.math.rsqrt(tf.cast(tf.shape(x)[-1], tf.float32)), unit)


class AddEmbeddings(keras.layers.Layer):
    """Adds embeddings of one dimension that stand next to each other."""

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps `[batch, n * dim]` to `[batch, dim]`."""
        return tf.reduce_sum(tf.reshape(x, [-1, x.shape[-1] // self.dim, self.dim]), axis=1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "dim": self.dim}


class Dense(keras.layers.Dense):
    """Keras's dense layer, with a product of bfloat16 in training where `mixed`.

    Kernel, bias, sum and output are float32, and so is all of it outside training: what is evaluated and exported does
    not depend on how it was trained.
    """

    def __init__(self, units: int, *args: Any, mixed: bool = False, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        self.mixed = mixed

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Maps `[batch, n]` to `[batch, units]`."""
        if not (self.mixed and training):
            return super().call(inputs)
        narrow = tf.matmul(tf.cast(inputs, tf.bfloat16), tf.cast(self.kernel, tf.bfloat16))
        outputs = tf.cast(narrow, tf.float32)
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "mixed": self.mixed}


class ProjectionKernel(keras.initializers.Initializer):
    """The identity, where what is projected has the width of the result already.

    Where both towers read one table and have no hidden layers, their vectors are in one space from the start: a user
    begins near the items of its history. From random weights, the towers first have to find such a space.
    """

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        """Returns weights `[width, width]`."""
        return tf.eye(*shape, dtype=dtype or tf.float32)


class InputKernel(keras.initializers.Initializer):
    """Glorot uniform weights (Glorot and Bengio, 2010), a tenth of that for inputs that are numbers.

    A standardized number is several times larger than a coordinate of an embedding, and one that grows with time is
    largest at the log's end, where items are ranked. With weights of full size it outweighs the embeddings there.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        """Takes the positions of the numbers among the inputs."""
        self.numbers = list(numbers)
        self._glorot = keras.initializers.GlorotUniform()

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        """Draws weights `[inputs, units]`."""
        scale = np.ones((shape[0], 1), np.float32)
        scale[self.numbers] = _NUMBER_SCALE
        return self._glorot(shape, dtype, **kwargs) * scale

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"numbers": self.numbers}


class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al., 2014) whose chance is a function of a seed and of its own count of steps.

    The count is a weight, so that a resumed training drops what it would have dropped.
    """

    def __init__(self, rate: float, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Creates the count."""
        self.steps = self.add_weight(name="steps", shape=(), dtype=tf.int64, initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Maps `[batch, dim]` to the same, where in training a share `rate` is zero and the rest larger for it."""
        if not training:
            return x
        dropped = tf.nn.experimental.stateless_dropout(x, self.rate, seed=self._step_seed())
        self.steps.assign_add(1)
        return dropped

    def _step_seed(self) -> tf.Tensor:
        """Returns the seed of a step, int64 `[2]`, another one on each worker."""
        return tf.stack([self.steps, self.seed + tf.cast(replicas.get_index(), tf.int64) * 2**32])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


class ValueDropout(Dropout):
    """Leaves encoded values out in training: ids become -1 and numbers 0, as missing ones are. Nothing is rescaled."""

    def __init__(self, rate: Sequence[float], seed: int, **kwargs: Any) -> None:
        """Takes the chances of each column, or one for all columns."""
        super().__init__(list(rate), seed, **kwargs)  # type: ignore[arg-type]

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Maps ids int32 or numbers float32 `[batch, columns]` to the same."""
        if not training:
            return x
        chances = tf.random.stateless_uniform(tf.shape(x), seed=self._step_seed())
        self.steps.assign_add(1)
        return tf.where(chances < tf.constant(self.rate), tf.constant(-1 if x.dtype.is_integer else 0, x.dtype), x)


class TimeGapEmbedding(keras.layers.Layer):
    """Learned embeddings of the buckets of time gaps, which are added to those of a history's items; zero at first."""

    def __init__(self, dim: int, mean: bool = False, **kwargs: Any) -> None:
        """Configures embeddings of `dim` numbers; `mean` averages those of a history."""
        super().__init__(**kwargs)
        self.dim, self.mean = dim, mean

    def build(self, input_shape: Any) -> None:
        """Creates the embeddings."""
        self.embeddings = self.add_weight(
            name="embeddings", shape=(time_gaps.BUCKETS, self.dim), initializer="zeros", experimental_autocast=False
        )
        super().build(input_shape)

    def call(self, gaps: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Maps buckets and presence, `[batch, length]` each, to `[batch, length, dim]`, or the mean `[batch, dim]`.

        A place without a value, or without a gap (-1), has zero.
        """
        known = tf.cast(present & (gaps >= 0), tf.float32)[..., tf.newaxis]
        # Unlike gather's, the gradient of gather_nd is dense.
        added = tf.gather_nd(self.embeddings, tf.maximum(gaps, 0)[..., tf.newaxis]) * known
        if not self.mean:
            return added
        counts = tf.reduce_sum(tf.cast(present, tf.float32), axis=1, keepdims=True)
        return tf.math.divide_no_nan(tf.reduce_sum(added, axis=1), counts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "dim": self.dim, "mean": self.mean}
