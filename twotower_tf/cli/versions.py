"""Lists the versions of an export directory, oldest first, with their origin and evaluation metrics."""

from __future__ import annotations

import sys
from typing import Any

from twotower_tf import artifacts
from twotower_tf.cli import options
from twotower_tf.cli.command import Flags
from twotower_tf.errors import ArtifactError

REQUIRED = ("export_dir",)
_SHOWN = ("recall@20", "ndcg@20")


def define(flags: Flags) -> None:
    options.add_export_dir(flags)


def run(flags: Flags) -> None:
    """Prints a table on a terminal, a JSON object per version otherwise, and the versions' warnings."""
    from twotower_tf.bundle.bundle import Bundle, list_versions
    from twotower_tf.cli import result_texts

    known = list_versions(flags.export_dir)
    if not known:
        raise ArtifactError(f"{flags.export_dir}: no twotower bundle found; run twotower export to publish one")
    summaries = [_summary(Bundle.open(flags.export_dir, version, check="light").manifest) for version in known]
    if sys.stdout.isatty():
        _print_table(summaries)
    else:
        for summary in summaries:
            print(artifacts.format_json(summary))
    for summary in summaries:
        result_texts.print_warnings(summary["warnings"], f"version {summary['version']}: ")


def _print_table(summaries: list[dict[str, Any]]) -> None:
    from twotower_tf.cli import text_table

    shown = [name for name in _SHOWN if any(name in summary["metrics"] for summary in summaries)]
    rows = [
        [
            str(summary["version"]),
            summary["created"],
            summary["origin"],
            f"{summary['items']:,}",
            summary["index"],
            *(f"{summary['metrics'][name]:.4f}" if name in summary["metrics"] else "" for name in shown),
        ]
        for summary in summaries
    ]
    header = ["version", "created", "origin", "items", "index", *shown]
    print(text_table.format_table(header, rows, right=(3, *range(5, len(header)))))


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    evaluation = manifest.get("evaluation") or {}
    return {
        "version": manifest["version"],
        "created": manifest["created"],
        "origin": " of ".join(str(manifest["origin"][key]) for key in ("kind", "version") if key in manifest["origin"]),
        "items": manifest["items"],
        "index": manifest["index"]["kind"],
        "metrics": evaluation.get("metrics", {}),
        "warnings": evaluation.get("warnings", []),
    }
