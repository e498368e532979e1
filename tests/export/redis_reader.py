"""What a client of the vectors in Redis reads, and tables of user vectors to publish."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def as_version(bundle, version):
    """The same vectors under another number."""
    return dataclasses.replace(bundle, version=version)


def read_as_a_client(client, prefix, item):
    """By the documented keys and bytes only."""
    version = client.get(f"{prefix}:current").decode()
    return version, np.frombuffer(client.hget(f"{prefix}:{version}:items", item), "<f4")


def users_file(path, version=7, ids=("u1", "u2", "ü3"), width=8):
    vectors = np.random.default_rng(0).normal(size=(len(ids), width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = pa.table({"user_id": list(ids), "vector": vectors.tolist(), "model_version": [version] * len(ids)})
    pq.write_table(table.cast(table.schema.set(1, pa.field("vector", pa.list_(pa.float32())))), path)
    return vectors
