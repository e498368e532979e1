"""Exports a trained run as a bundle version.

The item vectors are what the exported item tower answers, read back from its SavedModel, for the catalogue's raw
values. They are compared with the vectors of the training path before anything is published: a difference is a
train/serve skew.

One tower is in memory at a time, as trained or as exported: tables may take most of a machine's memory.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower_tf import artifacts, resources
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.bundle import answers, bundle, export_root, manifest, signature_names, warmup
from twotower_tf.bundle import vector_formats as item_formats
from twotower_tf.bundle.loaded_tower import Tower, measure_weights
from twotower_tf.bundle.verify_staging import verify_staging
from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import SideName
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.export import signature_inputs, signatures
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.inputs import columns_to_arrays
from twotower_tf.features.tower_encoder import TowerEncoder
from twotower_tf.index.backends import build_index
from twotower_tf.index.scann.tuning import SAMPLES
from twotower_tf.index.searcher import Searcher
from twotower_tf.model import two_tower
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.progress import Progress, silent
from twotower_tf.tables.time_parser import TimeParser
from twotower_tf.tables.timestamps import SECONDS_PER_DAY
from twotower_tf.train import checkpoints, tower_vectors

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

CANARIES, CANARY_K = 8, 10
WARMUP_BATCHES = (1, 32)
_NAMED = 3  # offending items that an error lists
_STEPS = 6


def export(
    config: ExperimentConfig,
    run_dir: Path,
    export_dir: Path,
    *,
    results: Path | None = None,
    version: int | None = None,
    keep: int = 0,
    active_days: int = 0,
    formats: Sequence[str] = (),
    progress: Progress = silent,
    log: Callable[[str], object] = lambda line: None,
) -> Path:
    """Publishes a new version of the bundle, by one rename.

    Args:
        config: of the run.
        run_dir: prepared and trained.
        export_dir: the export root; new, empty, or written by earlier exports.
        results: run directory with the metrics.json of this model, which the manifest repeats; None: `run_dir`.
        version: by default the UTC time, larger than the newest there.
        keep: versions kept, the new one among them; 0 keeps all.
        active_days: only items with an event in the log's last so many days are exported; 0 exports all.
        formats: of the item vectors in addition to the TSV: "parquet", "npy".
        progress: called at each step.
        log: receives lines about the index's memory, before it is built, and about duplicate vectors.

    Returns:
        The version's directory.

    Raises:
        ArtifactError: where `export_dir` is foreign or busy, the version exists, the run is unfinished, vectors are
            not finite, the exported towers differ from the trained ones, or `twotower verify` refuses the version.
        DataError: where no item to export has been trained on.
        ConfigError: for `active_days` of a log without time, or an unusable `version`.
    """
    run_dir, export_dir = Path(run_dir), Path(export_dir)
    gc.collect()  # frees models of earlier stages in this process
    with export_root.lock_root(export_dir):
        number = export_root.choose_version(export_dir, version)
        run = _Run.open(config, run_dir, results or run_dir, active_days)
        path = export_dir / str(number)
        with artifacts.atomic_directory(path) as staging:
            _write(run, staging, number, formats, progress, log)
        export_root.remove_old(export_dir, keep, number)
    progress("export", _STEPS, _STEPS)
    return path


@dataclass(frozen=True)
class _Run:
    """What is exported.

    Attributes:
        rows: the catalogue's rows that enter the bundle, ascending.
        catalogue: these rows.
        results: run directory with metrics.json, where the model was evaluated.
    """

    config: ExperimentConfig
    run_dir: Path
    prepared: Prepared
    encoded: EncodedData
    rows: Rows
    catalogue: pa.Table
    results: Path

    @classmethod
    def open(cls, config: ExperimentConfig, run_dir: Path, results: Path, active_days: int) -> _Run:
        prepared = Prepared.open(run_dir)
        rows = _exported_rows(config, prepared, active_days)
        encoded = EncodedData(config, prepared)
        catalogue = prepared.items()
        if len(rows) < catalogue.num_rows:
            catalogue = catalogue.take(pa.array(rows))
        return cls(config, run_dir, prepared, encoded, rows, catalogue, results)

    def load_tower(self, side: SideName) -> TwoTower:
        """Returns the trained model with one tower alone."""
        return checkpoints.load_model(self.config, self.run_dir, (side,))


@dataclass(frozen=True)
class _Users:
    """Users of the log as the trained user tower sees them.

    Attributes:
        split: whose rows they are.
        rows: `[n]` of the split.
        vectors: `[n, vector_dim]`, of the trained tower.
        searcher: the index, tuned for them.
        click_probability: the loss's, see `CandidateLoss.probability_parameters`.
    """

    split: str
    rows: Rows
    vectors: Floats
    searcher: Searcher
    click_probability: dict[str, float] | None


def _exported_rows(config: ExperimentConfig, prepared: Prepared, active_days: int) -> Rows:
    """Returns the catalogue rows that enter the bundle."""
    rows = np.arange(prepared.num_items, dtype=np.int64)
    if active_days:
        rows = np.flatnonzero(_active(config, prepared, active_days))
    if not prepared.train_count()[rows].any():
        which = f"with an event in the last {active_days} days " if active_days else ""
        raise DataError(
            f"{prepared.paths.items}: none of the {len(rows)} items {which}has a training positive; "
            "nothing is known of any of them; check data.split, data.positive and data.exclude"
        )
    return rows


def _active(config: ExperimentConfig, prepared: Prepared, active_days: int) -> npt.NDArray[np.bool_]:
    """Returns which items have an event in the last days of the log, whatever the split, or of earlier runs."""
    if not config.data.timestamp:
        raise ConfigError("--active_days: needs event times; name their column in data.timestamp")
    times = prepared.items(["last_event"])["last_event"]
    oldest = (pc.max(times).as_py() or 0) - active_days * SECONDS_PER_DAY
    active: npt.NDArray[np.bool_] = pc.fill_null(pc.greater(times, oldest), False).to_numpy()
    return active


def _write(
    run: _Run,
    staging: Path,
    version: int,
    formats: Sequence[str],
    progress: Progress,
    log: Callable[[str], object],
) -> None:
    """Fills the version's directory; the manifest comes last, then the version is verified."""
    items = _item_vectors(run, staging, version)
    progress("export", 1, _STEPS)
    users = _save_user_tower(run, staging, version, items, progress, log)
    resources.collect_garbage(measure_weights(staging, "user"))
    searcher = users.searcher
    searcher.save(staging / bundle.INDEX)
    np.save(staging / bundle.USERS, users.vectors)
    written = [name for name in item_formats.FORMATS if name == "tsv" or name in formats]
    item_formats.write(staging, written, searcher.items)
    pq.write_table(run.catalogue, staging / bundle.ITEMS)
    artifacts.write_text(staging / bundle.CONFIG, configuration.to_json(run.config))
    artifacts.write_json(staging / bundle.STATISTICS, run.prepared.statistics)
    progress("export", 4, _STEPS)
    canaries = _try_users(run, staging, version, users)
    progress("export", 5, _STEPS)
    known = run.prepared.manifest
    forms = {"time": _time_form(run.prepared), "text_forms": known["text_forms"]}
    forms["item_text_forms"] = known.get("item_text_forms", {})  # earlier preparations lack it
    clicks = {"click_probability": users.click_probability}
    extra = {**forms, **clicks, "canaries": canaries, "canary_k": CANARY_K, "formats": written}
    manifest.write(staging, manifest.make_document(staging, run.config, run.results, version, searcher, extra))
    verify_staging(staging)


