"""`recommend` and `similar`: what may be answered, from the command line."""

import json

import pytest

from twotower_tf.cli.main import main
from twotower_tf.index.bundle import Bundle


@pytest.fixture
def asked(export_dir, capsys):
    """Runs a command and returns its status, its JSON lines, and what it says of errors."""

    def ask(command, *flags):
        status = main([command, f"--export_dir={export_dir}", *flags])
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines()], err

    return ask


def test_filter_blocklist_and_exclusions(asked, export_dir, tmp_path):
    items = Bundle.open(export_dir).items.to_pylist()
    cheap = [item["item_id"] for item in items if item["price"] is not None and item["price"] < 20]
    assert 10 < len(cheap) < 140
    (tmp_path / "gone.txt").write_text(cheap[1])
    status, (answer,), _ = asked(
        "recommend", "--user={}", "--k=150", "--filter=price < 20", f"--blocklist={tmp_path / 'gone.txt'}",
        f"--exclude={cheap[0]}",
    )  # fmt: skip
    assert status == 0
    assert set(answer["item_ids"]) == set(cheap[2:])
    status, (answer,), _ = asked("similar", f"--item={cheap[5]}", "--k=150", "--filter=price < 20")
    assert status == 0
    assert set(answer["item_ids"]) == set(cheap) - {cheap[5]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--filter=prise < 20"], "twotower recommend: filter: unknown column 'prise'; did you mean 'price'? known: "),
        (["--filter=price <"], "twotower recommend: filter: 'price <' is no SQL expression: syntax error at or near"),
        (["--blocklist=/nowhere/at/all.txt"], "twotower recommend: blocklist /nowhere/at/all.txt: no such file\n"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(asked, flags, message):
    status, _, error = asked("recommend", "--user={}", *flags)
    assert status == 2
    assert message in error and error.count("\n") == 1
