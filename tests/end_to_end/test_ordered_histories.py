"""A log in which the order of the past, and the time since, determine the next item: found from training to answers."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.bundle import saved_model_edits
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.loaded_tower import Tower
from twotower_tf.config import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    History,
    LazyAdam,
    LeaveLastOut,
    ModelConfig,
    SampledSoftmax,
    SamplingConfig,
    SelfAttention,
    TrainConfig,
    Uniform,
)
from twotower_tf.errors import DataError
from twotower_tf.evaluate.evaluate_run import evaluate_run
from twotower_tf.export.export_bundle import export
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.features.inputs import client_inputs, rows_to_arrays
from twotower_tf.model import two_tower
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.retrieval.recommender import Recommender
from twotower_tf.score import user_columns, user_tower, users_from_events
from twotower_tf.score.type_columns import ColumnTyper
from twotower_tf.score.user_tower import UserTower
from twotower_tf.serve import grpc_requests
from twotower_tf.tables.time_parser import TimeParser
from twotower_tf.train import tower_vectors, training_loop, warm_start_weights
from twotower_tf.train.checkpoints import load_model
from twotower_tf.train.tower_vectors import user_vectors

ITEMS, USERS, LENGTH = 30, 300, 8
START, MINUTE, DAY = 1_600_000_000, 60, 86_400


def make_log():
    """Half of the users go up through a circle of items, half of them down; after days each begins at i0 again."""
    rng = np.random.default_rng(2)
    events = []
    for user in range(USERS):
        item, step, time = int(rng.integers(ITEMS)), 1 - 2 * (user % 2), START + int(rng.integers(DAY))
        for _ in range(rng.integers(5, 21)):
            events.append((f"u{user}", f"i{item}", time))
            soon = rng.random() < 0.5
            time += int(rng.integers(MINUTE, 30 * MINUTE) if soon else rng.integers(2 * DAY, 9 * DAY))
            item = (item + step) % ITEMS if soon else 0
    return dict(zip(("user_id", "item_id", "time"), map(list, zip(*events, strict=True)), strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("ordered")
    pq.write_table(pa.table(make_log()), root / "events.parquet")
    config = ExperimentConfig(
        name="ordered",
        data=DataConfig(root=str(root), events="events.parquet", timestamp="time", split=LeaveLastOut()),
        item_features=(Hash("item_id", buckets=5000),),
        user_features=(
            History(of="item_id", length=LENGTH, encoder=SelfAttention(blocks=1, dropout=0.0), time_gaps="time"),
        ),
        model=ModelConfig(embedding_dim=16, vector_dim=16, item_hidden=(), user_hidden=()),
        sampling=SamplingConfig((Uniform(per_positive=29, shared=True),), masked="row"),
        loss=SampledSoftmax(temperature=0.1),
        train=TrainConfig(
            batch_size=16, epochs=15, initial_lr=0.01, table_optimizer=LazyAdam(initial_lr=0.01), monitor=""
        ),
        evaluation=EvaluationConfig(ks=(1, 3), exclude_seen=False, query="event"),
    )
    run_dir = root / "run"
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    prepare_log(config, run_dir, threads=1)
    encode(config, Prepared.open(run_dir))
    trained = training_loop.train(config, run_dir)
    version = export(config, run_dir, root / "export", version=1)
    return config, run_dir, root / "export", trained, version


def test_the_next_item_of_the_direction_is_found(run):
    config, run_dir, export_root, trained, _ = run
    # Two events of each user are held out; the others are examples, whatever the windows.
    assert trained["examples"] == len(pq.read_table(run_dir.parent / "events.parquet")) - 2 * USERS
    metrics = evaluate_run(config, run_dir, "test")["metrics"]
    # Without gaps half of the items are found at best, i0 or the others; a mean of the past has no direction either.
    assert metrics["recall@1"] > 0.7
    times = [START, START + 300, START + 600, START + 900]
    up, down = (
        {"history": items, "history_times": times} for items in (["i3", "i4", "i5", "i6"], ["i6", "i5", "i4", "i3"])
    )
    soon, late = {"time": START + 1200}, {"time": START + 5 * DAY}
    people = [up | soon, down | soon, up | late, down | late, {"history": []}]
    answers = Recommender(export_root).recommend(people, k=1)
    assert [answer["item_ids"] for answer in answers[:4]] == [["i7"], ["i2"], ["i0"], ["i0"]]


def read_people(prepared, encoded, root, rows):
    """Users as clients send them at the time of a test event, from the log's own rows."""
    log = pq.read_table(root / "events.parquet").sort_by("time")
    keys, people = encoded.keys("test"), []
    for user, now in zip(prepared.user_ids()[keys["user_row"][rows]], keys["timestamp"][rows].tolist(), strict=True):
        own = log.filter(pc.equal(log["user_id"], user))
        past = own.slice(0, own.num_rows - 1)
        assert own["time"][-1].as_py() == now
        people.append({"history": past["item_id"].to_pylist(), "history_times": past["time"].to_pylist(), "time": now})
    return people


