"""Names the baselines as people read them: in the log, printed tables and reports."""

from __future__ import annotations

_LABELS = {"item_knn": "item-KNN", "recent_popularity": "recent popularity"}


def label_ranking(name: str) -> str:
    """Returns the label of the model or a baseline by its name in metrics.json."""
    return _LABELS.get(name, name)
