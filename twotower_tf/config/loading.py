"""Reads and writes configurations (Python, JSON, run directories) and computes their fingerprints."""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from twotower_tf import artifacts
from twotower_tf.config.base import explain
from twotower_tf.config.experiment import ExperimentConfig, unchecked
from twotower_tf.config.extensions import import_extensions
from twotower_tf.config.overrides import override
from twotower_tf.errors import ConfigError

SCHEMA_VERSION = 2
_ADAPTER = pydantic.TypeAdapter(ExperimentConfig)


def load(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Runs `get_config()` of a configuration file and applies `--set` overrides in order.

    The fields are checked together after the overrides, which may repair a file that is invalid as it stands.

    Raises:
        ConfigError: for a missing file, a file without `get_config`, an error in it, or an invalid override.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"--config: no such file: {path}")
    with unchecked():
        config = _read(path)
    try:
        return override(config, overrides)
    except ConfigError as error:
        if str(error).startswith("--set "):
            raise
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> ExperimentConfig:
    """Reads a configuration file."""
    if path.suffix == ".json":
        return from_json(path.read_text(encoding="utf-8"), str(path))
    import_extensions()
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise ConfigError(f"{path}: defines no get_config()")
        config = get_config()
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}".replace("\n", " ")) from error
    if not isinstance(config, ExperimentConfig):
        raise ConfigError(f"{path}: get_config() must return an ExperimentConfig; got {type(config).__name__}")
    return config


def to_json(config: ExperimentConfig) -> str:
    """Converts the resolved configuration to JSON text; `from_json` is the inverse."""
    document = {"schema_version": SCHEMA_VERSION, **_ADAPTER.dump_python(config, mode="json")}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, where: str) -> ExperimentConfig:
    """Parses the JSON text of `to_json`, of this schema version or of version 1.

    Raises:
        ConfigError: for another schema version or an invalid configuration; `where` names the source.
    """
    import_extensions()
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where}: JSON nested too deeply for a configuration") from None
    if isinstance(document, dict) and document.get("schema_version") == 1:
        document = _from_version_1(document)
    artifacts.check_schema(document, SCHEMA_VERSION, where)
    document.pop("schema_version")
    try:
        return _ADAPTER.validate_json(json.dumps(document))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {explain('ExperimentConfig', error)}") from None


def _from_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """Moves `loss.negatives`, so many shared draws from the catalogue, to the kinds of `sampling.negatives`.

    Version 1 shared them out among `Uniform` and `Popularity` in proportion to their `per_positive`, what was left over
    to the largest remainders; 0 left the kinds as they were.
    """
    loss, sampling = document.get("loss"), document.get("sampling")
    document = {**document, "schema_version": SCHEMA_VERSION}
    if not (isinstance(loss, dict) and "negatives" in loss and isinstance(sampling, dict)):
        return document
    total, kinds = loss["negatives"], sampling.get("negatives") or []
    document["loss"] = {name: value for name, value in loss.items() if name != "negatives"}
    catalogue = [each for each in kinds if each.get("type") in ("Uniform", "Popularity")]
    if total and catalogue:
        exact = [total * each["per_positive"] / sum(one["per_positive"] for one in catalogue) for each in catalogue]
        counts = [int(each) for each in exact]
        for place in sorted(range(len(exact)), key=lambda at: counts[at] - exact[at])[: total - sum(counts)]:
            counts[place] += 1
        shared = {each["type"]: count for each, count in zip(catalogue, counts, strict=True)}
        document["sampling"] = {
            **sampling,
            "negatives": [
                {**each, "per_positive": shared[each["type"]], "shared": True} if each["type"] in shared else each
                for each in kinds
                if shared.get(each["type"], 1)
            ],
        }
    return document


def load_run(run_dir: str | Path) -> ExperimentConfig:
    """Reads `config.json` of a run directory.

    Raises:
        ArtifactError: if it is missing or has another schema version.
        ConfigError: if it is not a valid configuration.
    """
    path = artifacts.RunPaths(Path(run_dir)).config
    return from_json(artifacts.read_text(path, "run directory"), str(path))


# Fields that prepared data depend on, and fields that a trained model depends on apart from its schedule (`train`).
PREPARED = ("seed", "data", "item_features", "user_features")
TRAINED = (*PREPARED, "model", "sampling", "loss")


def fingerprint(config: ExperimentConfig, fields: Sequence[str] = ()) -> str:
    """Computes a digest of `fingerprint_fields`."""
    return artifacts.fingerprint(fingerprint_fields(config, fields))


def fingerprint_fields(config: ExperimentConfig, fields: Sequence[str] = ()) -> dict[str, Any]:
    """Converts the named fields, by default all, to the JSON values that fingerprints are computed of.

    Left out are `data.root`, and options that are off and that earlier versions did not have, so that a configuration
    has the fingerprint that it had there; of `PREPARED`, every dropout, which nothing that is prepared depends on.
    """
    document: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    document["data"].pop("root")
    for each in (*document["item_features"], *document["user_features"]):
        if not each["dropout"] or tuple(fields) == PREPARED:
            each.pop("dropout")
        if not each.get("time_gaps", True):
            each.pop("time_gaps")
    if document["model"]["initial_scale"] == 1.0:
        document["model"].pop("initial_scale")
    for name in ("growing", "user_temperature"):
        if not document["loss"].get(name, True):
            document["loss"].pop(name)
    return {name: document[name] for name in fields or document}


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Returns the values of a configuration's JSON document, or of a part of it, by field: `user_features[0].column`.

    Args:
        node: the document, or a value within it.
        path: the field of `node`.
    """
    if isinstance(node, dict) and node:
        pairs = [(f"{path}.{name}" if path else name, value) for name, value in node.items()]
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        pairs = [(f"{path}[{position}]", value) for position, value in enumerate(node)]
    else:
        return {path: node}
    return {field: leaf for name, value in pairs for field, leaf in flatten(value, name).items()}
