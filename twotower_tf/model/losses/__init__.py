"""What a model learns from its vectors: one layer per loss of the configuration."""
