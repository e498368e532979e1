"""Plans the number of negatives of each kind in a batch, from the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twotower_tf.config import Catalogue, ExperimentConfig, InBatch, Popularity, Queue, Uniform
from twotower_tf.errors import ConfigError

CANDIDATES_PER_WEIGHT = 128  # shared candidates for which the default weight of a hard negative grows by 1


@dataclass(frozen=True)
class NegativesPlan:
    """The shape of a batch's negatives.

    Attributes:
        own: (kind of the configuration, draws for each row), in its order.
        shared: (kind, draws for the whole batch).
        in_batch: whether the rows meet each other's positives.
        queue: slots of the queue.
        whole: whether every row meets the whole catalogue.
    """

    own: tuple[tuple[Any, int], ...]
    shared: tuple[tuple[Uniform | Popularity, int], ...]
    in_batch: bool
    queue: int
    whole: bool = False

    @property
    def shares(self) -> bool:
        """Whether the rows of a batch have candidates in common."""
        return self.in_batch or self.whole or bool(self.for_all or self.queue)

    @property
    def per_row(self) -> int:
        """Negatives that belong to one row."""
        return sum(count for _, count in self.own)

    @property
    def for_all(self) -> int:
        """Catalogue negatives that every row meets."""
        return sum(count for _, count in self.shared)

    def columns(self, batch: int, items: int = 0) -> int:
        """Candidates that every row of a batch meets, of a catalogue of so many items."""
        return batch * self.in_batch + items * self.whole + self.for_all + self.queue


def plan_negatives(config: ExperimentConfig) -> NegativesPlan:
    """Reads the shape of a batch's negatives from `sampling.negatives`."""
    kinds = config.sampling.negatives or ()
    drawn = [(each, each.per_positive) for each in kinds if hasattr(each, "per_positive")]
    return NegativesPlan(
        own=tuple((each, n) for each, n in drawn if not getattr(each, "shared", False)),
        shared=tuple((each, n) for each, n in drawn if isinstance(each, Uniform | Popularity) and each.shared),
        in_batch=any(isinstance(each, InBatch) for each in kinds),
        queue=sum(each.size for each in kinds if isinstance(each, Queue)),
        whole=any(isinstance(each, Catalogue) for each in kinds),
    )


def reads_items_once(config: ExperimentConfig) -> bool:
    """Returns whether a batch has each item once, and places in the batch for its rows' items.

    Otherwise each row brings its own item, and few of them are the same.
    """
    return config.train.sequences or config.train.by_user or plan_negatives(config).whole


def compute_weight(kind: Any, drawn: NegativesPlan, batch: int) -> float:
    """Returns how much one draw of a kind counts in the loss.

    By default a negative from the log keeps its share of a loss over many candidates: it counts as 1/128 of those that
    all rows share. Among the few candidates of `CosineLogitBCE` it counts like any other.
    """
    if getattr(kind, "weight", 1.0) is None:
        return max(1.0, drawn.columns(batch) / CANDIDATES_PER_WEIGHT)
    return float(getattr(kind, "weight", 1.0))


def require_items(config: ExperimentConfig, num_items: int) -> None:
    """Checks that no kind draws more than the catalogue has.

    Raises:
        ConfigError: naming the field and both numbers.
    """
    for place, each in enumerate(config.sampling.negatives or ()):
        where = f"sampling.negatives: {each.type}"
        if hasattr(each, "per_positive") and each.per_positive > num_items:
            raise ConfigError(
                f"{where}(per_positive={each.per_positive}) draws more than the catalogue's {num_items:,} items; "
                f"lower it, e.g. --set sampling.negatives.{place}.per_positive={max(1, num_items // 4)}"
            )
        if each.type == "Mined" and each.ranks[1] > num_items:
            raise ConfigError(
                f"{where}(ranks={each.ranks}) goes beyond the catalogue's {num_items:,} items; lower the ranks"
            )