def _time_form(prepared: Prepared) -> dict[str, Any] | None:
    """Returns the form in which the log writes its times, for clients; None for a log without times."""
    form, times = prepared.manifest["time_form"], prepared.manifest["time_range"]
    return TimeParser(form, *(times or ())).document() if form else None


def _save_tower(
    run: _Run, model: TwoTower, side: SideName, staging: Path, version: int, searcher: Searcher | None
) -> None:
    names = two_tower.batch_names(run.config, side)
    catalogue = None
    if searcher is not None and len(searcher.items) <= run.config.index.recommend_below:
        catalogue = signatures.Catalogue(searcher.items, run.config.index.k)
    path, encoder = manifest.tower_paths(staging)[side], TowerEncoder(run.config, run.prepared.statistics, side)
    signatures.save(path, encoder, two_tower.tower(model, side), names, version, catalogue)


def _save_item_tower(run: _Run, staging: Path, version: int) -> Floats:
    """Saves the item tower, and returns the trained one's vectors.

    The model is a variable of this function alone: AutoGraph reads the variables of the frames that it is called from,
    and what it has read lives until the frame ends.
    """
    model = run.load_tower("item")
    _save_tower(run, model, "item", staging, version, None)
    trained = tower_vectors.item_vectors(model, run.encoded, run.rows)
    return trained


