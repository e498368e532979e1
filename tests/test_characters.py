"""What a terminal would obey is shown instead; what a line cannot hold is written out."""

import json

import pytest

from twotower_tf.characters import escape_controls, escape_line, split_ids


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ünïcödé 日本 🦉", "plain Ünïcödé 日本 🦉"),
        ("\x1b[2J\x07", "\\u001b[2J\\u0007"),
        ("a\rb\x7f", "a\\u000db\\u007f"),
        ("\x9b31m", "\\u009b31m"),
        ("abc\u202egpj.exe\u2069", "abc\\u202egpj.exe\\u2069"),
        ("half \udc80", "half \\udc80"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_escaped(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


def test_one_line_holds_one_cell() -> None:
    assert escape_line("a\tb\nc\rd") == "a\\u0009b\\u000ac\\u000dd"


def test_json_stays_the_same_value() -> None:
    value = {"name": '\x1b\x7f\x9b\u202e\u2028\n"quoted" \\'}
    assert json.loads(escape_controls(json.dumps(value, ensure_ascii=False))) == value


def test_ids_are_lines_as_any_editor_writes_them() -> None:
    assert split_ids(b"\xef\xbb\xbfa\r\n\nb c\n\xc3\xa9") == ["a", "b c", "\u00e9"]
    assert split_ids(b"") == []
    with pytest.raises(UnicodeDecodeError):
        split_ids(b"\xff")