def test_the_bundle_has_the_vectors_that_training_has(run, monkeypatch, tmp_path):
    config, run_dir, export_root, _, _ = run
    prepared, bundle = Prepared.open(run_dir), Bundle.open(export_root)
    encoded = EncodedData(config, prepared)
    rows = np.arange(USERS - 40, USERS)
    offline = user_vectors(load_model(config, run_dir), encoded, "test", rows)
    model = load_model(config, run_dir)
    monkeypatch.setattr(tower_vectors, "_NUMBERS_PER_BATCH", 1)  # one history at a time
    np.testing.assert_allclose(user_vectors(model, encoded, "test", rows[:3]), offline[:3], atol=1e-6)
    people = read_people(prepared, encoded, run_dir.parent, rows)
    assert max(len(each["history"]) for each in people) > LENGTH  # longer than what the tower keeps

    parser = TimeParser.of_manifest(bundle.manifest)
    signature = rows_to_arrays(client_inputs(config, {}), people, parser)
    np.testing.assert_allclose(Tower.of_bundle(bundle, "user").vectors(signature), offline, atol=1e-5)

    typer = ColumnTyper("user_id", user_columns.list_feature_columns(config), parser)
    lists = {name: [each[name] for each in people] for name in people[0]} | {"user_id": list("u" * len(rows))}
    texts = lists | {name: ["|".join(map(str, row)) for row in lists[name]] for name in ("history", "history_times")}
    tower = UserTower(bundle)
    for places in (user_tower.SEQUENCE_PLACES, 3 * LENGTH):  # all users in one call, and three in each
        monkeypatch.setattr(user_tower, "SEQUENCE_PLACES", places)
        for table in (lists, texts):
            users, bad = typer.type_rows(pa.table(table), 0)
            assert not bad
            np.testing.assert_allclose(tower.vectors(users.columns, len(rows)), offline, atol=1e-5)


def test_users_of_a_log_are_scored_with_the_times_of_all_their_items(run, tmp_path):
    config, run_dir, export_root, _, _ = run
    prepared, bundle = Prepared.open(run_dir), Bundle.open(export_root)
    users_from_events.build(tmp_path / "users", prepared, config, None, "200MB", 1)
    built = pq.read_table(tmp_path / "users").slice(0, 50)
    log = pq.read_table(run_dir.parent / "events.parquet").sort_by("time")
    for user, items, times in zip(*(built[name].to_pylist() for name in built.column_names[:3]), strict=True):
        own = log.filter(pc.equal(log["user_id"], user)).slice(0)[-LENGTH:]
        assert (items, times) == (own["item_id"].to_pylist(), own["time"].to_pylist())
    moment = max(log["time"].to_pylist()) + DAY
    people = [
        {name: row[name] for name in ("history", "history_times")} | {"time": moment} for row in built.to_pylist()
    ]
    parser = TimeParser.of_manifest(bundle.manifest)
    typer = ColumnTyper("user_id", user_columns.list_feature_columns(config), parser)
    columns = {**typer.type_rows(built, 0)[0].columns, "time": pa.array([moment] * 50)}
    sent = Tower.of_bundle(bundle, "user").vectors(rows_to_arrays(client_inputs(config, {}), people, parser))
    np.testing.assert_allclose(UserTower(bundle).vectors(columns, 50), sent, atol=1e-5)


def test_a_training_begins_with_the_weights_of_a_bundle(run):
    config, run_dir, export_root, _, _ = run
    model = two_tower.build(config)
    warm_start_weights.start(config, model, export_root / "1")
    encoded = EncodedData(config, Prepared.open(run_dir))
    expected = user_vectors(load_model(config, run_dir), encoded, "valid", np.arange(9))
    np.testing.assert_allclose(user_vectors(model, encoded, "valid", np.arange(9)), expected, atol=1e-6)


def test_a_grpc_client_knows_which_values_the_times_belong_to(run, monkeypatch):
    config, _, export_root, _, _ = run
    found = saved_model_edits.read(Bundle.open(export_root).tower("user")).meta_graphs[0].signature_def

    class Stub:
        def __init__(self, channel):
            pass

        def GetModelMetadata(self, request):
            answer = get_model_metadata_pb2.GetModelMetadataResponse()
            answer.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap(signature_def=dict(found)))
            return answer

    monkeypatch.setattr(grpc_requests.prediction_service_pb2_grpc, "PredictionServiceStub", Stub)
    inputs = grpc_requests.fetch_inputs(None, "ordered", {})
    rows = [{"history": ["i3", "", "i5"], "history_times": [START, START + 9, START + 60], "time": START + 99}, {}]
    sent = rows_to_arrays(inputs, rows)
    for name, array in rows_to_arrays(client_inputs(config, {}), rows).items():
        np.testing.assert_array_equal(sent[name], array)
    assert sent["history"].tolist() == [[b"i3", b"", b"i5"], [b"", b"", b""]]
    with pytest.raises(DataError, match="2 times .expected 1, one for each value of 'history', or none"):
        rows_to_arrays(inputs, [{"history": ["i3"], "history_times": [START, START]}])


def test_rows_of_users_with_invalid_times_are_set_aside(run):
    config, _, export_root, _, _ = run
    typer = ColumnTyper(
        "user_id", user_columns.list_feature_columns(config), TimeParser.of_manifest(Bundle.open(export_root).manifest)
    )
    table = pa.table(
        {
            "user_id": ["a", "b", "c", "d"],
            "history": [["i1", "i2"], ["i1", "i2"], ["i1"], ["i1"]],
            "history_times": [[str(START)], [str(START), "soon"], [], None],
            "time": [START + 5] * 4,
        }
    )
    users, bad = typer.type_rows(table, 0)
    assert users.good.tolist() == [False, False, True, True]
    assert [each.reason for each in bad][
        0
    ] == "column 'history_times': 1 times (expected one for each item of 'history')"
    assert bad[1].reason.startswith("column 'history_times': invalid time 'soon' (expected ")
