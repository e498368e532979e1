"""Features: configuration to `tf.feature_column` columns, inputs, signatures and encoded arrays."""
