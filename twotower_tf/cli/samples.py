"""Measures what the negative samplers draw from a prepared run: prints statistics and writes RUN_DIR/samples.html.

For each kind of negative: the share of empty draws (the sampler has no candidate, or the item is a positive of the
user), the popularity of the items compared with the positives, the share of cold items, and, if the run has a trained
model, the cosine of items and users. --config or --set select other samplers than those of RUN_DIR/config.json, which
is not changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("run_dir",)


def define(flags: Flags) -> None:
    options.add_run_dir(flags)
    options.add_config(flags, "configuration file (default: RUN_DIR/config.json)")


def run(flags: Flags) -> None:
    """Draws samples, and prints a table of statistics."""
    from twotower_tf import run_lock, run_stages
    from twotower_tf.report import samples_page

    run_dir = Path(flags.run_dir)
    with run_lock.read_run(run_dir):
        recorded, config = run_stages.read_configs(run_dir, flags.config, flags.set)
        print(format_samples(samples_page.write_samples(config, recorded, run_dir)))
    print(f"\n{run_dir / 'samples.html'}")


def format_samples(document: dict[str, Any]) -> str:
    """Formats a table with a line per kind; popularity is the median of the items' training positives."""
    from twotower_tf.cli import text_table
    from twotower_tf.number_texts import format_percent

    def format_number(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:,.{digits}f}"

    rows = [
        [
            name,
            f"{kind['draws']:,}",
            format_number(kind["missing_share"]),
            format_number(kind["cold_share"]),
            format_number(kind["popularity_50"], 0),
            format_number(kind.get("cosine_mean")),
        ]
        for name, kind in document["kinds"].items()
    ]
    headings = ["kind", "draws", "empty", "cold items", "popularity", "mean cosine"]
    lines = [text_table.format_table(headings, rows, right=range(1, 6))]
    if document["masked_share"] is not None:
        masked = format_percent(document["masked_share"])
        lines.append(f"shared candidates masked as accidental hits (positives of the user): {masked}")
    return "\n".join(lines)
