"""The synthetic log against its own truth, which is recomputed here with dense NumPy."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.datasets.synthetic_world import MISSING
from twotower_tf.errors import ConfigError, DataError

START = 1_736_121_600  # 2025-01-06 00:00 UTC


def read_events(root: Path) -> pd.DataFrame:
    files = sorted((root / "events").glob("dt=*/part-*"))
    read = pd.read_csv if files[0].suffix == ".csv" else pd.read_parquet
    events = pd.concat([read(file) for file in files], ignore_index=True)
    return events.sort_values("timestamp", kind="stable")


class Log:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.events = read_events(root)
        self.items = pd.read_csv(root / "items.csv")
        self.users = pd.read_csv(root / "users.csv")
        truth = np.load(root / "truth.npz")
        self.truth = {name: truth[name] for name in truth.files}
        self.events["u"] = self.events.user_id.map({key: row for row, key in enumerate(self.truth["user_id"])})
        self.events["i"] = self.events.item_id.map({key: row for row, key in enumerate(self.truth["item_id"])})
        self.preference = self.truth["user_vector"] @ self.truth["item_vector"].T + self.truth["item_bias"]


@pytest.fixture(scope="module")
def default_log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    root = tmp_path_factory.mktemp("synth") / "log"
    result = write_synthetic_log(root)
    log = Log(root)
    assert result["events"] == 200_000 and result["clicks"] == log.events.click.sum()
    return log


@pytest.fixture(scope="module")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    root = tmp_path_factory.mktemp("synth") / "small"
    write_synthetic_log(root, events=20_000, users=300, items=200, days=10, seed=5)
    return Log(root)


def test_the_files_are_the_documented_ones(default_log: Log) -> None:
    days = [path.name for path in sorted((default_log.root / "events").iterdir())]
    assert days == [f"dt=202501{day:02d}" for day in range(6, 20)]
    header = (default_log.root / "events/dt=20250106/part-00000.csv").read_text().splitlines()[0]
    assert header == "event_id,user_id,item_id,timestamp,click,device_type,placement"
    assert list(default_log.users) == ["user_id", "age", "gender", "country", "interests"]
    assert list(default_log.items) == ["item_id", "title", "category", "advertiser", "price", "created"]
    assert list(default_log.truth) == ["user_id", "user_vector", "item_id", "item_vector", "item_bias"]
    assert default_log.users.user_id[123] == default_log.truth["user_id"][123] == "u000123"
    assert default_log.items.item_id[42] == default_log.truth["item_id"][42] == "i00042"
    assert default_log.events.event_id.is_unique and default_log.items.title.is_unique
    assert any(not title.isascii() for title in default_log.items.title)


def test_every_row_lies_in_the_directory_of_its_day(small_log: Log) -> None:
    for directory in (small_log.root / "events").iterdir():
        times = pd.concat([pd.read_csv(file) for file in directory.iterdir()]).timestamp
        assert set(pd.to_datetime(times, unit="s").dt.strftime("dt=%Y%m%d")) == {directory.name}


def test_no_item_is_shown_before_it_is_created(default_log: Log) -> None:
    created = default_log.items.created.to_numpy()[default_log.events.i]
    assert (default_log.events.timestamp >= created).all()
    new = default_log.items.created > START
    assert new.sum() == 200  # a fifth of 1,000
    # New items are really shown, and clicked, after that.
    assert set(np.flatnonzero(new)) <= set(default_log.events.i)
    assert new.to_numpy()[default_log.events.i[default_log.events.click == 1]].mean() > 0.05


def test_nobody_clicks_an_item_twice(default_log: Log) -> None:
    assert not default_log.events[default_log.events.click == 1].duplicated(["u", "i"]).any()


def test_missing_values_have_the_stated_share(default_log: Log) -> None:
    for table in (default_log.users, default_log.items, default_log.events):
        for column in table:
            expected = MISSING.get(column, 0.0)
            spread = 4 * np.sqrt(expected * (1 - expected) / len(table))
            assert table[column].isna().mean() == pytest.approx(expected, abs=spread + 1e-12), column


def test_click_rate_follows_the_placement(default_log: Log) -> None:
    events = default_log.events
    assert events.click.mean() == pytest.approx(0.3, abs=0.01)
    rates = events.groupby("placement").click.mean()
    # Appeal 1.1, 1.3, .5, .9 with shares .5, .2, .2, .1: the mean appeal is 1.0.
    assert rates["top"] == pytest.approx(0.39, abs=0.01) and rates["sidebar"] == pytest.approx(0.15, abs=0.01)


def test_item_bias_is_the_log_of_a_zipf_popularity(default_log: Log) -> None:
    popularity = np.sort(np.exp(default_log.truth["item_bias"].astype(np.float64)))[::-1]
    assert popularity.sum() == pytest.approx(1.0, abs=1e-4)
    slope = np.diff(np.log(popularity)) / np.diff(np.log(np.arange(1, 1001)))
    np.testing.assert_allclose(slope, -0.65, atol=1e-2)


def test_impressions_without_a_click_follow_popularity(default_log: Log) -> None:
    last_day = default_log.events[default_log.events.timestamp >= START + 13 * 86_400]  # by then all items exist
    shown = np.bincount(last_day.i[last_day.click == 0], minlength=1000)
    expected = np.exp(default_log.truth["item_bias"].astype(np.float64)) * shown.sum()
    chi_square = ((shown - expected) ** 2 / expected).sum()
    assert abs(chi_square - 999) < 4 * np.sqrt(2 * 999)


@pytest.fixture(scope="module")
def dense_log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """As `small_log`, but every click by the sampler's last resort."""
    root = tmp_path_factory.mktemp("synth") / "dense"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twotower_tf.datasets.synthetic._REJECTION_PASSES", 0)
        write_synthetic_log(root, events=20_000, users=300, items=200, days=10, seed=5)
    return Log(root)


