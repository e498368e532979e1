"""The retrieval service: REST and gRPC as TensorFlow Serving speaks them, over the versions of an export directory."""
