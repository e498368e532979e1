"""Every loss at its defaults on the quickstart's log: clearly better than popularity."""

import runpy
from pathlib import Path

import pytest

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.evaluate import evaluate_run, validation
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import training_loop

pytestmark = pytest.mark.quality
QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.py"
LOSSES = (
    "CosineLogitBCE",
    "InBatchSoftmax",
    "SampledSoftmax",
    "BilateralSoftmax",
    "CosineContrastive",
    "PairwiseLogistic",
    "TripletHinge",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("losses")
    write_synthetic_log(root / "data", events=200_000, users=5_000, items=1_000, days=14, seed=17)
    config = runpy.run_path(str(QUICKSTART))["get_config"]()
    config = configuration.override(config, [f"data.root={root / 'data'}", "train.epochs=4", "train.patience=0"])
    artifacts.write_text(RunPaths(root / "run").config, configuration.to_json(config))
    prepare_log(config, root / "run")
    encode(config, Prepared.open(root / "run"))
    return config, root / "run"


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_at_its_defaults_is_better_than_popularity(run, loss):
    config, run_dir = run
    config = configuration.override(config, [f"loss={loss}()"])
    prepared = Prepared.open(run_dir)
    validate = validation.make_validator(config, prepared, EncodedData(config, prepared))
    training_loop.train(config, run_dir, validate=validate)
    found = evaluate_run.evaluate_run(config, run_dir, "test")
    recall, popularity = found["metrics"]["recall@20"], found["baselines"]["popularity"]["recall@20"]
    print(f"{loss}: recall@20 {recall:.3f}, popularity {popularity:.3f}")
    assert recall > 1.3 * popularity
