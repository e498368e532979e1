"""Rows are encoded while their columns are audited; an error of either ends both."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from twotower_tf.features import column_audit, encode_and_audit, encode_rows

SECONDS = 30  # that no test waits unless it fails


def test_the_error_of_the_encoding_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*args: Any) -> None:
        raise OSError("disk full")

    def audit(*args: Any, when_counted: Any, **limits: Any) -> None:
        when_counted()
        pytest.fail("values were hashed after the encoding had failed")

    monkeypatch.setattr(encode_rows, "encode", encode)
    monkeypatch.setattr(column_audit, "audit", audit)
    with pytest.raises(OSError, match="disk full"):
        encode_and_audit.encode_and_audit(None, None)  # type: ignore[arg-type]


def test_an_error_of_the_audit_stops_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, begun, stopped = threading.Event(), threading.Event(), threading.Event()

    def encode(config: Any, prepared: Any, progress: Any, threads: int) -> None:
        begun.set()
        assert failed.wait(SECONDS)
        for part in range(10**9):
            try:
                progress("encode", part, 10**9)
            except InterruptedError:
                stopped.set()
                raise

    def audit(*args: Any, **limits: Any) -> None:
        assert begun.wait(SECONDS)
        failed.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(encode_rows, "encode", encode)
    monkeypatch.setattr(column_audit, "audit", audit)
    with pytest.raises(KeyboardInterrupt):
        encode_and_audit.encode_and_audit(None, None)  # type: ignore[arg-type]
    assert stopped.is_set()


def test_progress_of_one_stage_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = threading.Event()

    def encode(config: Any, prepared: Any, progress: Any, threads: int) -> None:
        progress("encode", 1, 2)
        assert counted.wait(SECONDS)
        progress("encode", 2, 2)

    def audit(*args: Any, progress: Any, when_counted: Any, **limits: Any) -> None:
        progress("columns", 1, 3)
        counted.set()
        when_counted()
        progress("columns", 3, 3)

    monkeypatch.setattr(encode_rows, "encode", encode)
    monkeypatch.setattr(column_audit, "audit", audit)
    shown: list[tuple[str, int, int]] = []
    encode_and_audit.encode_and_audit(None, None, progress=lambda *done: shown.append(done))  # type: ignore[arg-type]
    assert shown == [("encode", 1, 2), ("encode", 2, 2), ("columns", 3, 3)]
