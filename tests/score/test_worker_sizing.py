"""How many workers a scoring has."""

from pathlib import Path

import pytest

from twotower_tf.index import topk
from twotower_tf.score import worker_sizing
from twotower_tf.score.score_options import Options


@pytest.mark.parametrize(
    ("kind", "cores", "asked", "size"),
    [
        ("exact", 16, {}, (16, 1)),
        ("scann", 2, {}, (1, 2)),
        ("scann", 16, {}, (2, 8)),
        ("scann", 12, {}, (2, 6)),
        ("scann", 16, {"workers": 4}, (4, 4)),
        ("scann", 16, {"vectors_only": True}, (16, 1)),
        ("exact", 16, {"memory_limit": "2GB"}, (2, 8)),  # 700 MiB and 128 MB of vectors each
        ("exact", 16, {"memory_limit": "10MB"}, (1, 16)),
    ],
)
def test_workers_and_threads(monkeypatch, kind, cores, asked, size):
    monkeypatch.setattr(topk, "available_threads", lambda threads=0: threads or cores)
    options = Options(**{"export_dir": Path("e"), "output": Path("o"), "users": "u", "memory_limit": "64GB", **asked})
    found = worker_sizing.choose_workers(options, {"items": 1_000_000, "vector_dim": 32, "index": {"kind": kind}})
    assert (found.workers, found.threads) == size
