"""How much a negative from the log counts by default: in proportion to what it stands among, worked out by hand."""

import dataclasses

import pytest

from twotower_tf.config import (
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    Hash,
    InBatch,
    InBatchSoftmax,
    Mined,
    PairwiseLogistic,
    Queue,
    Rejections,
    SameAttribute,
    SampledSoftmax,
    SamplingConfig,
    SkipAbove,
    TrainConfig,
    Uniform,
)
from twotower_tf.features.arrays import EncodedData
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.sampling import negatives_plan
from twotower_tf.train.batches import Batches

SOFT = InBatchSoftmax()


@pytest.mark.parametrize(
    ("loss", "negatives", "batch", "expected"),
    [
        (SOFT, (InBatch(), Rejections()), 1_024, 8.0),
        (SOFT, (InBatch(), SkipAbove(4)), 1_024, 8.0),
        (SOFT, (InBatch(), Rejections()), 4_096, 32.0),
        (SOFT, (InBatch(), Rejections(), Queue(size=1_024)), 1_024, 16.0),
        (SOFT, (InBatch(), Rejections(), Uniform(512, shared=True)), 512, 8.0),
        (SOFT, (InBatch(), Rejections()), 64, 1.0),
        (SampledSoftmax(), (Uniform(1_000, shared=True), SkipAbove()), 4_096, 7.8125),
        (CosineLogitBCE(), (Uniform(), Rejections()), 4_096, 1.0),
        (PairwiseLogistic(), (Uniform(), SkipAbove()), 4_096, 1.0),
        (SOFT, (InBatch(), Rejections(weight=0.5)), 1_024, 0.5),
        (SOFT, (InBatch(), Rejections(weight=1.0)), 1_024, 1.0),
        (SOFT, (InBatch(), SameAttribute(("category",))), 1_024, 1.0),
        (SOFT, (InBatch(), Mined(weight=3.0)), 1_024, 3.0),
    ],
)
def test_a_hard_negative_counts(loss, negatives, batch, expected):
    config = ExperimentConfig(
        name="weights",
        data=DataConfig(label="click", list_id="list", position="place"),
        item_features=(Hash("item_id", buckets=10), Hash("category", buckets=10)),
        user_features=(Hash("user_id", buckets=10),),
        sampling=SamplingConfig(negatives),
        loss=loss,
    )
    hard = next(each for each in negatives if hasattr(each, "weight"))
    assert negatives_plan.compute_weight(hard, negatives_plan.plan_negatives(config), batch) == expected


def test_batches_have_the_default_weight(trained):
    run_dir, config = trained
    kinds = (InBatch(), Rejections(2), Uniform(32, shared=True))
    train = TrainConfig(batch_size=256, monitor="")
    config = dataclasses.replace(config, sampling=SamplingConfig(kinds), loss=SOFT, train=train)
    prepared = Prepared.open(run_dir)
    x, _, _ = next(Batches(config, prepared, EncodedData(config, prepared)).epoch(0))
    assert set(x["negative_weight"].ravel().tolist()) <= {0.0, 2.25} and x["negative_weight"].any()  # 288 / 128
