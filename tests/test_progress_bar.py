"""Progress as text: what a log file gets, and what a terminal gets."""

import io

import pytest

from twotower_tf import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test advances."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_bar.time, "monotonic", clock)
    return clock


def test_lines_come_every_ten_seconds_and_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_bar.shown(stream) as show:
        for done in range(0, 31):
            show("train", done, 30)
            clock.now += 1.0
    assert stream.getvalue().splitlines() == [
        "train: 10 of 30 (33%), 10.0 s, 1/s, 20 s left",
        "train: 20 of 30 (67%), 20.0 s, 1/s, 10 s left",
        "train: 30 of 30 (100%), 30.0 s",
    ]


def test_each_stage_has_its_own_clock(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_bar.shown(stream) as show:
        show("prepare", 0, 2)
        clock.now += 3.0
        show("prepare", 2, 2)
        show("encode", 0, 1500)
        clock.now += 4.0
        show("encode", 1500, 1500)
    assert stream.getvalue().splitlines() == [
        "prepare: 2 of 2 (100%), 3.0 s",
        "encode: 1,500 of 1,500 (100%), 4.0 s",
    ]


def test_an_unknown_total_shows_the_count(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_bar.shown(stream) as show:
        show("read", 0, 0)
        clock.now += 11.0
        show("read", 1234, 0)
    assert stream.getvalue() == "read: 1,234, 11.0 s, 112/s\n"


def test_slow_units_have_no_rate(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_bar.shown(stream) as show:
        show("export", 0, 6)
        clock.now += 40.0
        show("export", 2, 6)
    assert stream.getvalue() == "export: 2 of 6 (33%), 40.0 s, 80 s left\n"


def test_what_was_done_before_is_no_part_of_the_rate(clock: Clock) -> None:
    stream = io.StringIO()
    with progress_bar.shown(stream, note=lambda: "1.20 GB per worker") as show:
        show("score", 1_000_000, 3_000_000)
        clock.now += 10.0
        show("score", 2_000_000, 3_000_000)
    assert stream.getvalue() == (
        "score: 2,000,000 of 3,000,000 (67%), 10.0 s, 100,000/s, 10 s left, 1.20 GB per worker\n"
    )


def test_a_terminal_gets_one_bar_per_stage() -> None:
    stream = Terminal()
    with progress_bar.shown(stream) as show:
        show("prepare", 0, 4)
        show("prepare", 4, 4)
        show("train", 0, 10)
        show("train", 5, 10)
    bars = [line for line in stream.getvalue().split("\n") if line.strip()]
    assert [bar.split("\r")[-1].split(":")[0] for bar in bars] == ["prepare", "train"]
    assert "100%" in bars[0] and " 50%" in bars[1]
