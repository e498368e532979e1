"""The kind of training rows: chosen by the encoder, and refused where no sequence can be trained with."""

import dataclasses
import hashlib
import json

import pytest

from tests.train.sequence_log import experiment
from twotower_tf import config as configuration
from twotower_tf.config import (
    InBatch,
    SamplingConfig,
    SelfAttention,
    TrainConfig,
)
from twotower_tf.errors import ConfigError
from twotower_tf.prepare.incremental import compute_digests

REFUSED = {
    "data.timestamp=": "user_features[2].encoder: self_attention reads the order of events, and the log has no times; "
    "name their column in data.timestamp, use data.split=LeaveLastOut() for a log whose rows are in order, or use "
    "encoder='mean'",
    "user_features.2.length=7": "train.rows: 'sequence' cuts all histories with a causal encoder into the same "
    "windows; 'history' has 7, 'shelves' has 6; give them one length, or set train.rows to 'event'",
    "user_features.2.length=0": "user_features.2.length: invalid value '0' (expected a number greater than 0)",
    "user_features.2.encoder.heads=3": "user_features[2].encoder.heads: invalid value 3 (expected a divisor of 8, the "
    "embedding_dim of 'item')",
    "user_features=(History(of='item',encoder='mean'),)": "train.rows: invalid value 'sequence' without a causal "
    "history encoder (expected a History with encoder='self_attention' or 'gru'); use one, or set train.rows to "
    "'event'",
    "user_features=(History(of='item',encoder=Attention(query='user')),)": "user_features[0].encoder.query: invalid "
    "value 'user' for a user tower without a feature other than histories; add one, or use query='learned'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_configuration_that_no_sequence_can_be_trained_with_is_refused(text):
    config = experiment("data")
    more = {"data.timestamp=": ["user_features.1=Hash('day',buckets=9)", "sampling.recency_half_life=0"]}
    texts = [*more.get(text, []), *(["train.rows=sequence"] if "encoder='mean'" in text else []), text]
    with pytest.raises(ConfigError) as error:
        configuration.override(config, texts)
    assert str(error.value).endswith(REFUSED[text])


def test_time_gaps_need_the_time_of_the_events_and_a_name_of_their_own():
    config = experiment("data")
    time = config.data.timestamp

    def refuse(*texts):
        with pytest.raises(ConfigError) as error:
            configuration.override(config, texts)
        return str(error.value).partition(": ")[2]

    assert refuse("user_features.2.time_gaps=hour") == (
        f"user_features[2].time_gaps: invalid column 'hour' (expected data.timestamp={time!r}, the event time that "
        "History reads)"
    )
    assert refuse(f"user_features.2.time_gaps={time}", "user_features.1=Hash('history_times',buckets=9)") == (
        "user_features[2].time_gaps: the times of 'history' are an input 'history_times', which another feature has; "
        "give the history another name"
    )
    labelled = ["loss=CosineLogitBCE()", "sampling.negatives=(Labelled(),Uniform(2))", "data.label=click"]
    gaps = f"user_features.2.time_gaps={time}"
    assert refuse(gaps, *labelled) == (
        "train.rows: 'sequence' takes the time after an item until the user's next positive, and the rows of label 0 "
        "that CosineLogitBCE trains on are at other times; set train.rows to 'event', or History.time_gaps to ''"
    )
    by_event = configuration.override(config, [gaps, *labelled, "train.rows=event"])
    assert configuration.from_json(configuration.to_json(by_event), "here").user_features[2].time_gaps == time


def test_prepared_data_stay_valid_where_no_gaps_are_wanted():
    """Configurations of versions that did not have some options have the same fingerprint."""
    config, before = experiment("data"), json.loads(configuration.to_json(experiment("data")))
    before.pop("schema_version")
    before["data"].pop("root")
    before["model"].pop("initial_scale")
    assert not before["loss"].pop("growing") and not before["loss"].pop("user_temperature")
    for each in before["item_features"] + before["user_features"]:
        each.pop("dropout")
        each.pop("time_gaps", None)
    text = json.dumps(before, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert configuration.fingerprint(config) == hashlib.sha256(text.encode()).hexdigest()
    gaps = configuration.override(config, [f"user_features.2.time_gaps={config.data.timestamp}"])
    prepared = [configuration.fingerprint(each, configuration.PREPARED) for each in (config, gaps)]
    assert prepared[0] != prepared[1]
    for other in ("model.initial_scale=0.1", "loss.user_temperature=True"):
        changed = configuration.override(config, [other])
        assert configuration.fingerprint(changed, configuration.TRAINED) != configuration.fingerprint(
            config, configuration.TRAINED
        )


@pytest.mark.parametrize(("option", "goes_on"), [("dropout=0.5", True), ("buckets=11", False)])
def test_a_run_goes_on_with_another_dropout_but_not_with_other_buckets(option, goes_on):
    before = experiment("data")
    after = configuration.override(before, [f"item_features.0.{option}"])
    assert (compute_digests(after) == compute_digests(before)) is goes_on


def test_rows_are_chosen_by_the_encoder_unless_they_are_given():
    config = experiment("data")
    assert config.train.rows == "sequence"
    assert dataclasses.replace(config, train=TrainConfig(rows="event")).train.rows == "event"
    plain = configuration.override(config, ["user_features.2.encoder=last", "user_features.3.encoder=mean"])
    assert plain.train.rows == "event"
    again = configuration.override(plain, ["user_features.2.encoder=SelfAttention(blocks=1)"])
    assert again.train.rows == "sequence" and again.user_features[2].encoder == SelfAttention(blocks=1)
    assert configuration.from_json(configuration.to_json(again), "here") == again
    assert configuration.override(plain, ["train.rows=event", "user_features.2.encoder=gru"]).train.rows == "event"


def test_batches_and_masks_follow_the_kind_of_rows_unless_they_are_given():
    config = dataclasses.replace(experiment("data"), train=TrainConfig(), sampling=SamplingConfig((InBatch(),)))

    def chosen(*texts):
        found = configuration.override(config, texts)
        return found.train.rows, found.train.batch_size, found.sampling.masked

    plain = ["user_features.2.encoder=last", "user_features.3.encoder=mean"]
    assert chosen() == ("sequence", 64, "row")
    assert chosen(*plain) == ("event", 4096, "user")
    assert chosen("train.rows=event") == ("event", 4096, "user")
    assert chosen(*plain, "train.batch_size=64", "sampling.masked=row") == ("event", 64, "row")
    assert chosen("train.batch_size=4096", "sampling.masked=user") == ("sequence", 4096, "user")
    assert chosen(*plain, "train=TrainConfig(batch_size=64)") == ("event", 64, "user")
    assert config.batch_size == 64