@pytest.mark.parametrize("name", ["small_log", "dense_log", "default_log"])
def test_clicks_are_drawn_from_the_softmax_of_the_true_preference(name: str, request: pytest.FixtureRequest) -> None:
    """Every click against its own distribution, recomputed densely: existing items, less the user's earlier clicks."""
    log: Log = request.getfixturevalue(name)
    created = log.items.created.to_numpy()
    residual, variance = np.zeros(3), np.zeros(3)
    count, expected, spread = (np.zeros(len(created)) for _ in range(3))
    for user, clicks in list(log.events[log.events.click == 1].groupby("u"))[:600]:
        allowed = np.ones(len(created), bool)
        # The preference itself, its square, and the bias alone: three moments that a wrong sampler would miss.
        preference, bias = log.preference[user].astype(np.float64), log.truth["item_bias"]
        moments = np.stack([preference, preference**2, bias])
        for item, time in zip(clicks.i, clicks.timestamp, strict=True):
            weight = np.where(allowed & (created <= time), np.exp(preference - preference.max()), 0.0)
            weight /= weight.sum()
            mean = moments @ weight
            residual += moments[:, item] - mean
            variance += (moments**2) @ weight - mean**2
            count[item] += 1
            expected += weight
            spread += weight * (1 - weight)
            allowed[item] = False
    chi_square = ((count - expected) ** 2 / spread).sum()  # item by item
    assert abs(chi_square - len(created)) < 4 * np.sqrt(2 * len(created))
    np.testing.assert_array_less(np.abs(residual) / np.sqrt(variance), 4.0)


