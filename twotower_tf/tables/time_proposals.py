"""Proposes strptime formats for times that are not recognised without one: day or month first, names of months."""

from __future__ import annotations

import itertools
import re
from datetime import datetime, timezone

from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables.duckdb_engine import fetch_row

_FEW_ROWS, _ROWS = 100, 10_000  # on which all formats are tried, and those that are left
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%y", "%m/%d/%y",
         "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y")  # fmt: skip
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", ", %H:%M:%S", "T%H:%M:%S")
_WHOLE = (
    "%a, %d %b %Y %H:%M:%S %Z",  # RFC 2822
    "%a, %d %b %Y %H:%M:%S %z",
    "%a %b %d %H:%M:%S %z %Y",  # Twitter
    "%a %b %d %H:%M:%S %Y",  # C's asctime
    "%d/%b/%Y:%H:%M:%S %z",  # web servers' logs
    "%Y-%m-%d %H:%M:%S UTC",  # BigQuery
    "%Y-%m-%d %H:%M:%S.%f UTC",
    "%Y-%m-%d %I:%M:%S %p",
    "%Y-%m-%d %H:%M:%S %z",  # Shopify
    "%Y-%m-%d %H:%M:%S.%f %z",
)
FORMATS = (*(day + clock for day, clock in itertools.product(_DAYS, _CLOCKS)), *_WHOLE)


def propose_formats(connection: Connection, relation: str, text: str) -> list[str]:
    """Returns the formats that read every `text` in the first rows; several where day and month are ambiguous."""
    first, last = (datetime(year, 1, 1, tzinfo=timezone.utc).timestamp() for year in (1900, 2200))
    some = connection.execute(f"SELECT {text} FROM {relation} WHERE rowid < {_FEW_ROWS} AND {text} <> ''").fetchall()
    texts = {str(each) for (each,) in some}
    fit, values = [form for form in FORMATS if all(_may_fit(form, each) for each in texts)], 0
    for rows in (_FEW_ROWS, _ROWS) if fit else ():
        read = (
            f"count(*) FILTER (epoch(try_strptime({text}, {quote_literal(form)})) BETWEEN {first} AND {last})"
            for form in fit
        )
        query = f"SELECT count(*) FILTER ({text} <> ''), {', '.join(read)} FROM {relation} WHERE rowid < {rows}"
        values, *counts = fetch_row(connection, query)
        if values:  # the first rows may have none
            fit = [form for form, count in zip(fit, counts, strict=True) if count == values]
        if not fit:
            break
    return fit if values else []


def _may_fit(form: str, text: str) -> bool:
    """Tests whether a text has what a format needs at least: a query of all formats takes a second of planning."""
    marks = set(re.sub("%.| ", "", form).lower())
    named = re.search("%[abBpZ]", form) is not None
    return marks <= set(text.lower()) and any(map(str.isdigit, text)) and (not named or any(map(str.isalpha, text)))
