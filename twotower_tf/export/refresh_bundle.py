"""Publishes a version with another catalogue and the same model, without training, log or run directory.

Only items whose feature values are new or changed go through the item tower, the newest version's own. Their vectors
join those that stay, the index is changed accordingly, the canaries' answers are computed again, and the version is
verified before it appears.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf import artifacts
from twotower_tf.bundle import (
    answers,
    derived_version,
    export_root,
    manifest,
    saved_model_edits,
    signature_names,
    vector_formats,
    warmup,
)
from twotower_tf.bundle import bundle as bundles
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.loaded_tower import Tower
from twotower_tf.bundle.verify_staging import verify_staging
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.export.catalogue_diff import Changes, Listing, Mode, merge, read_ids, read_items
from twotower_tf.features.inputs import columns_to_arrays, rows_to_arrays
from twotower_tf.index.backends import update_index
from twotower_tf.index.index_files import NEW
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.index.searcher import Searcher
from twotower_tf.prepare.schema import list_feature_columns
from twotower_tf.prepare.text_forms import apply_form
from twotower_tf.progress import Progress, silent
from twotower_tf.tables import quarantine

QUARANTINE = "refresh_quarantine.jsonl"
_VECTORS = ("item_embeddings.tsv", "item_embeddings.parquet", "item_embeddings.npy")
_NAMED, _STEPS = 3, 6

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Refreshed:
    """The outcome of a refresh.

    Attributes:
        path: the new version's directory; the newest one's where nothing has changed.
        published: whether it is new.
        changes: of the catalogue.
        listing: what was read, or None without a table.
        index: "kept", "updated" or "rebuilt".
    """

    path: Path
    published: bool
    changes: Changes
    listing: Listing | None
    index: str


def refresh(
    export_dir: Path,
    items: Path | None = None,
    *,
    mode: Mode = "upsert",
    delete: Path | None = None,
    version: int | None = None,
    keep: int = 0,
    max_removed: float = 0.5,
    memory_limit: str = "4GB",
    progress: Progress = silent,
) -> Refreshed:
    """Publishes a version with the items of a table, by one rename.

    Args:
        export_dir: the export root.
        items: table of items, as in DataConfig.items; a row says all of its item.
        mode: "upsert": items that the table lacks are kept; "replace": they are removed.
        delete: file of ids to remove, one per line.
        version: by default the UTC time, larger than the newest there.
        keep: versions kept, the new one among them; 0 keeps all.
        max_removed: share of the catalogue that may be removed at once.
        memory_limit: of reading the table.
        progress: called at each step.

    Raises:
        ArtifactError: if the root has no version, the newest is damaged, another process writes there, a vector is not
            finite, or `twotower verify` refuses the new version.
        DataError: for an invalid table or ids, or where too many items would be removed.
        ConfigError: for an unusable `version`, or where neither table nor ids are given.
    """
    if items is None and delete is None:
        raise ConfigError("--items or --delete is required: a table of items, or a file of ids to remove")
    if items is None and mode == "replace":
        raise ConfigError("--mode=replace needs --items: the whole catalogue")
    export_dir = Path(export_dir)
    with export_root.lock_root(export_dir):
        bundle = Bundle.open(export_dir)
        number = export_root.choose_newest(export_dir, version)
        path = export_dir / str(number)
        progress("refresh", 1, _STEPS)
        listing = None
        if items is not None:
            forms = bundle.text_forms("item")
            listing = read_items(bundle.config, Path(items), bundle.items.schema, memory_limit, forms=forms)
        changes = _changes(bundle, listing, delete, mode)
        _check_removed(bundle, changes, max_removed)
        progress("refresh", 2, _STEPS)
        if not changes.any:
            progress("refresh", _STEPS, _STEPS)
            return Refreshed(bundle.path, False, changes, listing, "kept")
        with artifacts.atomic_directory(path) as staging:
            index = _write(bundle, staging, number, changes, listing, progress)
            verify_staging(staging)
        export_root.remove_old(export_dir, keep, number)
    progress("refresh", _STEPS, _STEPS)
    return Refreshed(path, True, changes, listing, index)


def _changes(bundle: Bundle, listing: Listing | None, delete: Path | None, mode: Mode) -> Changes:
    features = {column.name for column in list_feature_columns(bundle.config, "item")}
    form = bundle.text_forms("item").get(bundle.config.data.item_id, "")
    deletes = [] if delete is None else [apply_form(each, form) for each in read_ids(Path(delete))]
    return merge(bundle.items, None if listing is None else listing.items, deletes, mode, features)


def _check_removed(bundle: Bundle, changes: Changes, max_removed: float) -> None:
    count = bundle.manifest["items"]
    if changes.removed > max_removed * count:
        raise DataError(
            f"--items: {changes.removed} of {count} items would be removed, more than --max_removed={max_removed:g} of "
            "them; check that the table is complete, or use --mode=upsert, which keeps items that it lacks"
        )


def _write(
    bundle: Bundle,
    staging: Path,
    version: int,
    changes: Changes,
    listing: Listing | None,
    progress: Progress,
) -> str:
    """Fills the version's directory; the manifest comes last."""
    old = bundle.stored_index()
    same_vectors = len(changes.origin) == len(old.vectors) and bool((changes.origin >= 0).all())
    in_graph = signature_names.RECOMMEND in bundle.manifest["signatures"]["user"]
    rewritten = [bundles.ITEMS, QUARANTINE]
    if not same_vectors:
        rewritten += [bundles.INDEX, *_VECTORS]
    known = derived_version.inherit(bundle, staging, version, rewritten + (["variables"] if in_graph else []))
    if listing is not None and listing.quarantine:
        quarantine.write_entries(staging / QUARANTINE, listing.quarantine)
    pq.write_table(changes.catalogue, staging / bundles.ITEMS)
    if same_vectors:
        searcher, how = bundle.searcher(), "kept"
    else:
        items = _embed_items(bundle, changes, old.vectors)
        progress("refresh", 3, _STEPS)
        with ThreadPoolExecutor(1) as pool:
            files = pool.submit(vector_formats.write, staging, bundle.manifest["formats"], items)
            searcher, rebuilt = update_index(old, items, changes.origin, bundle.config.index, bundle.sample_users)
            searcher.save(staging / bundles.INDEX)
            files.result()
        how = "rebuilt" if rebuilt else "updated"
    progress("refresh", 4, _STEPS)
    if in_graph:
        _embed_catalogue(bundle, staging, searcher.items)
    content = _content(bundle, staging, version, changes, searcher, how)
    manifest.write(staging, content, known)
    progress("refresh", 5, _STEPS)
    return how


