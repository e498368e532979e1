"""Shows what the samplers really draw, from a prepared run: prints figures and writes RUN_DIR/samples.html.

For each kind of negative: how many draws give none (the sampler has nothing, or the user likes the item), how popular
the items are beside the positives, how many are cold, and, where the run has a trained model, how near they are to the
row's user. --config or --set look at other samplers than those of RUN_DIR/config.json, which stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("run_dir",)


def define(values: FlagValues) -> None:
    """The command's flags."""
    options.run_dir(values)
    options.config(values, "configuration file; by default RUN_DIR/config.json")


def run(values: FlagValues) -> None:
    """Draws, and prints a table."""
    from twotower_tf import pipeline, run_lock
    from twotower_tf.report import samples_page

    run_dir = Path(values.run_dir)
    with run_lock.reading(run_dir):
        recorded, config = pipeline.asked(run_dir, values.config, values.set)
        print(told(samples_page.samples(config, recorded, run_dir)))
    print(f"\n{run_dir / 'samples.html'}")


def told(document: dict[str, Any]) -> str:
    """A line per kind; popularity is the median of the items' training positives."""
    from twotower_tf.cli import text_table

    def shown(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:,.{digits}f}"

    rows = [
        [
            name,
            f"{kind['draws']:,}",
            shown(kind["missing_share"]),
            shown(kind["cold_share"]),
            shown(kind["popularity_50"], 0),
            shown(kind.get("cosine_mean")),
        ]
        for name, kind in document["kinds"].items()
    ]
    headings = ["kind", "draws", "left out", "cold items", "popularity", "mean cosine"]
    lines = [text_table.text(headings, rows, right=range(1, 6))]
    if document["masked_share"] is not None:
        lines.append(
            f"left out of the batch's shared candidates as the user's own positives: {document['masked_share']:.2%}"
        )
    return "\n".join(lines)
