"""Which negatives go with which loss and which data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twotower_tf.config.features import feature_columns
from twotower_tf.config.losses import BilateralSoftmax, CosineLogitBCE, InBatchSoftmax, SampledSoftmax
from twotower_tf.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from twotower_tf.config.experiment import ExperimentConfig

_WHERE = "sampling.negatives"
_OF_THE_CATALOGUE = ("item_id", "item_name", "train_count", "last_event")  # columns that every catalogue has


def check_sampling(config: ExperimentConfig) -> None:
    """Refuses kinds that the loss has no place for, and kinds without the data they are taken from."""
    kinds: dict[str, Any] = {each.type: each for each in config.sampling.negatives}
    if len(kinds) != len(config.sampling.negatives):
        came = ", ".join(each.type for each in config.sampling.negatives)
        raise ConfigError(f"{_WHERE}: each kind may stand once; came {came}")
    if not kinds:
        raise ConfigError(f"{_WHERE}: empty; a positive alone teaches nothing, name a kind such as Uniform()")
    _check_loss(config.loss, kinds)
    for each in kinds.values():
        _check_data(each, config)
    if config.sampling.recency_half_life and not config.data.timestamp:
        raise ConfigError("sampling.recency_half_life: needs the event's time; name its column in data.timestamp")


def _check_loss(loss: Any, kinds: dict[str, Any]) -> None:
    if isinstance(loss, CosineLogitBCE):
        for name, each in kinds.items():
            if name in ("InBatch", "Queue") or getattr(each, "shared", False):
                came = f"{name}(shared=True)" if hasattr(each, "shared") else f"{name}()"
                raise ConfigError(
                    f"{_WHERE}: CosineLogitBCE compares a positive with negatives of its own and with Labelled() rows; "
                    f"came {came}, which all rows of the batch share"
                )
        return
    if "Labelled" in kinds:
        raise ConfigError(
            f"{_WHERE}: {loss.type} compares a positive with its negatives, so a row with label 0 is none by itself; "
            "use Rejections() in the place of Labelled()"
        )
    if isinstance(loss, InBatchSoftmax) and "InBatch" not in kinds:
        raise ConfigError(
            f"{_WHERE}: InBatchSoftmax takes its negatives from the batch, InBatch(), and any others beside; "
            f"came {list(kinds)}"
        )
    if "Queue" in kinds and "InBatch" not in kinds:
        raise ConfigError(
            f"{_WHERE}: Queue() takes no gradient; the batch's own items, InBatch(), stand for its items and have to "
            f"be there too; came {list(kinds)}"
        )
    if (
        isinstance(loss, SampledSoftmax | BilateralSoftmax)
        and loss.negatives
        and not {"Uniform", "Popularity"} & {*kinds}
    ):
        raise ConfigError(
            f"{_WHERE}: loss.negatives={loss.negatives} are drawn by Uniform() or Popularity(), and neither is named; "
            f"name one, or set loss.negatives=0; came {list(kinds)}"
        )


def _check_data(kind: Any, config: ExperimentConfig) -> None:
    data = config.data
    if kind.type in ("Labelled", "Rejections", "SkipAbove") and not (data.label or data.positive):
        raise ConfigError(
            f"{_WHERE}: {kind.type}() needs rows that are no positives: data.label, the column with 0 and 1, "
            "or data.positive"
        )
    if kind.type == "Rejections" and kind.explicit and not data.rejected:
        raise ConfigError(f"{_WHERE}: Rejections(explicit=True) needs data.rejected, which says what was refused")
    if kind.type == "SkipAbove" and not (data.list_id and data.position):
        raise ConfigError(f"{_WHERE}: SkipAbove() needs data.list_id and data.position, the lists and places shown")
    if kind.type == "Mined" and kind.ranks[0] > kind.ranks[1]:
        raise ConfigError(f"{_WHERE}: Mined(ranks={kind.ranks}) ends before it begins; write the smaller rank first")
    if kind.type == "SameAttribute" and not data.items:  # an item table may have more columns than the features name
        known = {column for feature in config.item_features for column in feature_columns(feature)}
        for name in kind.columns:
            if name not in known | {*_OF_THE_CATALOGUE}:
                raise ConfigError(
                    f"{_WHERE}: SameAttribute: {unknown_name('column of the catalogue', name, known)} "
                    "(without data.items it has the columns of item_features)"
                )
