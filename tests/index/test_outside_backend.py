"""A backend from outside the package: brute force in NumPy, registered without touching the package."""

from importlib import metadata

import numpy as np
import pytest

from tests.index.contract import SearcherContract
from twotower_tf.config import IndexConfig, index_kinds
from twotower_tf.errors import ConfigError
from twotower_tf.index import backends, index_files
from twotower_tf.index.backends import get_backend, register_backend
from twotower_tf.index.index_files import Memory
from twotower_tf.index.searcher import Answers, Neighbours, check_queries


class BruteForceSearcher:
    """Sorts every item for every query; no more than the contract asks for."""

    kind = "brute"
    exact = True
    vectors_file = "brute.npy"
    library = ""
    share_threads = False
    vector_copies = 1
    stated_k = 1

    def __init__(self, items):
        self.items = items

    @classmethod
    def available(cls, size):
        return True

    @classmethod
    def build(cls, items, index, queries, threads=0):
        return cls(items)

    @classmethod
    def read(cls, directory, document, threads=0):
        return cls(index_files.restore(directory, np.load(directory / cls.vectors_file)))

    @classmethod
    def update(cls, old, items, origin, index, queries, threads=0):
        return cls(items)

    @classmethod
    def memory(cls, size, dim, threads):
        return Memory(build=4 * size * dim, answer=4 * size * dim)

    def _scores(self, queries):
        products = queries.astype(np.float64) @ self.items.vectors.T.astype(np.float64)
        return products.astype(np.float32)

    def search(self, queries, k):
        table = check_queries(queries, k, self.items.dim)
        scores = self._scores(table)
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        return Neighbours(rows, np.take_along_axis(scores, rows, axis=1), self.items)

    def fetches(self, passing):
        return ()

    def scan(self, queries, k, excluded, allowed=None):
        scores = self._scores(check_queries(queries, k, self.items.dim))
        scores[excluded.queries, excluded.rows] = -np.inf
        if allowed is not None:
            scores[:, ~allowed.mask] = -np.inf
        rows = np.argsort(-scores, axis=1, kind="stable").astype(np.int32)
        found = np.take_along_axis(scores, rows, axis=1)
        return Answers.first(k, found > -np.inf, rows, found, self.items)

    def description(self):
        return {**index_files.describe(self.kind, self.items), "parameters": {}, "recall": {"measured": 1.0}}

    def save(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / self.vectors_file, self.items.vectors)
        index_files.finish(directory, self.items, self.description())


@pytest.fixture(autouse=True, scope="module")
def brute():
    """The backend, for the tests of this module only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "_BACKENDS", dict(backends._BACKENDS))
        patch.setattr(index_kinds, "_EXACT", dict(index_kinds._EXACT))
        yield register_backend(BruteForceSearcher)


class TestBruteForceSearcher(SearcherContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def configured(cls, brute):
        cls.config = IndexConfig(kind="brute")


def test_a_kind_that_nothing_registers_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError) as raised:
        IndexConfig(kind="brut")
    assert "index.kind" in str(raised.value) or "IndexConfig.kind" in str(raised.value)
    assert "invalid kind 'brut' (expected auto, exact, scann, brute)" in str(raised.value)
    with pytest.raises(ConfigError, match="invalid kind 'auto'"):
        get_backend("auto")


def test_an_entry_point_registers_its_backend_when_it_is_first_asked_for(monkeypatch):
    """Another process, which has not imported the module, finds the backend by the entry point."""
    monkeypatch.setattr(backends, "_BACKENDS", {})
    monkeypatch.setattr(index_kinds, "_EXACT", {})
    point = metadata.EntryPoint(
        "brute", f"{__name__}:load_as_entry_point", "twotower_tf.index_backends"
    )  # loading it runs __getattr__ below, as an import would run a decorator
    monkeypatch.setattr(
        index_kinds.metadata,
        "entry_points",
        lambda group, name: [point] if (group, name) == ("twotower_tf.index_backends", "brute") else [],
    )
    assert get_backend("brute") is BruteForceSearcher


def __getattr__(name):
    if name == "load_as_entry_point":
        return register_backend(BruteForceSearcher)
    raise AttributeError(name)
