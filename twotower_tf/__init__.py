"""Two-tower retrieval (dual encoder) for TensorFlow: raw event log to recommendations.

    import twotower_tf as tt

    pipeline = tt.Pipeline("configs/shop.py", "runs/shop", "export/shop")
    pipeline.run()
    recommender = tt.Recommender("export/shop")
    recommender.recommend([{"user_id": "u1", "country": "PL"}], k=10)

Every configuration class is here as well: `tt.ExperimentConfig`, `tt.Hash`, `tt.InBatchSoftmax`. A name is imported
when it is first used; only `tt.Recommender` and the stages of a pipeline import TensorFlow.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twotower_tf.bundle.bundle import Bundle as Bundle
    from twotower_tf.config import *  # noqa: F403
    from twotower_tf.config import load as _load
    from twotower_tf.errors import ArtifactError as ArtifactError
    from twotower_tf.errors import ConfigError as ConfigError
    from twotower_tf.errors import DataError as DataError
    from twotower_tf.pipeline import Pipeline as Pipeline
    from twotower_tf.retrieval.recommender import Recommender as Recommender
    from twotower_tf.stage_results import EvaluateResult as EvaluateResult
    from twotower_tf.stage_results import ExportResult as ExportResult
    from twotower_tf.stage_results import PrepareResult as PrepareResult
    from twotower_tf.stage_results import RunResult as RunResult
    from twotower_tf.stage_results import TrainResult as TrainResult
    from twotower_tf.stage_results import TuneResult as TuneResult

    load_config = _load

__version__ = "0.1.0"

# TensorFlow's C++ code reads it when TensorFlow is imported: 3 leaves out its lines about CUDA, oneDNN and the CPU. A
# level of the user's own is kept.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Public names by module; the configuration classes come from `twotower_tf.config`.
_NAMES = {
    "twotower_tf.bundle.bundle": ("Bundle",),
    "twotower_tf.errors": ("ArtifactError", "ConfigError", "DataError"),
    "twotower_tf.pipeline": ("Pipeline",),
    "twotower_tf.retrieval.recommender": ("Recommender",),
    "twotower_tf.stage_results": (
        "EvaluateResult",
        "ExportResult",
        "PrepareResult",
        "RunResult",
        "TrainResult",
        "TuneResult",
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names} | {"load_config": "twotower_tf.config"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used.

    Raises:
        AttributeError: for a name that is not public.
    """
    if name == "__all__":
        value: Any = _public_names()
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), "load" if name == "load_config" else name)
    elif not name[0].isupper() or name not in _config_classes():  # `from twotower_tf import sql` asks here first
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        value = _config_classes()[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted({*globals(), *_public_names()})


def _public_names() -> list[str]:
    return sorted([*_HOMES, *_config_classes()], key=str.lower)


def _config_classes() -> dict[str, Any]:
    config = importlib.import_module("twotower_tf.config")
    return {name: getattr(config, name) for name in config.__all__ if isinstance(getattr(config, name), type)}
