"""TensorFlow's half of own_types.py."""

import tensorflow as tf

from tests.features.own_types import Capped, Prefix
from twotower_tf.features.types import FeatureEncoder, encodes


@encodes(Prefix)
class PrefixEncoder(FeatureEncoder[Prefix]):
    def build_column(self):
        return tf.feature_column.categorical_column_with_hash_bucket(self.feature.column, self.feature.buckets)

    def encode(self, raw):
        text = raw[self.feature.column]
        return self.look_up({self.feature.column: tf.strings.substr(text, 0, self.feature.length)}, text)


@encodes(Capped)
class CappedEncoder(FeatureEncoder[Capped]):
    def encode(self, raw):
        value = raw[self.feature.column]
        capped = tf.minimum(value, self.feature.cap) / self.feature.cap
        return tf.where(tf.math.is_finite(value), capped, 0.0)[:, tf.newaxis]
