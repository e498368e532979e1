"""The JSON line that a benchmark prints per comparison: this package, its peer on the same data, and their ratio."""

from __future__ import annotations

import json
from typing import Any


def print_comparison(
    benchmark: str, measured: float, peer: float, unit: str, setting: object, *, ratio: float | None = None, **more: Any
) -> None:
    """Prints one line.

    Args:
        benchmark: the script's name, or its name and a part.
        measured: this package's figure.
        peer: the figure to compare with.
        unit: of both figures.
        setting: what both ran with.
        ratio: where it is not simply measured / peer, such as a median of ratios.
        more: further keys of the line.
    """
    line = {
        "benchmark": benchmark,
        "ours": measured,
        "peer": peer,
        "ratio": round(measured / peer if ratio is None else ratio, 3),
        "unit": unit,
        "setting": setting,
    }
    print(json.dumps(line | more), flush=True)
