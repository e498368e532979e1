"""Tables that people read: aligned whatever the script."""

from twotower_tf.cli import text_table


def test_columns_are_aligned() -> None:
    assert text_table.format_table(
        ["", "item", "score"], [["1", "i7", "0.5"], ["10", "i123", "-0.25"]], right=(0, 2)
    ) == ("    item  score\n--  ----  -----\n 1  i7      0.5\n10  i123  -0.25")


def test_wide_characters_take_two_columns() -> None:
    lines = text_table.format_table(["name", "n"], [["広告", "1"], ["añ", "2"], ["an\u0303", "3"]]).splitlines()
    assert lines[2:] == ["広告  1", "añ    2", "an\u0303    3"]


def test_long_cells_are_cut_and_line_breaks_are_blanks() -> None:
    assert text_table.format_table(["t"], [["a" * 50], ["b\nc"]], most=5).splitlines()[2:] == ["aaaa…", "b c"]
