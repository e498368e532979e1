"""Results come in order, no more of them than asked for wait, and errors come where their item is due."""

import threading

import pytest

from twotower_tf.threads import map_ahead, read_ahead


def test_map_ahead_keeps_the_order_and_its_bound():
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    squares = map_ahead(lambda number: number * number, items(), 3)
    assert taken == []
    assert [next(squares) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert taken == list(range(8))  # five given out, three that wait
    assert list(squares) == [25, 36, 49, 64, 81, 100, 121, 144, 169, 196, 225, 256, 289, 324, 361]


def test_read_ahead_reads_in_another_thread_up_to_its_bound():
    read, readers = [], set()
    enough = threading.Event()

    def items():
        for number in range(6):
            read.append(number)
            readers.add(threading.get_ident())
            if number == 2:
                enough.set()
            yield number

    found = read_ahead(items(), 2)
    assert next(found) == 0
    assert enough.wait(10) and read == [0, 1, 2]
    assert list(found) == [1, 2, 3, 4, 5]
    assert threading.get_ident() not in readers


def test_an_error_is_raised_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise ValueError("third")

    found = read_ahead(items(), 4)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(found)
    divided = map_ahead(lambda number: 6 // number, [3, 2, 0, 1], 1)
    assert [next(divided), next(divided)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(divided)


def test_closing_ends_the_thread():
    before = threading.active_count()
    found = read_ahead(iter(range(100)), 2)
    assert next(found) == 0
    found.close()
    assert threading.active_count() == before