def _save_user_tower(
    run: _Run, staging: Path, version: int, items: Floats, progress: Progress, log: Callable[[str], object]
) -> _Users:
    """Saves the user tower, and builds the index, which is tuned for its vectors and may be within it.

    As in `_save_item_tower`, the model is a variable of this function alone.
    """
    split, rows = signature_inputs.sample_users(run.prepared, SAMPLES)
    model = run.load_tower("user")
    vectors = tower_vectors.user_vectors(model, run.encoded, split, rows)
    _require_finite(run, "user", vectors)
    searcher = build_index(run.catalogue["item_id"].to_pylist(), items, run.config.index, vectors, report=log)
    progress("export", 2, _STEPS)
    _save_tower(run, model, "user", staging, version, searcher)
    progress("export", 3, _STEPS)
    return _Users(split, rows, vectors, searcher, model.get_layer("loss").probability_parameters())


def _item_vectors(run: _Run, staging: Path, version: int) -> Floats:
    """Saves the item tower, and answers with it, read back, for the catalogue's raw values."""
    trained = _save_item_tower(run, staging, version)
    resources.collect_garbage(measure_weights(staging, "item"))
    with contextlib.closing(Tower(staging, run.config, "item", version)) as tower:
        exported = tower.vectors(columns_to_arrays(tower.inputs, run.catalogue))
    ids = run.catalogue["item_id"]
    _require_finite(run, "item", exported, ids)
    _compare("item", exported, trained, ids)
    return exported


def _require_finite(run: _Run, what: str, found: Floats, ids: pa.ChunkedArray | None = None) -> None:
    broken = ~np.isfinite(found.sum(axis=1))
    if broken.any():
        named = f": {_named(ids, broken)}" if ids is not None else ""
        raise ArtifactError(
            f"{RunPaths(run.run_dir).checkpoints}: the vectors of {int(broken.sum())} {what}s are not finite{named}; "
            "the model diverged; train it again, with a smaller train.initial_lr"
        )


def _compare(what: str, exported: Floats, trained: Floats, ids: pa.ChunkedArray | None = None) -> None:
    """Compares exported with trained towers, against train/serve skew."""
    apart = np.abs(exported - trained).max(axis=1, initial=0.0)
    skewed = apart > signature_names.TOLERANCE
    if skewed.any():
        named = f": {_named(ids, skewed)}" if ids is not None else ""
        raise ArtifactError(
            f"the exported {what} tower differs from the trained one by up to {apart.max():.3g} "
            f"(at most {signature_names.TOLERANCE} is rounding) on {int(skewed.sum())} of {len(apart)} {what}s{named}; "
            "nothing was published; run `twotower prepare` and `twotower train` again"
        )


def _named(ids: pa.ChunkedArray, chosen: npt.NDArray[np.bool_]) -> str:
    places = np.flatnonzero(chosen)
    names = ", ".join(repr(ids[int(place)].as_py()) for place in places[:_NAMED])
    return names + (", ..." if len(places) > _NAMED else "")


def _try_users(run: _Run, staging: Path, version: int, users: _Users) -> list[dict[str, Any]]:
    """Sends real users through the exported user tower: skew guard, warm-up requests, canaries."""
    few = slice(max(WARMUP_BATCHES))
    arrays = signature_inputs.user_arrays(run.config, run.prepared, run.encoded, users.split, users.rows[few])
    with contextlib.closing(Tower(staging, run.config, "user", version)) as tower:
        found = tower.vectors(arrays)
        _compare("user", found, users.vectors[few])
        names = [
            name for name in (signature_names.SERVING_DEFAULT, signature_names.RECOMMEND) if name in tower.signatures
        ]
        warmup.write(staging / warmup.WARMUP, names, arrays, WARMUP_BATCHES)
        for signature, request in warmup.read(staging / warmup.WARMUP):
            tower(signature, request)
    people = signature_inputs.to_rows(tower.inputs, {name: array[:CANARIES] for name, array in arrays.items()})
    return answers.make_canaries(users.searcher, people, found[:CANARIES], CANARY_K)
