"""Recommends items to one or more users, from a bundle: a JSON object per user, and a table on a terminal.

A user is a JSON object of feature values; an absent feature has no value:
    twotower recommend --export_dir=export/quickstart --user='{"user_id": "u1", "history": ["i7", "i3"]}'
"""

from __future__ import annotations

import json
import sys
from typing import Any

from absl import flags
from absl.flags import FlagValues

from twotower_tf import artifacts
from twotower_tf.cli import options
from twotower_tf.errors import ConfigError

REQUIRED = ("export_dir", "user")
_SHOWN = 100  # characters of a value shown in an error
_MAX_DEPTH = 10  # levels of a user's JSON; features have two


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    flags.DEFINE_multi_string("user", [], "a user as a JSON object", flag_values=values)
    options.top_k(values)
    flags.DEFINE_multi_string("exclude", [], "id of an item to exclude", flag_values=values)
    options.item_filters(values)
    options.names(values)
    flags.DEFINE_bool(
        "probability",
        False,
        "add click probabilities; needs CosineLogitBCE() trained with Labelled() negatives alone",
        flag_values=values,
    )
    options.version(values)


def run(values: FlagValues) -> None:
    """Prints the recommendations of each user."""
    options.check_k(values)
    users = [_user(text) for text in values.user]

    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.retrieval.recommender import Recommender

    bundle = Bundle.open(values.export_dir, values.version)
    exclude = [list(values.exclude)] * len(users) if values.exclude else None
    recommender = Recommender(bundle, blocklist=values.blocklist, max_k=values.max_k)
    answers = recommender.recommend(
        users, values.k, exclude, values.filter, names=values.names, probability=values.probability
    )
    for answer in answers:
        print(artifacts.format_json(answer))
        if sys.stdout.isatty():
            print(listing(bundle, answer))


def listing(bundle: Any, answer: dict[str, Any]) -> str:
    """Formats an answer as a table of rank, item, name and score."""
    from twotower_tf.cli import text_table

    rows = [
        [str(rank), item, name, f"{score:.4f}"]
        for rank, (item, name, score) in enumerate(
            zip(answer["item_ids"], names(bundle, answer["item_ids"]), answer["scores"], strict=True), start=1
        )
    ]
    return text_table.text(["", "item", "name", "score"], rows, right=(0, 3))


def names(bundle: Any, item_ids: list[str]) -> list[str]:
    """Looks up the names of items in the bundle's catalogue."""
    import pyarrow.compute as pc

    catalogue = bundle.items
    wanted = catalogue.filter(pc.is_in(catalogue["item_id"], value_set=_texts(item_ids)))
    known = dict(zip(wanted["item_id"].to_pylist(), wanted["item_name"].to_pylist(), strict=True))
    return [str(known[item]) for item in item_ids]


def _texts(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def _user(text: str) -> dict[str, Any]:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    example = """write e.g. --user='{"user_id": "u1"}'"""
    try:
        user = json.loads(text, parse_constant=_not_json)
        deep = _is_deeper(user, _MAX_DEPTH)
    except ValueError as error:
        raise ConfigError(f"--user: not JSON ({error}): {shown}; {example}") from None
    except RecursionError:
        deep = True
    if deep:
        raise ConfigError(f"--user: nested too deeply (expected at most {_MAX_DEPTH} levels): {shown}; {example}")
    if not isinstance(user, dict):
        raise ConfigError(f"--user: invalid value {shown} (expected a JSON object of feature values); {example}")
    return user


def _is_deeper(value: Any, levels: int) -> bool:
    """Returns whether lists and objects are nested more than `levels` deep."""
    current = [value]
    for _ in range(levels + 1):
        current = [
            inner
            for each in current
            if isinstance(each, list | dict)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(current)


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
