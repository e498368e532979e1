"""The operator's blocklist and a request's filter, and both together, while the file changes."""

import logging
import os

import numpy as np
import pyarrow as pa
import pytest

from twotower_tf.errors import DataError
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.retrieval.blocklist import Blocklist
from twotower_tf.retrieval.item_filter import ItemFilter

IDS = ["a", "b c", "ü", "# d", "e"]


@pytest.fixture
def items():
    return ItemVectors(IDS, np.eye(5, dtype=np.float32))


def test_a_list_acts_as_soon_as_it_is_written(tmp_path, items):
    path = tmp_path / "blocklist.txt"
    blocked = Blocklist(path, items)
    assert blocked.rows.tolist() == [] and not blocked.refresh()
    path.write_bytes("ü\r\nb c\n\nof another version\nü\n".encode())
    assert blocked.refresh()
    assert (blocked.rows.tolist(), blocked.strangers) == ([1, 2], 1)
    assert not blocked.refresh()
    path.write_text("# a comment\n# d\ne")
    assert blocked.refresh() and blocked.rows.tolist() == [3, 4]
    path.write_bytes(b"\xef\xbb\xbfa\r\n")  # as an editor on Windows writes it
    assert blocked.refresh() and (blocked.rows.tolist(), blocked.strangers) == ([0], 0)
    path.write_text("")
    assert blocked.refresh() and blocked.rows.tolist() == []


def test_ids_in_another_form_than_the_log_s_are_found(tmp_path):
    path = tmp_path / "blocklist.txt"
    path.write_text("3\n4.0\nx\n5.5\n")
    items = ItemVectors(["3.0", "4.0", "5.0"], np.eye(3, dtype=np.float32))
    blocked = ItemFilter(lambda: pa.table({}), items, path, "3.0").blocklist
    assert (blocked.rows.tolist(), blocked.strangers) == ([0, 1], 2)
    assert Blocklist(path, items).rows.tolist() == [1]


def test_a_list_replaced_by_rename_within_the_same_second_is_seen(tmp_path, items):
    path = tmp_path / "blocklist.txt"
    path.write_text("a\n")
    stamp = path.stat()
    blocked = Blocklist(path, items)
    (tmp_path / "next").write_text("e\n")
    os.utime(tmp_path / "next", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    os.replace(tmp_path / "next", path)
    assert blocked.refresh() and blocked.rows.tolist() == [4]


def test_what_was_blocked_stays_blocked_when_the_file_breaks(tmp_path, items, caplog):
    path = tmp_path / "blocklist.txt"
    path.write_text("a\n")
    blocked = Blocklist(path, items)
    path.write_bytes(b"\xff\xfe\n")
    with caplog.at_level(logging.ERROR):
        assert not blocked.refresh() and not blocked.refresh()
    assert blocked.rows.tolist() == [0]
    assert len(caplog.records) == 1  # logged once
    assert (
        "a blocklist is UTF-8 text, one item id a line; the list read before, of 1 items, stays in force" in caplog.text
    )
    path.write_text("e\n")
    assert blocked.refresh() and blocked.rows.tolist() == [4]


def test_a_list_that_vanishes_stays_in_force_and_is_logged_once(tmp_path, items, caplog):
    path = tmp_path / "blocklist.txt"
    path.write_text("a\ne\n")
    blocked = Blocklist(path, items)
    os.rename(path, tmp_path / "aside")
    for _ in range(3):
        assert not blocked.refresh()
    assert blocked.rows.tolist() == [0, 4]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"{path}: no such file any more; an empty file unblocks all items; the list read before, of 2 items, "
        "stays in force"
    )
    os.rename(tmp_path / "aside", path)  # with the times it had
    assert not blocked.refresh() or blocked.rows.tolist() == [0, 4]
    path.unlink()
    assert not blocked.refresh() and not blocked.refresh()
    assert blocked.rows.tolist() == [0, 4] and len([each for each in caplog.records if each.levelno > 20]) == 2
    path.write_text("b c\n")
    assert blocked.refresh() and blocked.rows.tolist() == [1]


def test_each_change_to_something_unreadable_is_logged_once(tmp_path, items, caplog):
    path = tmp_path / "blocklist.txt"
    path.write_text("a\n")
    blocked = Blocklist(path, items)
    for content in (b"\xff one", b"\xff another"):
        path.write_bytes(content)
        assert not blocked.refresh() and not blocked.refresh() and blocked.rows.tolist() == [0]
    path.unlink()
    path.mkdir()
    assert not blocked.refresh() and not blocked.refresh() and blocked.rows.tolist() == [0]
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for a writer
    assert not blocked.refresh() and not blocked.refresh() and blocked.rows.tolist() == [0]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and all("of 1 items, stays in force" in line for line in said)
    assert "UTF-8" in said[0] and "UTF-8" in said[1] and "cannot be read: not a regular file" in said[2]


def test_where_there_never_was_a_list_nothing_is_said(tmp_path, items, caplog):
    blocked = Blocklist(tmp_path / "blocklist.txt", items)
    assert not blocked.refresh() and not blocked.refresh()
    assert blocked.rows.tolist() == [] and not caplog.records


def test_a_list_that_cannot_be_read_at_the_start_is_refused(tmp_path, items):
    (tmp_path / "blocklist.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"blocklist.txt: cannot be read: .* a blocklist is UTF-8 text, one item id a"):
        Blocklist(tmp_path / "blocklist.txt", items)


def test_filter_and_blocklist_together(tmp_path, items):
    catalogue = pa.table({"item_id": IDS, "shop": [1, 1, 2, 2, 2]})
    path = tmp_path / "blocklist.txt"
    gate = ItemFilter(lambda: catalogue, items, path)
    assert gate.allowed() is None
    second = gate.allowed("shop = 2")
    assert second.rows.tolist() == [2, 3, 4] and second.mask.tolist() == [False, False, True, True, True]
    assert gate.allowed("shop = 2") is second  # with the vectors it has gathered
    path.write_text("e\na\n")
    assert gate.allowed().rows.tolist() == [1, 2, 3]
    assert gate.allowed("shop = 2").rows.tolist() == [2, 3]
    assert gate.allowed("shop = 3").rows.tolist() == []
    path.unlink()
    assert gate.allowed().rows.tolist() == [1, 2, 3]  # a list that vanishes stays in force
    path.write_text("")
    assert gate.allowed() is None
    assert gate.allowed("shop = 2").rows.tolist() == [2, 3, 4]
    np.testing.assert_array_equal(second.vectors(items), np.eye(5, dtype=np.float32)[2:])


def test_the_catalogue_is_read_with_the_first_filter(tmp_path, items):
    reads = []

    def catalogue():
        reads.append(1)
        return pa.table({"item_id": IDS})

    gate = ItemFilter(catalogue, items, tmp_path / "blocklist.txt")
    (tmp_path / "blocklist.txt").write_text("a\n")
    assert gate.allowed().rows.tolist() == [1, 2, 3, 4] and not reads
    assert gate.allowed("item_id = 'e'").rows.tolist() == gate.allowed("item_id >= 'e' and item_id < 'f'").rows.tolist()
    assert reads == [1]


def test_a_wrong_filter_is_told(tmp_path, items):
    catalogue = pa.table({"item_id": IDS, "shop": [1, 1, 2, 2, 2]})
    gate = ItemFilter(lambda: catalogue, items, tmp_path / "blocklist.txt")
    with pytest.raises(DataError, match="filter: unknown column 'ship'; did you mean 'shop'?"):
        gate.allowed("ship = 2")
