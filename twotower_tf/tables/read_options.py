"""Options of reading a table's files, from the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twotower_tf.config import DataConfig, TextFormat
from twotower_tf.config.data import ALIGNED

TableName = Literal["events", "items", "users"]


@dataclass(frozen=True)
class ReadOptions:
    r"""Describes how the files of a table are written.

    Attributes:
        columns: names of the columns of delimited files without a header line; () where the first line has them.
        text: format of delimited files.
        null_values: texts that mean a missing value; "" always does.
    """

    columns: tuple[str, ...] = ()
    text: TextFormat = TextFormat()
    null_values: tuple[str, ...] = ()

    @property
    def delimiter(self) -> str:
        """The field delimiter itself, of a converted file (see `text_encoding`); "" to detect it."""
        return "\t" if self.aligned else self.text.delimiter.replace("\\t", "\t")

    @property
    def aligned(self) -> bool:
        """Whether any number of blanks and tabs is one delimiter."""
        return self.text.delimiter == ALIGNED

    @property
    def quote(self) -> str:
        """The quote character; "" without quoting."""
        return self.text.quote

    @property
    def escape(self) -> str:
        """The character before a quote inside a quoted field: the quote itself where it is doubled."""
        return self.text.escape or self.text.quote


def read_options(data: DataConfig, table: TableName) -> ReadOptions:
    """Returns the options of one of the configuration's tables."""
    columns = {"events": data.columns, "items": data.item_columns, "users": data.user_columns}[table]
    own = {"events": None, "items": data.item_format, "users": data.user_format}[table]
    shared = TextFormat(
        delimiter=data.delimiter,
        quote=data.quote,
        escape=data.escape,
        encoding=data.encoding,
        decimal=data.decimal,
    )
    return ReadOptions(columns, own or shared, data.null_values)
