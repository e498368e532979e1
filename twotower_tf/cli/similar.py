"""Finds the items most similar to an item, from a bundle: a JSON object per item, and a table on a terminal."""

from __future__ import annotations

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("export_dir", "item")


def define(flags: Flags) -> None:
    options.add_export_dir(flags)
    flags.multi_string("item", [], "an item's id, or else its name")
    options.add_top_k(flags)
    options.add_item_filters(flags)
    options.add_names(flags)
    options.add_version(flags)


def run(flags: Flags) -> None:
    """Prints the most similar items of each item."""
    options.check_k(flags)
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.cli.recommend import print_answers
    from twotower_tf.retrieval.recommender import Recommender

    bundle = Bundle.open(flags.export_dir, flags.version)
    recommender = Recommender(bundle, blocklist=flags.blocklist, max_k=flags.max_k)
    answers = (recommender.similar(item, flags.k, flags.filter, names=flags.names) for item in flags.item)
    print_answers(bundle, answers)
