"""Losses: what a model learns from a positive and its negatives.

| data | loss |
| --- | --- |
| positives only (clicks, purchases, plays) | `InBatchSoftmax` |
| a large catalogue, whose rare items should be found | `SampledSoftmax` |
| a small catalogue, up to some ten thousand items | `FullSoftmax` |
| positives that are often wrong (misclicks, autoplay) | `BilateralSoftmax` |
| a click probability is needed | `CosineLogitBCE` |

`GBCE`, `CosineContrastive`, `PairwiseLogistic` and `TripletHinge` are losses of published work, to compare with.

A new loss is a configuration class under `@register_loss` here, and a layer under `@registers(ThatClass)` in
`twotower_tf.model.losses`; nothing else has to know it. `twotower_tf.model.losses.registry` has an example.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from twotower_tf.config.base import NonNegativeFloat, PositiveFloat, config_class
from twotower_tf.config.open_union import OpenUnion
from twotower_tf.config.sampling import Catalogue, InBatch, Uniform

Margin = Annotated[float, Field(ge=-1.0, le=1.0)]


class LossConfig:
    """The base of every loss's configuration class; the class attributes say what the loss goes with.

    Attributes:
        default_negatives: what `sampling.negatives=None` stands for.
        labelled: every candidate is an example with a label. Rows with label 0 (`Labelled()`) take part, the layer
            receives the labels, and training reports AUC, precision and recall in place of ranks.
        shares_candidates: rows may have candidates in common: `InBatch()`, `Queue()`, `shared=True`.
        needs: kinds of negatives that must be there.
        by_user: a row's loss is the positive's cosine times a constant, plus what depends on its user and the shared
            candidates alone. The rows of one user can then be one, `train.rows="user"`.
    """

    default_negatives: ClassVar[tuple[Any, ...]] = (Uniform(),)
    labelled: ClassVar[bool] = False
    shares_candidates: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    by_user: ClassVar[bool] = False


LOSSES: dict[str, type[LossConfig]] = {}  # by name
LossClass = TypeVar("LossClass", bound=type[LossConfig])


def register_loss(cls: LossClass) -> LossClass:
    """Makes a configuration class valid for `ExperimentConfig.loss`: in Python, `--set loss=...` and config.json.

    Args:
        cls: a `@config_class` derived from `LossConfig`, with the field `type: Literal["NAME"] = "NAME"`.

    Raises:
        ValueError: for a class without that field, or a name that is taken.
    """
    name = cls.__name__
    if not dataclasses.is_dataclass(cls) or getattr(cls, "type", None) != name:
        raise ValueError(f'{name}.type: missing (expected type: Literal["{name}"] = "{name}" in a @config_class)')
    if name in LOSSES:
        raise ValueError(f"{name}: invalid name of a loss (already registered); choose another name")
    LOSSES[name] = cls
    return cls


@register_loss
@config_class
class CosineLogitBCE(LossConfig):
    """Binary cross-entropy: is this pair a click or not?

    In plain terms: a sigmoid over the logit 2·atanh(cosine) is the click probability of each pair, and positives are
    trained towards 1, negatives towards 0. Also known as logistic loss, log loss, pointwise loss, negative sampling
    loss. Use it where the log has impressions without a click, and where a probability is needed. It goes with
    `Uniform()`, `Labelled()` and other negatives of single rows, not with those that the rows of a batch share.
    """

    type: Literal["CosineLogitBCE"] = "CosineLogitBCE"

    labelled: ClassVar[bool] = True
    shares_candidates: ClassVar[bool] = False


@register_loss
@config_class
class InBatchSoftmax(LossConfig):
    """Softmax cross-entropy over the batch's items: which of them is the row's own?

    In plain terms: each row picks its own item among those of all other rows. Also known as InfoNCE, NT-Xent, N-pair
    loss, multiple negatives ranking loss, batch softmax. Use it first: it costs no further item vectors, and large
    batches give many negatives. It goes with `InBatch()` and any others next to it: `Uniform(shared=True)` for items
    that are seldom positives, `Queue()` for small batches, hard negatives.

    Attributes:
        temperature: divides the cosine. A lower one looks at the hardest negatives alone; try 0.03 to 0.2.
        learn_temperature: trains it, starting from `temperature`.
        correct: subtracts the log of each item's sampling probability from its logit (logQ correction), because
            popular items are more often in a batch.
        user_temperature: divides it by exp(w · u) of the user's vector u, with a learned w: tastes of some users are
            sharper than those of others. It changes no order, so that the index searches unit vectors as before.
        growing: for catalogues to which items are added: one added late is a negative of the time since its first
            event alone, so that new items are not ranked low for their few clicks, and one without a training positive
            is never a negative (`sampling.availability`). It needs the events' times and `correct`.
    """

    temperature: PositiveFloat = 0.1
    learn_temperature: bool = False
    correct: bool = True
    user_temperature: bool = False
    growing: bool = False
    type: Literal["InBatchSoftmax"] = "InBatchSoftmax"

    default_negatives: ClassVar[tuple[Any, ...]] = (InBatch(),)
    needs: ClassVar[tuple[str, ...]] = ("InBatch",)


@register_loss
@config_class
class SampledSoftmax(LossConfig):
    """Softmax cross-entropy of the positive among negatives drawn from the catalogue.

    In plain terms: as `InBatchSoftmax`, but the other items are drawn, so that items without a positive are met as
    well. Also known as sampled softmax, candidate sampling, importance-sampled softmax; with `correct` it estimates the
    softmax over the whole catalogue. Use it where the catalogue has many items that are seldom clicked. It goes with
    `Uniform(per_positive=..., shared=True)`, `Popularity(...)` or both; hard negatives may be added.

    Attributes:
        temperature: divides the cosine. A lower one looks at the hardest negatives alone; try 0.03 to 0.2.
        learn_temperature: trains it, starting from `temperature`.
        correct: subtracts the log of each item's sampling probability from its logit (logQ correction).
        user_temperature: divides it by exp(w · u) of the user's vector u, with a learned w: tastes of some users are
            sharper than those of others. It changes no order, so that the index searches unit vectors as before.
        growing: for catalogues to which items are added: one added late is a negative of the time since its first
            event alone, so that new items are not ranked low for their few clicks, and one without a training positive
            is never a negative (`sampling.availability`). It needs the events' times and `correct`.
    """

    temperature: PositiveFloat = 0.1
    learn_temperature: bool = False
    correct: bool = True
    user_temperature: bool = False
    growing: bool = False
    type: Literal["SampledSoftmax"] = "SampledSoftmax"

    default_negatives: ClassVar[tuple[Any, ...]] = (Uniform(per_positive=800, shared=True),)


@register_loss
@config_class
class FullSoftmax(LossConfig):
    """Softmax cross-entropy over the whole catalogue: which of all items is the row's own?

    In plain terms: as `SampledSoftmax`, but nothing is drawn: every step compares with every item, exactly. Also known
    as full cross-entropy, multinomial likelihood. Use it where the catalogue is small: a step's time and memory grow
    with it. An item without a training positive is a negative of every row, so it is hardly ever found; where new items
    matter, set `growing`. It goes with `Catalogue()` alone. `sampling.masked="user"` leaves the user's other positives
    out of the sum.

    Attributes:
        temperature: divides the cosine. A lower one looks at the hardest negatives alone; try 0.03 to 0.2.
        learn_temperature: trains it, starting from `temperature`.
        user_temperature: divides it by exp(w · u) of the user's vector u, with a learned w: tastes of some users are
            sharper than those of others. It changes no order, so that the index searches unit vectors as before.
        growing: for catalogues to which items are added: one added late is a negative of the time since its first
            event alone, so that new items are not ranked low for their few clicks, and one without a training positive
            is never a negative (`sampling.availability`). It needs the events' times.
    """

    temperature: PositiveFloat = 0.1
    learn_temperature: bool = False
    user_temperature: bool = False
    growing: bool = False
    type: Literal["FullSoftmax"] = "FullSoftmax"

    default_negatives: ClassVar[tuple[Any, ...]] = (Catalogue(),)
    needs: ClassVar[tuple[str, ...]] = ("Catalogue",)


@register_loss
@config_class
class BilateralSoftmax(LossConfig):
    """Softmax loss with one temperature for positives and another for negatives.

    In plain terms: as `SampledSoftmax`, but with a higher `temperature_positive` a single positive pulls less, so that
    wrong ones do less harm. Also known as bilateral softmax loss, BSL. Use it for logs with noise among the positives.
    It goes with `Uniform(per_positive=..., shared=True)`, `Popularity(...)`, `InBatch()`.

    Both temperatures are given, not learned: the loss falls without end as the positives' one does.

    Attributes:
        temperature_positive: divides the positive's cosine.
        temperature_negative: divides the negatives' cosines.
        correct: subtracts the log of each negative's sampling probability from its logit (logQ correction).
    """

    temperature_positive: PositiveFloat = 0.1
    temperature_negative: PositiveFloat = 0.1
    correct: bool = False
    type: Literal["BilateralSoftmax"] = "BilateralSoftmax"

    default_negatives: ClassVar[tuple[Any, ...]] = (Uniform(per_positive=800, shared=True),)
    by_user: ClassVar[bool] = True


@register_loss
@config_class
class GBCE(LossConfig):
    """Generalized binary cross-entropy: is this pair in the log or not, without overconfidence from few negatives.

    In plain terms: the positive is trained towards 1 and sampled negatives towards 0, but the positive counts less, the
    fewer of all possible negatives are drawn. Also known as gBCE, gSASRec's loss. Use it to compare with gSASRec, with
    many negatives per row. It goes with `Uniform(per_positive=..., shared=True)` or `Uniform(...)`.

    Attributes:
        temperature: divides the cosine.
        learn_temperature: trains it, starting from `temperature`.
        calibration: t of gSASRec. 0 is binary cross-entropy; 1 makes the probability of a pair the true one.
    """

    temperature: PositiveFloat = 0.1
    learn_temperature: bool = False
    calibration: Annotated[float, Field(ge=0.0, le=1.0)] = 0.75
    type: Literal["GBCE"] = "GBCE"

    default_negatives: ClassVar[tuple[Any, ...]] = (Uniform(per_positive=256, shared=True),)
    needs: ClassVar[tuple[str, ...]] = ("Uniform",)


@register_loss
@config_class
class CosineContrastive(LossConfig):
    """Cosine contrastive loss: positives towards cosine 1, negatives below a margin.

    In plain terms: 1 - cosine of the positive, and `negative_weight` times the mean of what negatives are above
    `margin`. Also known as CCL, SimpleX's loss. Use it to compare with SimpleX. Margins above 0.4 and weights above 10
    ranked worse with towers on the log of `twotower synth`. It goes with many negatives of any kind.

    Attributes:
        margin: cosine below which a negative costs nothing.
        negative_weight: of the negatives' mean relative to the positive.
    """

    margin: Margin = 0.2
    negative_weight: NonNegativeFloat = 4.0
    type: Literal["CosineContrastive"] = "CosineContrastive"

    default_negatives: ClassVar[tuple[Any, ...]] = (Uniform(per_positive=800, shared=True),)
    by_user: ClassVar[bool] = True


@register_loss
@config_class
class PairwiseLogistic(LossConfig):
    """Pairwise logistic loss: the positive before each negative.

    In plain terms: the probability that the positive is ranked before a negative, for one pair at a time. Also known as
    BPR (Bayesian personalized ranking), RankNet's loss. Use it to compare with BPR; a softmax usually ranks the top
    better. It goes with `Uniform()` and any others.

    Attributes:
        temperature: divides the difference of cosines.
        learn_temperature: trains it, starting from `temperature`.
    """

    temperature: PositiveFloat = 0.1
    learn_temperature: bool = False
    type: Literal["PairwiseLogistic"] = "PairwiseLogistic"


@register_loss
@config_class
class TripletHinge(LossConfig):
    """Triplet hinge loss: the positive nearer than each negative by a margin.

    In plain terms: a negative costs what it lacks to be `margin` below the positive. Also known as triplet loss, max
    margin loss, hinge loss, WARP without its ranks. Use it to compare with earlier embedding work. It goes with
    `Uniform()`, and with hard negatives next to it (`Mined()`), since easy ones soon cost nothing.

    Attributes:
        margin: difference of cosines beyond which a negative costs nothing.
    """

    margin: Annotated[float, Field(gt=0.0, le=2.0)] = 0.2
    type: Literal["TripletHinge"] = "TripletHinge"


# Any registered class, also one that is registered later.
Loss = Annotated[LossConfig, OpenUnion(lambda: list(LOSSES.values()))]
