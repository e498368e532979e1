"""Reads the values of a feature's column, of users as of their queries and of items, for slices and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf import ragged
from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import Input, SideName
from twotower_tf.features.column_encoder import encode_dictionary
from twotower_tf.features.inputs import side_inputs, split_texts
from twotower_tf.prepare.prepared import Prepared

MOST_NUMBERS = 10  # distinct numbers that stay apart; more are divided into quarters

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FeatureValues:
    """The values of one column: pairs of row and value, none for a missing value, several of a row with tags.

    Attributes:
        column: source column of the feature.
        side: whose rows they are.
        names: the distinct values; numbers ascending.
        rows: [num_pairs] int64 query rows (users) or item rows, ascending.
        codes: [num_pairs] int64, place in `names`; of a row in the text's order.
        size: number of rows.
        ordered: whether the order of `names` means something, as that of numbers does.
    """

    column: str
    side: SideName
    names: list[str]
    rows: Ints
    codes: Ints
    size: int
    ordered: bool = False


def list_columns(config: ExperimentConfig, side: SideName) -> list[Input]:
    """Lists a side's source columns with values of their own: neither histories nor the event's time."""
    return [each for each in side_inputs(config, side) if each.is_column]


def read_user_values(prepared: Prepared, column: Input, split: str, rows: Ints) -> FeatureValues:
    """Reads a column of the users of a split's `rows` [num_queries], as of these events."""
    name = f"user.{column.name}"
    return encode_values(column, "user", prepared.read_rows(split, [name], rows).column(0))


def read_item_values(prepared: Prepared, column: Input) -> FeatureValues:
    """Reads a column of the catalogue, as of the preparation."""
    return encode_values(column, "item", prepared.items([column.name]).column(0))


def encode_values(column: Input, side: SideName, values: pa.ChunkedArray) -> FeatureValues:
    """Encodes raw values [num_rows]: texts, texts joined by the column's separator, or numbers."""
    if column.kind == "number":
        return _encode_numbers(column, side, np.asarray(values.to_numpy(), np.float64))
    codes, dictionary = encode_dictionary(values)
    texts = [text or "" for text in dictionary.to_pylist()]
    parts = [split_texts(text, column.separator) if column.separator else [text] * bool(text) for text in texts]
    names = list(dict.fromkeys(part for each in parts for part in each))
    place = {name: code for code, name in enumerate(names)}
    own = [[*dict.fromkeys(place[part] for part in each)] for each in parts]
    sizes = np.array([*map(len, own)], np.int64)
    flat = np.array([code for each in own for code in each], np.int64)
    starts, counts = ragged.to_offsets(sizes)[codes], sizes[codes]
    places = ragged.to_places(starts, counts)
    return FeatureValues(column.name, side, names, ragged.to_rows(counts), flat[places], len(codes))


def _encode_numbers(column: Input, side: SideName, numbers: npt.NDArray[np.float64]) -> FeatureValues:
    rows = np.flatnonzero(np.isfinite(numbers))
    known = numbers[rows]
    distinct, codes = np.unique(known, return_inverse=True)
    names = [f"{number:g}" for number in distinct]
    if len(distinct) > MOST_NUMBERS:
        codes = np.searchsorted(np.unique(np.quantile(known, (0.25, 0.5, 0.75))), known)  # up to and with an edge
        spans = [known[codes == code] for code in range(int(codes.max()) + 1)]
        names = [f"{span.min():g} to {span.max():g}" if len(span) else "" for span in spans]
    return FeatureValues(column.name, side, names, rows, codes.astype(np.int64), len(numbers), ordered=True)
