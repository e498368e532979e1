"""Makes an earlier version the newest again.

A server serves the largest number, and a client may have pinned any: so the earlier version comes back under a new
number, with its files and answers, and nothing is removed.
"""

from __future__ import annotations

from pathlib import Path

from twotower_tf import artifacts
from twotower_tf.bundle import derived_version, export_root, manifest
from twotower_tf.bundle.bundle import Bundle, list_versions
from twotower_tf.bundle.verify_staging import verify_staging
from twotower_tf.errors import ArtifactError


def rollback(export_dir: Path, to: int, *, version: int | None = None, keep: int = 0) -> Path:
    """Publishes an earlier version's content as a new version, by one rename.

    Args:
        export_dir: the export root.
        to: the earlier version.
        version: the new one; by default the UTC time, larger than the newest there.
        keep: versions kept, the new one among them; 0 keeps all.

    Returns:
        The new version's directory.

    Raises:
        ArtifactError: if the version does not exist, is damaged, or is the newest already.
        ConfigError: for an unusable `version`.
    """
    export_dir = Path(export_dir)
    with export_root.lock_root(export_dir):
        bundle = Bundle.open(export_dir, to)
        if to == list_versions(export_dir)[-1]:
            raise ArtifactError(f"{bundle.path}: is the newest version already; nothing to roll back")
        number = export_root.choose_newest(export_dir, version)
        path = export_dir / str(number)
        with artifacts.atomic_directory(path) as staging:
            same = derived_version.inherit(bundle, staging, number)
            manifest.write(staging, derived_version.derive_document(bundle, number, {"kind": "rollback"}), same)
            verify_staging(staging)
        export_root.remove_old(export_dir, keep, number)
    return path
