"""Finds the items most similar to an item, from a bundle: a JSON object per item, and a table on a terminal."""

from __future__ import annotations

import sys

from absl import flags
from absl.flags import FlagValues

from twotower_tf import artifacts
from twotower_tf.cli import options

REQUIRED = ("export_dir", "item")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    flags.DEFINE_multi_string("item", [], "an item's id, or else its name", flag_values=values)
    options.top_k(values)
    options.item_filters(values)
    options.names(values)
    options.version(values)


def run(values: FlagValues) -> None:
    """Prints the most similar items of each item."""
    options.check_k(values)
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.cli.recommend import listing
    from twotower_tf.retrieval.recommender import Recommender

    bundle = Bundle.open(values.export_dir, values.version)
    recommender = Recommender(bundle, blocklist=values.blocklist, max_k=values.max_k)
    for item in values.item:
        answer = recommender.similar(item, values.k, values.filter, names=values.names)
        print(artifacts.format_json(answer))
        if sys.stdout.isatty():
            print(listing(bundle, answer))
