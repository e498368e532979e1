"""Batches of requests: encoded and computed together; one with invalid rows fails alone."""

from types import SimpleNamespace

import numpy as np

from twotower_tf.errors import DataError
from twotower_tf.serve import signature_tensors
from twotower_tf.serve.recommendations import Query, recommend_batch


class Version:
    """Stands in for a version: a user's vector is its number, and so is its item."""

    def __init__(self):
        self.encoded, self.computed = [], []
        self.retriever = self

    def encode_rows(self, rows):
        self.encoded.append(len(rows))
        for place, row in enumerate(rows):
            if row["x"] < 0:
                raise DataError(f"row {place}: invalid")
        return {"x": np.array([row["x"] for row in rows], np.float32)}

    def compute_batch(self, signature, requests):
        self.computed.append([each["x"].tolist() for each in requests])
        return [{"user_vector": each["x"][:, None]} for each in requests]

    def allowed(self):
        return None

    def answer(self, vectors, k, excluded, allowed, *, names):
        return [{"item": float(vector[0]), "k": k, "names": names} for vector in vectors]


def query(*numbers, k=1):
    return Query([{"x": number} for number in numbers], len(numbers), k, False, None, None)


def test_requests_are_encoded_and_computed_in_one_step():
    version = Version()
    found = recommend_batch(version, [query(1, 2), query(3, k=2), query(4)])
    assert [[(each["item"], each["k"]) for each in part] for part in found] == [[(1, 1), (2, 1)], [(3, 2)], [(4, 1)]]
    assert version.encoded == [4] and len(version.computed) == 1


def test_invalid_rows_fail_alone_with_their_own_number():
    version = Version()
    first, fault, last = recommend_batch(version, [query(1, 2), query(3, -1), query(4)])
    assert [each["item"] for each in first + last] == [1, 2, 4]
    assert isinstance(fault, DataError) and str(fault) == "row 1: invalid"
    assert version.computed == [[[1, 2], [4]]]


def test_histories_of_different_lengths_are_joined_with_their_times():
    """Lists of texts and of times are filled up; inputs that padding would change are computed alone."""

    def request(items, times):
        return {
            "history": np.array([items], object),
            "times": np.array([times], np.int64),
            "now": np.array([9], np.int64),
        }

    requests = [request([b"a", b"b", b"c"], [1, 2, 3]), request([b"d"], [4])]
    rank = SimpleNamespace(tensor_shape=SimpleNamespace(dim=[None, None]))
    one = SimpleNamespace(tensor_shape=SimpleNamespace(dim=[None]))
    signature = SimpleNamespace(inputs={"history": rank, "times": rank, "now": one})
    keys = {signature_tensors.batch_key(signature, each) for each in requests}
    assert len(keys) == 1 and None not in keys
    seen = []

    def run(arrays):
        seen.append({name: array.tolist() for name, array in arrays.items()})
        return {"sum": arrays["times"].sum(axis=1)}

    assert [each["sum"].tolist() for each in signature_tensors.compute_joined(run, requests)] == [[6], [4]]
    assert seen == [{"history": [[b"a", b"b", b"c"], [b"d", b"", b""]], "times": [[1, 2, 3], [4, 0, 0]], "now": [9, 9]}]
    numbers = [{"ids": np.zeros((1, width), np.int32)} for width in (2, 3)]
    signature.inputs = {"ids": rank}
    assert len({signature_tensors.batch_key(signature, each) for each in numbers}) == 2
