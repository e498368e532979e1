"""Texts from outside reach the terminal without what steers it, on both streams."""

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf import progress_bar
from twotower_tf.cli import terminal
from twotower_tf.cli.main import main


def test_an_error_shows_what_it_names_and_does_not_obey_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"--run_dir={tmp_path}/\x1b[31mred\x9b2J\r\u202egpj"]) == 2
    err = capsys.readouterr().err
    assert "\\u001b[31mred\\u009b2J\\u000d\\u202egpj" in err
    assert not set(err) & set("\x1b\x9b\r\u202e") and err.count("\n") == 1


def test_columns_of_a_table_are_shown_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {
        "user_id": [f"u{n % 9}" for n in range(90)],
        "item_id": [f"i{n % 7}" for n in range(90)],
        "a\x1b]0;title\x07": ["x", "y", "z"] * 30,
    }
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    main(["init", f"--events={tmp_path}/events.parquet", f"--output={tmp_path}/c.py"])
    captured = capsys.readouterr()
    assert "\\u001b]0;title\\u0007" in captured.out + captured.err
    assert "\x1b" not in captured.out + captured.err


def test_lines_of_json_are_the_same_values(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"item_ids": ["\x1b[1m", "\x85", "\u2067x", "ü"]}
    with terminal.escaping():
        print(json.dumps(value, ensure_ascii=False))
        print("bad \x1b", file=sys.stderr)
    out, err = capsys.readouterr()
    assert json.loads(out) == value and "ü" in out and not set(out) & set("\x1b\x85\u2067")
    assert err == "bad \\u001b\n"


def test_a_progress_bar_still_moves_back() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    escaping = terminal.Escaping(stream)
    with progress_bar.shown(escaping) as show:  # type: ignore[arg-type]
        show("prepare", 1, 2)
        show("prepare", 2, 2)
    assert "\r" in stream.getvalue() and "\\u000d" not in stream.getvalue()