def _embed_items(bundle: Bundle, changes: Changes, earlier: Floats) -> ItemVectors:
    """Returns the new catalogue's items: with `earlier` vectors, and the item tower's of new and changed items."""
    ids, new = changes.catalogue["item_id"].to_numpy().astype(object), np.flatnonzero(changes.origin == NEW)
    vectors = np.ascontiguousarray(earlier[np.maximum(changes.origin, 0)])
    if len(new):
        rows = changes.catalogue.take(pa.array(new))
        with contextlib.closing(Tower.of_bundle(bundle, "item")) as tower:  # freed before the other one is loaded
            vectors[new] = tower.vectors(columns_to_arrays(tower.inputs, rows))
    broken = new[~np.isfinite(vectors[new]).all(axis=1)]
    if len(broken):
        named = ", ".join(repr(ids[row]) for row in broken[:_NAMED]) + (", ..." if len(broken) > _NAMED else "")
        raise ArtifactError(f"the item tower's vectors of {len(broken)} items are not finite: {named}")
    return ItemVectors(ids, vectors)  # refuses what no index can hold


def _embed_catalogue(bundle: Bundle, staging: Path, items: ItemVectors) -> None:
    """Gives the user tower the new catalogue for its `recommend`."""
    saved_model_edits.copy_variables(bundle.path, staging, items)
    model = saved_model_edits.read(staging)
    saved_model_edits.state_answers(model, min(bundle.config.index.k, len(items)))
    saved_model_edits.write(staging, model)


def _content(
    bundle: Bundle, staging: Path, version: int, changes: Changes, searcher: Searcher, how: str
) -> dict[str, Any]:
    """Returns the manifest's content; runs the user tower on the canaries' users and the warm-up requests."""
    people = [canary["user"] for canary in bundle.manifest["canaries"]]
    with contextlib.closing(Tower(staging, bundle.config, "user", version)) as tower:
        for signature, request in warmup.read(staging / warmup.WARMUP):
            tower(signature, request)
        found = tower.vectors(rows_to_arrays(tower.inputs, people))
    origin = {
        "kind": "refresh",
        "added": changes.added,
        "changed": changes.changed,
        "restated": changes.restated,
        "removed": changes.removed,
        "index": how,
    }
    canaries = answers.make_canaries(searcher, people, found, bundle.manifest["canary_k"])
    return derived_version.derive_document(
        bundle, version, origin, canaries=canaries, **manifest.describe_index(searcher)
    )


def describe_refresh(done: Refreshed) -> Collection[str]:
    """Describes what a refresh did, a line each."""
    changes = done.changes
    counts = [
        (changes.added, "new"), (changes.changed, "changed"), (changes.removed, "gone"),
        (changes.restated, "with other columns only"),
    ]  # fmt: skip
    lines = ["items: " + ", ".join(f"{count:,} {what}" for count, what in counts)]
    if done.listing is not None and done.listing.quarantine:
        where = done.path / QUARANTINE if done.published else "nowhere: nothing was published"
        lines.append(f"{len(done.listing.quarantine):,} of {done.listing.read:,} rows set aside: {where}")
    for name, count in (done.listing.unfit if done.listing else {}).items():
        lines.append(f"column {name!r}: {count:,} values do not have its type and are null now")
    if changes.unknown:
        lines.append(f"{changes.unknown:,} ids to delete were not in the catalogue")
    lines.append(f"index: {done.index}" if done.published else "nothing has changed; no version was published")
    return lines
