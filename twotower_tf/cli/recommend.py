"""Recommends items to one or more users, from a bundle: a JSON object per user, and a table on a terminal.

A user is a JSON object of feature values; an absent feature has no value:
    twotower recommend --export_dir=export/quickstart --user='{"country": "DE", "history": ["i00003"]}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twotower_tf import artifacts
from twotower_tf.cli import options
from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError

if TYPE_CHECKING:
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.retrieval.item_names import ItemNames

REQUIRED = ("export_dir", "user")
_SHOWN = 100  # characters of a value shown in an error
_MAX_DEPTH = 10  # levels of a user's JSON; features have two


def define(flags: Flags) -> None:
    options.add_export_dir(flags)
    flags.multi_string("user", [], "a user as a JSON object")
    options.add_top_k(flags)
    flags.multi_string("exclude", [], "id of an item to exclude")
    options.add_item_filters(flags)
    options.add_names(flags)
    flags.bool(
        "probability", False, "add click probabilities; needs CosineLogitBCE() trained with Labelled() negatives alone"
    )
    options.add_version(flags)


def run(flags: Flags) -> None:
    """Prints the recommendations of each user."""
    options.check_k(flags)
    users = [_parse_user(text) for text in flags.user]

    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.retrieval.recommender import Recommender

    bundle = Bundle.open(flags.export_dir, flags.version)
    exclude = [list(flags.exclude)] * len(users) if flags.exclude else None
    recommender = Recommender(bundle, blocklist=flags.blocklist, max_k=flags.max_k)
    answers = recommender.recommend(
        users, flags.k, exclude, flags.filter, names=flags.names, probability=flags.probability
    )
    print_answers(bundle, answers)


def print_answers(bundle: Bundle, answers: Iterable[dict[str, Any]]) -> None:
    """Prints a JSON object per answer, on a terminal followed by its table."""
    from twotower_tf.retrieval.item_names import ItemNames

    names = ItemNames(bundle)
    for answer in answers:
        print(artifacts.format_json(answer))
        if sys.stdout.isatty():
            print(format_answer(names, answer))


def format_answer(names: ItemNames, answer: dict[str, Any]) -> str:
    """Formats an answer as a table of rank, item, name and score."""
    from twotower_tf.cli import text_table

    columns = zip(answer["item_ids"], names.of_ids(answer["item_ids"]), answer["scores"], strict=True)
    rows = [[str(rank), item, name, f"{score:.4f}"] for rank, (item, name, score) in enumerate(columns, 1)]
    return text_table.format_table(["", "item", "name", "score"], rows, right=(0, 3))


def _parse_user(text: str) -> dict[str, Any]:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    example = """write e.g. --user='{"user_id": "u1"}'"""
    try:
        user = json.loads(text, parse_constant=_reject_constant)
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


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