def test_more_preferred_items_are_clicked_more(default_log: Log) -> None:
    clicks = default_log.events[default_log.events.click == 1]
    old = default_log.items.created.to_numpy() <= START
    ranks = np.argsort(np.argsort(-default_log.preference[:, old], axis=1), axis=1)
    place = np.cumsum(old) - 1
    counted = np.bincount(ranks[clicks.u, place[clicks.i]][old[clicks.i]] // 40, minlength=20)
    assert (np.diff(counted[:8]) < 0).all() and counted[0] > 0.5 * counted.sum()


def recall_at_10(log: Log, scores: np.ndarray, test: pd.DataFrame, seen: pd.DataFrame) -> float:
    """Mean share of each test user's clicked items among the ten best scored that the user did not click before."""
    scores = scores.astype(np.float64).copy()
    scores[seen.u, seen.i] = -np.inf
    relevant = np.zeros(scores.shape, bool)
    relevant[test.u, test.i] = True
    users = test.u.unique()
    top = np.argsort(-scores[users], axis=1)[:, :10]
    hits = np.take_along_axis(relevant[users], top, axis=1).sum(axis=1)
    return float((hits / relevant[users].sum(axis=1)).mean())


def test_the_truth_ranks_far_above_popularity_and_columns_carry_taste(default_log: Log) -> None:
    log = default_log
    clicks = log.events[log.events.click == 1]
    cut = log.events.timestamp.iloc[int(0.9 * len(log.events))]
    seen, test = clicks[clicks.timestamp < cut], clicks[clicks.timestamp >= cut]
    counts = np.bincount(seen.i, minlength=1000)
    truth = recall_at_10(log, log.preference, test, seen)
    popularity = recall_at_10(log, np.tile(counts, (5000, 1)), test, seen)
    assert truth > 0.3 and truth > 3 * popularity
    # Clicks per interest and item, summed over a user's interests: no more than a count, and half of what there is.
    interests = log.users.interests.fillna("").str.get_dummies("|").to_numpy(float)
    per_interest = np.zeros((interests.shape[1], 1000))
    np.add.at(per_interest.T, seen.i.to_numpy(), interests[seen.u])
    per_interest /= per_interest.sum(axis=1, keepdims=True)
    by_columns = recall_at_10(log, interests @ per_interest + 1e-9 * counts, test, seen)
    assert by_columns > 1.8 * popularity


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> dict[str, str]:
        write_synthetic_log(tmp_path / name, events=3_000, users=100, items=50, days=3, seed=seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    first, second, other = digests("a", 1), digests("b", 1), digests("c", 2)
    assert first == second and len(first) == 6
    assert all(first[name] != other[name] for name in first)


def test_parquet_holds_the_same_log(tmp_path: Path, small_log: Log) -> None:
    write_synthetic_log(tmp_path / "log", events=20_000, users=300, items=200, days=10, seed=5, format="parquet")
    again = read_events(tmp_path / "log").reset_index(drop=True)
    expected = small_log.events.drop(columns=["u", "i"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(again, expected, check_dtype=False)


def test_chunks_of_users_divide_the_files_and_keep_every_property(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower_tf.datasets.synthetic.CHUNK_EVENTS", 4_000)
    seen: list[tuple[str, int, int]] = []
    write_synthetic_log(
        tmp_path / "log", events=20_000, users=300, items=200, days=2, progress=lambda *report: seen.append(report)
    )
    log = Log(tmp_path / "log")
    parts = list((tmp_path / "log/events").glob("dt=*/part-*.csv"))
    assert len(parts) == 2 * len(seen) >= 10 and seen[-1] == ("synth", 20_000, 20_000)
    assert len(log.events) == 20_000 and log.events.event_id.is_unique
    assert not log.events[log.events.click == 1].duplicated(["u", "i"]).any()


@pytest.mark.parametrize(
    ("events", "users", "items", "days"), [(1, 1, 10, 1), (5_000, 3, 20, 4), (10, 1_000, 2_000, 30)]
)
def test_extreme_shapes(tmp_path: Path, events: int, users: int, items: int, days: int) -> None:
    write_synthetic_log(tmp_path / "log", events=events, users=users, items=items, days=days)
    log = Log(tmp_path / "log")
    assert len(log.events) == events and len(log.users) == users and len(log.items) == items
    clicks = log.events[log.events.click == 1]
    assert not clicks.duplicated(["u", "i"]).any()
    assert (log.events.timestamp >= log.items.created.to_numpy()[log.events.i]).all()
    assert len(list((log.root / "events").iterdir())) == days


def test_an_earlier_log_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    root = tmp_path / "log"
    root.mkdir()  # an empty directory is as good as none
    write_synthetic_log(root, events=100, users=10, items=10, days=3)
    write_synthetic_log(root, events=50, users=10, items=10, days=1)
    assert len(read_events(root)) == 50
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    (root / "thesis.txt").write_text("years of work")
    with pytest.raises(
        DataError, match="it has 'thesis.txt', which does not belong to a synthetic log and would be deleted"
    ):
        write_synthetic_log(root, events=50, users=10, items=10)
    with pytest.raises(DataError, match="it is a file.; choose an empty or new directory"):
        write_synthetic_log(root / "thesis.txt", events=50, users=10, items=10)
    foreign = tmp_path / "own"
    foreign.mkdir()
    (foreign / "items.csv").write_text("mine")
    with pytest.raises(DataError, match="it has 'items.csv', which does not belong to a synthetic log"):
        write_synthetic_log(foreign, events=50, users=10, items=10)
    assert (foreign / "items.csv").read_text() == "mine" and (root / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events": 0}, "--events: invalid number 0 (expected at least 1)"),
        ({"users": -2}, "--users: invalid number -2 (expected at least 1)"),
        ({"days": 0}, "--days: invalid number 0 (expected at least 1)"),
        ({"items": 9}, "--items: invalid number 9 (expected at least 10)"),
        ({"format": "xml"}, "--format: invalid format 'xml' (expected 'csv' or 'parquet')"),
    ],
)
def test_impossible_sizes_are_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write_synthetic_log(tmp_path / "log", **arguments)
    assert str(caught.value) == message
    assert not (tmp_path / "log").exists()
