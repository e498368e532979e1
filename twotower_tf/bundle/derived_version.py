"""Makes a version from another one, without the run that trained it: for refresh and rollback.

Files that are the same in both are hard links where the file system has them: a version is never changed, so neither
is what they share. Its SavedModels answer with the new version; their weights are not read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower_tf.bundle import manifest, saved_model_edits
from twotower_tf.bundle.bundle import MANIFEST, Bundle, format_now
from twotower_tf.errors import ArtifactError

_REWRITTEN = (MANIFEST, saved_model_edits.FILE, f"item_tower/{saved_model_edits.FILE}")


def inherit(bundle: Bundle, staging: Path, version: int, without: Sequence[str] = ()) -> dict[str, str]:
    """Fills an empty directory with the checked files of another version, but for those that the caller writes.

    Returns:
        SHA-256 of the files that are the same.

    Raises:
        ArtifactError: where the towers cannot be made to answer as `version`.
    """
    same: dict[str, str] = {}
    for name, digest in bundle.manifest["files"].items():
        if name in _REWRITTEN or any(name == other or name.startswith(f"{other}/") for other in without):
            continue
        _link(bundle.path / name, staging / name)
        same[name] = digest
    for path in manifest.tower_paths(bundle.path).values():
        model = saved_model_edits.read(path)
        saved_model_edits.state_version(model, version, path)
        target = staging / path.relative_to(bundle.path)
        target.mkdir(parents=True, exist_ok=True)
        saved_model_edits.write(target, model)
    return same


def _link(source: Path, target: Path) -> None:
    """Gives a file of a version a second name, or copies it; never over another file, never what a link points to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:  # no hard links there
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
            with open(descriptor, "rb") as read, target.open("xb") as written:
                shutil.copyfileobj(read, written, 1 << 20)
    except FileExistsError:
        raise ArtifactError(f"{target}: exists already, and is never overwritten; remove it") from None


def derive_document(bundle: Bundle, version: int, origin: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Returns the manifest's content: that of the other version with number, time and other changes."""
    content = {
        **bundle.manifest,
        "version": version,
        "created": format_now(),
        "origin": {**origin, "version": bundle.version},
        "libraries": manifest.list_libraries(),
        **changes,
    }
    del content["files"]
    return content
