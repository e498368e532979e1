"""`manifest.json` of a bundle: what is in it, what it was made from, how to recognise damage."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ArtifactError
from twotower_tf.index import bundle
from twotower_tf.index.searcher import Searcher

_LIBRARIES = ("tensorflow", "tf-keras", "numpy", "pyarrow", "duckdb", "scann", "twotower-tf")
_WEIGHTS, _VALUE = "weights/", "/.ATTRIBUTES/VARIABLE_VALUE"  # of a signature module's checkpoint


def write(
    staging: Path,
    config: ExperimentConfig,
    run_dir: Path,
    version: int,
    searcher: Searcher,
    canaries: list[dict[str, Any]],
    extra: Mapping[str, Any],
) -> None:
    """Writes the manifest, last: it names every other file of the bundle.

    Args:
        staging: the bundle's directory; its other files are finished.
        config: the experiment.
        run_dir: may hold metrics.json, whose summary is taken over.
        version: of the bundle.
        searcher: the bundle's index.
        canaries: users with the answers expected for them.
        extra: more entries.
    """
    description = searcher.description()
    document = {
        "schema_version": bundle.SCHEMA_VERSION,
        "format": bundle.FORMAT,
        "version": version,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": config.name,
        "config_fingerprint": configuration.fingerprint(config),
        "weights_fingerprint": {
            "user": weights_fingerprint(staging),
            "item": weights_fingerprint(staging / bundle.ITEM_TOWER),
        },
        "vectors_fingerprint": searcher.items.fingerprint,
        "vector_dim": searcher.items.dim,
        "similarity": "cosine",
        "items": len(searcher.items),
        "index": {key: description[key] for key in ("kind", "parameters", "recall")},
        "evaluation": evaluation(run_dir),
        "canaries": canaries,
        "libraries": libraries(),
        **extra,
        "files": checksums(staging),
    }
    artifacts.write_json(staging / bundle.MANIFEST, bundle.seal(document))


def checksums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by path relative to the bundle."""
    return {name: artifacts.sha256_file(directory / name) for name in listing(directory)}


def listing(directory: Path) -> list[str]:
    """Every file but the manifest, relative to the bundle, sorted."""
    names = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(name for name in names if name != bundle.MANIFEST)


def weights_fingerprint(saved_model: Path) -> str:
    """A SHA-256 of a tower's weights: names, shapes and values, in order of names.

    Not of files: two exports of the same weights differ in `saved_model.pb`.

    Raises:
        ArtifactError: where the variables cannot be read.
    """
    path = saved_model / "variables" / "variables"
    digest = hashlib.sha256()
    try:
        reader = tf.train.load_checkpoint(str(path))
        for key in sorted(reader.get_variable_to_shape_map()):
            if key.startswith(_WEIGHTS):
                value = reader.get_tensor(key)
                name = key.removeprefix(_WEIGHTS).removesuffix(_VALUE)
                digest.update(f"{name} {value.dtype.name} {list(value.shape)}\n".encode())
                digest.update(np.ascontiguousarray(value).data)
    except (tf.errors.OpError, RuntimeError) as error:
        raise ArtifactError(f"{path}.*: damaged: {str(error).splitlines()[0]}") from None
    return digest.hexdigest()


def evaluation(run_dir: Path) -> dict[str, Any] | None:
    """The summary of a run's metrics.json, or None where it was not evaluated."""
    path = RunPaths(run_dir).metrics
    if not path.is_file():
        return None
    document = artifacts.read_json(path, "run directory")
    keys = ("split", "protocol", "users", "metrics", "baselines")
    return {key: document[key] for key in keys if key in document}


def libraries() -> dict[str, str]:
    """Versions of Python and of the packages that made the bundle, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
