"""Reads a bundle: one exported version with towers, item vectors, index and manifest.

A bundle is a directory `EXPORT_DIR/VERSION`, published by one rename and never changed. What is missing, changed, or
of two models at once is refused here, with the file's name, before anything is answered from it.

It may come from elsewhere. However it is opened, its manifest is complete and sealed, every name in it is a plain
relative path, nothing in the directory is a symbolic link or unlisted, and the configuration, the catalogue and the
index's description and ids have their checksums. Of everything else the checksums are compared when it is opened
(`check="full"`) or before it is first read.

Files:
    EXPORT_DIR/VERSION/saved_model.pb: user tower; signatures `serving_default`, `from_examples`, `from_encoded` and, of
        small catalogues, `recommend`.
    EXPORT_DIR/VERSION/variables: weights of the user tower.
    EXPORT_DIR/VERSION/assets.extra: warm-up requests of TensorFlow Serving, made of real users' values.
    EXPORT_DIR/VERSION/item_tower: SavedModel of the item tower.
    EXPORT_DIR/VERSION/item_embeddings.tsv: `item_id TAB v1,v2,...`, one line per item, unit length.
    EXPORT_DIR/VERSION/item_embeddings.parquet: the same as columns `item_id` and `vector`, with `--format=parquet`.
    EXPORT_DIR/VERSION/item_embeddings.npy: the vectors, float32 `[items, vector_dim]`, with `--format=npy`.
    EXPORT_DIR/VERSION/index: the serialized index, relocatable, with item ids; `recall_curve.svg` plots recall against
        speed.
    EXPORT_DIR/VERSION/items.parquet: the exported catalogue, row by row as the index; filters read its columns.
    EXPORT_DIR/VERSION/config.json: configuration of the run.
    EXPORT_DIR/VERSION/statistics.json: quantile boundaries, means and deviations of the run.
    EXPORT_DIR/VERSION/sample_users.npy: vectors of real users, with which export and `verify` measure recall.
    EXPORT_DIR/VERSION/refresh_quarantine.jsonl: malformed rows of a refresh, if there were any.
    EXPORT_DIR/VERSION/manifest.json: checksums, fingerprints, recall of the index, metrics, canaries, table sizes,
        origin, library versions.
    EXPORT_DIR/blocklist.txt: optional, yours: ids of items that nobody gets, of whatever version.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf import artifacts, config
from twotower_tf.errors import ArtifactError
from twotower_tf.index import index_files, manifest_schema, members
from twotower_tf.index.backends import load_index, open_stored
from twotower_tf.index.searcher import Searcher

SCHEMA_VERSION = 2
FORMAT = "twotower_tf bundle"
MANIFEST = "manifest.json"
CONFIG = "config.json"
STATISTICS = "statistics.json"
ITEMS = "items.parquet"
INDEX = "index"
ITEM_TOWER = "item_tower"
TSV = "item_embeddings.tsv"
USERS = "sample_users.npy"  # vectors of real users, float32 [users, vector_dim], that recall is measured with
SEAL = "manifest_fingerprint"

_LIGHT = (CONFIG, ITEMS, f"{INDEX}/{index_files.INDEX}", f"{INDEX}/{index_files.ITEM_IDS}")
_SAVED_MODEL = "saved_model.pb"
_OF_TOWERS = (_SAVED_MODEL, "variables", "assets", "assets.extra", "fingerprint.pb")  # what TensorFlow reads


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """Adds to a manifest the fingerprint of its own content, so that damage to it is noticed."""
    content = {key: value for key, value in document.items() if key != SEAL}
    return {**content, SEAL: artifacts.fingerprint(content)}


def format_now() -> str:
    """Returns the time, UTC, in the manifests' format."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def list_versions(export_dir: str | Path) -> list[int]:
    """Returns the versions of an export root, ascending.

    A version is a child directory named by an integer with a bundle's manifest, or with a damaged one: that is listed,
    so that it is refused by name and not passed over in silence. Half-copied and foreign directories are none. A
    manifest is known by its format or by its seal: no single flipped bit hides it.
    """
    root = Path(export_dir)
    if not root.is_dir():
        return []
    return sorted(int(child.name) for child in root.iterdir() if _is_version(child))


def _is_version(child: Path) -> bool:
    name = child.name
    manifest = child / MANIFEST
    if not (name.isascii() and name.isdecimal() and str(int(name)) == name and os.path.lexists(manifest)):
        return False
    if not manifest.is_file():
        return True
    try:
        document = artifacts.read_json(child / MANIFEST, "bundle")
    except ArtifactError:
        return True
    return document.get("format") == FORMAT or SEAL in document


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Reports a Parquet file that cannot be read.

    Raises:
        ArtifactError: naming the file.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: damaged: {str(error).splitlines()[0]}; export again") from None


