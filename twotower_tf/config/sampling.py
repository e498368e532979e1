"""Configuration of sampling: the positives that are trained on, and their negatives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twotower_tf.config.base import Name, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config_class


@config_class
class Uniform:
    """Negatives drawn from the whole catalogue, every item alike; never one of the user's training positives.

    Attributes:
        per_positive: draws for each positive.
        shared: draws `per_positive` items once for the whole batch; every row meets all of them.
    """

    per_positive: Positive = 4
    shared: bool = False
    type: Literal["Uniform"] = "Uniform"


@config_class
class Popularity:
    """Negatives drawn from the whole catalogue with a probability in proportion to max(count, floor)^alpha.

    Attributes:
        per_positive: draws for each positive.
        alpha: 0 draws every item alike, 1 as often as it is a training positive; 0.75 is customary (Mikolov et al.,
            "Distributed Representations of Words and Phrases", 2013, section 2.2).
        floor: training positives that an item counts as having at least, so that cold items appear; 0 never draws an
            item without one.
        shared: draws `per_positive` items once for the whole batch; every row meets all of them.
    """

    per_positive: Positive = 4
    alpha: NonNegativeFloat = 0.75
    floor: NonNegativeFloat = 1.0
    shared: bool = False
    type: Literal["Popularity"] = "Popularity"


@config_class
class SameAttribute:
    """Hard negatives: items that have the positive's values in some columns of the catalogue.

    Attributes:
        columns: of the catalogue, e.g. ("site_category",); all of them must agree.
        per_positive: draws for each positive; a positive without such items gets none.
        weight: how much one of its draws counts in the loss; any other negative counts 1.
    """

    columns: Annotated[tuple[Name, ...], Field(min_length=1)]
    per_positive: Positive = 1
    weight: PositiveFloat = 1.0
    type: Literal["SameAttribute"] = "SameAttribute"


@config_class
class Rejections:
    """Hard negatives: what the log says the user was shown in training and did not take.

    Attributes:
        per_positive: draws for each positive; a user without such rows gets none.
        explicit: takes only the rows that satisfy `data.rejected`, not every impression without a click.
        weight: how much one of its draws counts in the loss, where a draw from the catalogue counts 1. None: 1/128 of
            the candidates that all rows of a batch share, at least 1 (8 for 1,024 candidates, 1 for `CosineLogitBCE`).
    """

    per_positive: Positive = 1
    explicit: bool = False
    weight: PositiveFloat | None = None
    type: Literal["Rejections"] = "Rejections"


@config_class
class SkipAbove:
    """Hard negatives: what stood above the positive in the same list and was passed over.

    Joachims, "Optimizing Search Engines using Clickthrough Data", 2002, section 3; needs `data.list_id` and
    `data.position`.

    Attributes:
        per_positive: draws for each positive; a positive with nothing above it gets none.
        weight: how much one of its draws counts in the loss, where a draw from the catalogue counts 1. None: 1/128 of
            the candidates that all rows of a batch share, at least 1 (8 for 1,024 candidates, 1 for `CosineLogitBCE`).
    """

    per_positive: Positive = 1
    weight: PositiveFloat | None = None
    type: Literal["SkipAbove"] = "SkipAbove"


@config_class
class Labelled:
    """The log's own rows with label 0."""

    type: Literal["Labelled"] = "Labelled"


@config_class
class InBatch:
    """The other positives of the batch."""

    type: Literal["InBatch"] = "InBatch"


@config_class
class Catalogue:
    """Every item of the catalogue, for the whole batch; nothing is drawn. No other kind goes with it.

    An item's vector is computed once per step. For catalogues of some thousand items: a step's time and memory grow
    with the catalogue.
    """

    type: Literal["Catalogue"] = "Catalogue"


@config_class
class Queue:
    """Item vectors of the batches before, first in, first out; empty at the start of every epoch.

    Wang et al., "Cross-Batch Negative Sampling for Training Two-Tower Recommenders", SIGIR 2021.

    Attributes:
        size: vectors kept.
    """

    size: Positive
    type: Literal["Queue"] = "Queue"


@config_class
class Mined:
    """Hard negatives from the model's own ranking, ranked again before every epoch but the first.

    Attributes:
        ranks: first and last place, counted from 1 without the user's training positives. Huang et al.,
            "Embedding-based Retrieval in Facebook Search", KDD 2020, section 6.1, finds 101 to 500 best.
        per_positive: draws for each positive; in the first epoch they are drawn like `Uniform`.
        weight: how much one of its draws counts in the loss; any other negative counts 1.
    """

    ranks: tuple[Positive, Positive] = (101, 500)
    per_positive: Positive = 1
    weight: PositiveFloat = 1.0
    type: Literal["Mined"] = "Mined"


Negatives = Annotated[
    Uniform | Popularity | SameAttribute | Rejections | SkipAbove | Labelled | InBatch | Queue | Mined | Catalogue,
    Field(discriminator="type"),
]


@config_class
class Downsample:
    """Keeps a positive of item i with probability min(1, (sqrt(z/t) + 1)·t/z), z being the item's share of positives.

    The rule of word2vec's code for frequent words.

    Attributes:
        t: share above which items are thinned out.
    """

    t: PositiveFloat = 1e-3
    type: Literal["Downsample"] = "Downsample"


@config_class
class SamplingConfig:
    """Configuration of sampling: the positives that are trained on, and their negatives.

    Attributes:
        negatives: the kinds, each at most once; shares are stated by `per_positive`. None: what the loss is usually
            trained with; the resolved configuration shows it.
        masked: which candidates that the rows of a batch share are not negatives of a row. "user": all training
            positives of its user, also those taken later, for models of what a user likes at all. "row": its own item
            alone, so that what the user took before and takes later are negatives like any other, for models of what
            comes next; published next-item models are trained so. Draws for single rows never are the user's positives.
            None: "row" where `train.rows` is "sequence", otherwise "user"; the resolved configuration shows it.
        downsample: thins out the positives of hot items.
        per_user: training positives of one user per epoch at most, drawn again for each; 0 takes all.
        recency_half_life: days after which a positive weighs half as much as the newest; a row without a time has the
            mean factor of the others; 0 weighs all alike.
    """

    negatives: tuple[Negatives, ...] | None = None
    masked: Literal["user", "row"] | None = None
    downsample: Downsample | None = None
    per_user: NonNegative = 0
    recency_half_life: NonNegativeFloat = 0.0
