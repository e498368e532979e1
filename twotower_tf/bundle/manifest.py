"""Writes `manifest.json` of a bundle: its content, its origin, and checksums."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.bundle import bundle, saved_model_edits
from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import SideName
from twotower_tf.index import index_files
from twotower_tf.index.backends import backend_libraries
from twotower_tf.index.searcher import Searcher

_LIBRARIES = ("tensorflow", "tf-keras", "numpy", "pyarrow", "duckdb", "twotower-tf")
_WEIGHTS, _VALUE = "weights/", "/.ATTRIBUTES/VARIABLE_VALUE"  # of a signature module's checkpoint


def make_document(
    staging: Path,
    config: ExperimentConfig,
    results: Path,
    version: int,
    searcher: Searcher,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the manifest's content of a trained run's bundle.

    Args:
        staging: the bundle's directory; its towers are finished.
        config: the experiment.
        results: run directory; its metrics.json, where it is of this model, is summarized.
        version: of the bundle.
        searcher: the bundle's index.
        extra: more entries.
    """
    weights = {side: hash_weights(path) for side, path in tower_paths(staging).items()}
    return {
        "schema_version": bundle.SCHEMA_VERSION,
        "format": bundle.FORMAT,
        "version": version,
        "created": bundle.format_now(),
        "origin": {"kind": "export"},
        "name": config.name,
        "config_fingerprint": configuration.fingerprint(config),
        "weights_fingerprint": {side: digest for side, (digest, _) in weights.items()},
        "tables": {side: tables for side, (_, tables) in weights.items()},
        "signatures": {
            side: list(saved_model_edits.list_signatures(saved_model_edits.read(path)))
            for side, path in tower_paths(staging).items()
        },
        **describe_index(searcher),
        "similarity": "cosine",
        "evaluation": read_evaluation(results, config.data.trained_splits),
        "libraries": list_libraries(),
        **extra,
    }


def describe_index(searcher: Searcher) -> dict[str, Any]:
    """Returns the manifest's description of an index."""
    description = searcher.description()
    return {
        "vectors_fingerprint": searcher.items.fingerprint,
        "vector_dim": searcher.items.dim,
        "items": len(searcher.items),
        "index": {key: description[key] for key in ("kind", "parameters", "recall")},
    }


def tower_paths(path: Path) -> dict[SideName, Path]:
    """Returns the directories of a bundle's towers."""
    return {"user": path, "item": path / bundle.ITEM_TOWER}


def write(staging: Path, content: Mapping[str, Any], known: Mapping[str, str] | None = None) -> None:
    """Writes the manifest, last: it names every other file of the bundle.

    Args:
        staging: the bundle's directory; its other files are finished.
        content: all but the files.
        known: SHA-256 of files that were just compared with it. Those of the index are copied from index.json.
            `verify` compares all of them before the version is published.
    """
    index = {
        f"{bundle.INDEX}/{name}": digest
        for name, digest in index_files.open_index(staging / bundle.INDEX)["files"].items()
    }
    document = {**content, "files": hash_files(staging, {**(known or {}), **index})}
    artifacts.write_json(staging / bundle.MANIFEST, bundle.seal(document))


def hash_files(directory: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Computes the SHA-256 of every file but the manifest, by relative path, except the `known` ones."""
    return index_files.hash_files(directory, list_files(directory), known)


def list_files(directory: Path) -> list[str]:
    """Lists every file but the manifest, relative to the bundle, sorted."""
    names = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(name for name in names if name != bundle.MANIFEST)


def hash_weights(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Computes the SHA-256 of a tower's weights (names, shapes, values, in order of names) and their sizes.

    Not of files: two exports of the same weights differ in `saved_model.pb`.

    Returns:
        the digest, and by weight `{"shape": [...], "bytes": n}`.

    Raises:
        ArtifactError: where the variables cannot be read.
    """
    digest = hashlib.sha256()
    sizes: dict[str, dict[str, Any]] = {}
    with saved_model_edits.open_variables(path) as reader:
        for key in sorted(reader.get_variable_to_shape_map()):
            if key.startswith(_WEIGHTS):
                value = reader.get_tensor(key)
                name = key.removeprefix(_WEIGHTS).removesuffix(_VALUE)
                digest.update(f"{name} {value.dtype.name} {list(value.shape)}\n".encode())
                digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer
                sizes[name] = {"shape": list(value.shape), "bytes": int(value.nbytes)}
                del value  # before the next one is read: a table may take half of all memory
    return digest.hexdigest(), sizes


def read_evaluation(run_dir: Path, trained_splits: Sequence[str] = ("train",)) -> dict[str, Any] | None:
    """Returns the summary of a run's metrics.json, or None if the model trained on these splits was not evaluated."""
    path = RunPaths(run_dir).metrics
    if not path.is_file():
        return None
    document = artifacts.read_json(path, "run directory")
    trained_on = document.get("trained_on", {"splits": ["train"]})
    if trained_on["splits"] != list(trained_splits):
        return None
    keys = ("split", "protocol", "trained_on", "users", "metrics", "intervals", "baselines", "warnings")
    return {key: document[key] for key in keys if key in document}


def list_libraries() -> dict[str, str]:
    """Returns the versions of Python and of the packages that made the bundle, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in (*_LIBRARIES, *backend_libraries()):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
