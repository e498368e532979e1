"""Where a training step's time goes: milliseconds of its operations by part, from TensorFlow's own trace."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# The first that is found in an operation's name and type says whose it is.
PARTS = {
    "matrix products": ("MatMul",),
    "optimizer": ("/optimizer/",),
    "tables": ("_embedding_",),
    "loss": ("/loss/",),
    "towers, but for products": ("user_", "item_", "ad_vector", "two_tower"),
}
OTHER = "metrics, clock, control"


def milliseconds(fit: Callable[[int], None], steps: int) -> dict[str, float]:
    """Trains `steps` steps under the profiler; operations that TensorFlow takes for cheap are not in its trace.

    Operations that run at the same time each count in full; with one thread the sum is the step's time.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as directory:
        tf.profiler.experimental.start(directory)
        fit(steps)
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        (trace,) = Path(directory).rglob("*.xplane.pb")
        space.ParseFromString(trace.read_bytes())
    spent: Counter[str] = Counter()
    for plane in space.planes:
        names = {number: data.name for number, data in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                if "while/" in names[event.metadata_id]:  # the steps' loop; all else is Python and the input
                    spent[part(names[event.metadata_id])] += event.duration_ps / 1e9
    return {name: round(spent[name] / steps, 3) for name in (*PARTS, OTHER)}


def part(name: str) -> str:
    """The part that an operation, "scope/name:Type", belongs to."""
    return next((part for part, marks in PARTS.items() if any(mark in name for mark in marks)), OTHER)