@dataclass(frozen=True)
class Bundle:
    """One version of an export root.

    Attributes:
        path: its directory.
        version: its number.
        manifest: the content of manifest.json.
        checked: every file's checksum was compared; none is compared again.
    """

    path: Path
    version: int
    manifest: dict[str, Any]
    checked: bool = False

    @classmethod
    def open(
        cls, export_dir: str | Path, version: int | None = None, *, check: Literal["full", "light"] = "full"
    ) -> Bundle:
        """Opens a version of an export root, by default the newest.

        Args:
            export_dir: the export root.
            version: one of `list_versions(export_dir)`.
            check: "full" compares the SHA-256 of every file of the manifest; "light" that of the configuration, the
                catalogue and the index's description and ids. `searcher()`, `tower()`, `statistics` and `sample_users`
                then compare what they read, `check_files` anything else.

        Raises:
            ArtifactError: if the version does not exist; if a file is missing, changed, not in the manifest, or a
                symbolic link (named); where a name or a value of the manifest cannot be used; where the index was built
                from other vectors than the manifest states (both fingerprints named).
        """
        root = Path(export_dir)
        path = root / str(_choose(root, version))
        bundle = cls.read(path, check=check)
        if bundle.version != int(path.name):
            raise ArtifactError(
                f"{path}: invalid directory name (expected {bundle.version}, the manifest's version); "
                "versions are not renamed, use rollback"
            )
        return bundle

    @classmethod
    def read(cls, path: Path, *, check: Literal["full", "light"] = "full") -> Bundle:
        """Reads a version's directory under any name, such as one that is not published yet; `check` is as in `open`.

        Raises:
            ArtifactError: as `open` says.
        """
        found = members.find(path)
        manifest = artifacts.read_json(path / MANIFEST, "bundle", SCHEMA_VERSION)
        if manifest.get("format") != FORMAT:
            raise ArtifactError(f"{path / MANIFEST}: invalid format {manifest.get('format')!r} (expected {FORMAT!r})")
        _check_manifest(path / MANIFEST, manifest)
        members.check_complete(path, found, manifest["files"], MANIFEST)
        bundle = cls(path, manifest["version"], manifest, checked=check == "full")
        bundle.check_files(*() if bundle.checked else _LIGHT)
        bundle._check_index()
        return bundle

    @cached_property
    def config(self) -> config.ExperimentConfig:
        """The experiment's configuration."""
        path = self.path / CONFIG
        return config.from_json(artifacts.read_text(path, "bundle"), str(path))

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """Boundaries, means and deviations by side and feature name, as in the training data.

        Raises:
            ArtifactError: where an earlier version of twotower_tf exported the bundle without them.
        """
        if STATISTICS in self.manifest["files"]:
            self._compare(STATISTICS)
        return artifacts.read_json(self.path / STATISTICS, "bundle")

    @cached_property
    def items(self) -> pa.Table:
        """The exported items in the index's row order: item_id, item_name, the catalogue's other columns.

        Raises:
            ArtifactError: where it does not have the manifest's number of items.
        """
        return self.columns()

    @cached_property
    def item_schema(self) -> pa.Schema:
        """Names and types of the columns of `items`.

        Raises:
            ArtifactError: where the catalogue is missing or damaged.
        """
        with _reading(self.path / ITEMS):
            return pq.read_schema(self.path / ITEMS)

    def columns(self, names: Sequence[str] | None = None) -> pa.Table:
        """Returns the named columns of `items`; all by default.

        Raises:
            ArtifactError: as `items` says.
        """
        with _reading(self.path / ITEMS):
            table = pq.read_table(self.path / ITEMS, columns=None if names is None else list(names))
        if table.num_rows != self.manifest["items"]:
            raise ArtifactError(
                f"{self.path / ITEMS}: {table.num_rows} rows, the manifest states {self.manifest['items']} items"
            )
        return table

    def text_forms(self, side: Literal["user", "item"]) -> dict[str, str]:
        """Returns the log's forms of booleans and whole numbers, by column or history (see `prepare.text_forms`).

        Empty in bundles that were exported before forms were kept.
        """
        forms: dict[str, str] = self.manifest.get({"user": "text_forms", "item": "item_text_forms"}[side], {})
        return forms

    def searcher(self, threads: int = 0) -> Searcher:
        """Loads the index; `threads` answer one call at most, 0 is one per core.

        Raises:
            ArtifactError: where a file of the index is missing or changed.
        """
        return load_index(self.path / INDEX, threads=threads, check=not self.checked)

    def stored_index(self) -> index_files.Stored:
        """Opens ids, vectors and parameters of the index, without what answers from it.

        Raises:
            ArtifactError: where a file of the index is missing or changed.
        """
        if not self.checked:
            self.check_files(INDEX)
        return open_stored(self.path / INDEX)

    @cached_property
    def sample_users(self) -> npt.NDArray[np.float32]:
        """[users, vector_dim] float32: vectors of real users, which recall was measured with.

        Raises:
            ArtifactError: where the file is missing, changed, or holds something else.
        """
        self._compare(USERS)
        users = index_files.load_array(self.path / USERS)
        if users.ndim != 2 or users.shape[1] != self.manifest["vector_dim"] or users.dtype != np.float32:
            raise ArtifactError(
                f"{self.path / USERS}: damaged: {users.dtype} {users.shape} (expected float32 "
                f"[users, {self.manifest['vector_dim']}]); export again"
            )
        return users

    def tower(self, side: Literal["user", "item"]) -> Path:
        """Returns the directory of a tower's SavedModel, after comparing its files with the manifest.

        Loading it runs the graph that its author wrote, with all that TensorFlow's operations can do.

        Raises:
            ArtifactError: where a file of it is missing or changed.
        """
        prefix = "" if side == "user" else f"{ITEM_TOWER}/"
        listed = {name.removeprefix(prefix).split("/")[0] for name in self.manifest["files"] if name.startswith(prefix)}
        self._compare(f"{prefix}{_SAVED_MODEL}", *(f"{prefix}{name}" for name in _OF_TOWERS if name in listed))
        return self.path / prefix

    def _compare(self, *names: str) -> None:
        """Compares files of the manifest, unless that was done when the bundle was opened."""
        if not self.checked or any(not self._listed(name) for name in names):
            self.check_files(*names)

    def _listed(self, name: str) -> dict[str, str]:
        """Returns the SHA-256 that the manifest states of a file, or of all files of a directory, by name."""
        stated: dict[str, str] = self.manifest["files"]
        return {path: digest for path, digest in stated.items() if path == name or path.startswith(f"{name}/")}

    def check_files(self, *names: str) -> None:
        """Compares the SHA-256 of the named files, or directories of files, with the manifest; of all by default.

        Raises:
            ArtifactError: naming the first file that is missing, changed or not in the manifest.
        """
        wanted: dict[str, str] = {}
        for name in names:
            chosen = self._listed(name)
            if not chosen:
                raise ArtifactError(f"{self.path / name}: {self.path / MANIFEST} does not list it")
            wanted.update(chosen)
        index_files.check_files(self.path, wanted if names else self.manifest["files"], MANIFEST)

    def _check_index(self) -> None:
        """Checks that index and towers are of one model: the index states the vectors that it was built from."""
        index = index_files.open_index(self.path / INDEX)
        pairs = (("fingerprint", "vectors_fingerprint"), ("size", "items"), ("dim", "vector_dim"))
        for mine, theirs in pairs:
            if index[mine] != self.manifest[theirs]:
                raise ArtifactError(
                    f"{self.path / INDEX}: the index has {mine} {index[mine]}, {MANIFEST} states {theirs} "
                    f"{self.manifest[theirs]}; they are of different models"
                )
        prefix = f"{INDEX}/"
        stated = {name.removeprefix(prefix): digest for name, digest in self._listed(INDEX).items()}
        del stated[index_files.INDEX]
        if index["kind"] != self.manifest["index"]["kind"] or index["files"] != stated:
            raise ArtifactError(
                f"{self.path / INDEX / index_files.INDEX}: damaged: {MANIFEST} states another kind or other files; "
                "export again"
            )


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    manifest_schema.check_manifest(path, manifest)
    try:
        sealed = manifest.get(SEAL) == seal(manifest)[SEAL]
    except (RecursionError, ValueError):  # nested too deeply; a text that is not Unicode
        sealed = False
    if not sealed:
        raise ArtifactError(f"{path}: damaged: its content is not that of its {SEAL}; export again or restore it")
    members.check_names(manifest["files"], path)
    for name in _LIGHT:
        if name not in manifest["files"]:
            raise ArtifactError(f"{path}: damaged: it does not list {name}; export again or restore it")


def _choose(root: Path, version: int | None) -> int:
    known = list_versions(root)
    if known and version is not None and version not in known:
        raise ArtifactError(f"{root}: invalid version {version} (expected one of: {', '.join(map(str, known))})")
    if not known:
        if _is_version(root):
            raise ArtifactError(f"{root}: is a version itself; give the export directory {root.parent}")
        raise ArtifactError(
            f"{root}: invalid export directory (expected at least one bundle version); run `twotower export "
            f"--export_dir={root}`"
        )
    return known[-1] if version is None else version
