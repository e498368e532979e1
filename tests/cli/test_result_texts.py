"""The texts that commands print about a stage's result."""

from pathlib import Path
from typing import Any

import pytest

from twotower_tf.cli.result_texts import format_metrics, format_rows, print_warnings
from twotower_tf.stage_results import EvaluateResult, PrepareResult

SPLITS = {
    "train": {"rows": 1200, "positives": 90},
    "valid": {"rows": 30, "positives": 3},
    "test": {"rows": 4, "positives": 1},
}


def shown(manifest: dict[str, Any]) -> str:
    return format_rows(PrepareResult.read(Path("run"), manifest, skipped=False))


def test_metrics_with_intervals_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        "split": "test",
        "users": 1500,
        "metrics": {"recall@20": 0.25, "mrr@20": 0.125},
        "intervals": {"recall@20": [0.2, 0.3]},
        "baselines": {
            "popularity": {"recall@20": 0.1, "mrr@20": 0.0},
            "recent_popularity": {"recall@20": 0.15, "mrr@20": 0.05},
            "item_knn": {"recall@20": 0.2, "mrr@20": 0.1},
        },
        "warnings": [{"name": "few", "text": "too few"}],
    }
    result = EvaluateResult.read(Path("run"), figures, skipped=False)
    assert format_metrics(result).splitlines() == [
        "test split, 1,500 users",
        "metric      model     95 % interval  popularity  recent popularity  item-KNN",
        "---------  ------  ----------------  ----------  -----------------  --------",
        "recall@20  0.2500  0.2000 to 0.3000      0.1000             0.1500    0.2000",
        "mrr@20     0.1250                        0.0000             0.0500    0.1000",
    ]
    print_warnings(result.warnings)
    assert capsys.readouterr() == ("", "warning: too few [few]\n")


def test_all_rows_used() -> None:
    rows = {"read": 1234, "used": 1234, "excluded": {}, "quarantined": 0}
    manifest = {"rows": rows, "tables": {}, "splits": SPLITS, "items": 5000, "users": 7}
    assert shown(manifest) == ("rows: 1,234 read, 1,234 used\ntrain 1,200, valid 30, test 4; 5,000 items, 7 users")


def test_rows_that_were_not_used_and_tables_with_older_rows() -> None:
    rows = {
        "read": 5000,
        "used": 1234,
        "excluded": {"exclude": 3000, "outside the days of data.split": 700},
        "quarantined": 66,
    }
    tables = {
        "items": {"read": 9000, "used": 5000, "duplicates": 4000, "quarantined": 0},
        "users": {"read": 7, "used": 7, "duplicates": 0, "quarantined": 0},
    }
    manifest = {"rows": rows, "tables": tables, "splits": SPLITS, "items": 5000, "users": 7}
    assert shown(manifest) == (
        "rows: 5,000 read, 1,234 used, not used: 3,000 excluded by data.exclude, "
        "700 outside the days of data.split, 66 quarantined (prepared/quarantine.jsonl)\n"
        "items: 9,000 read, 4,000 older rows with the same id dropped\n"
        "train 1,200, valid 30, test 4; 5,000 items, 7 users"
    )
