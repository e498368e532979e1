"""What a model learns from a positive and its negatives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twotower_tf.config.base import NonNegative, NonNegativeFloat, PositiveFloat, config_class

Margin = Annotated[float, Field(ge=-1.0, le=1.0)]


@config_class
class CosineLogitBCE:
    """Binary cross-entropy on a sigmoid unit over the bounded logit 2·atanh(cosine)."""

    type: Literal["CosineLogitBCE"] = "CosineLogitBCE"


@config_class
class InBatchSoftmax:
    """Softmax cross-entropy over the batch's items, and any other negatives that `sampling` names.

    Attributes:
        temperature: divides the cosine.
        learn_temperature: trains it, starting from `temperature`.
        correct: subtracts the log of each item's sampling probability from its logit.
    """

    temperature: PositiveFloat = 0.05
    learn_temperature: bool = False
    correct: bool = True
    type: Literal["InBatchSoftmax"] = "InBatchSoftmax"


@config_class
class SampledSoftmax:
    """Softmax cross-entropy of the positive among negatives drawn from the catalogue.

    Attributes:
        negatives: catalogue negatives drawn once per batch and met by all its rows, shared out among `Uniform` and
            `Popularity` of `sampling.negatives` in proportion to their `per_positive`; 0 draws what they say.
        temperature: divides the cosine.
        learn_temperature: trains it, starting from `temperature`.
        correct: subtracts the log of each item's sampling probability from its logit.
    """

    negatives: NonNegative = 800
    temperature: PositiveFloat = 0.05
    learn_temperature: bool = False
    correct: bool = True
    type: Literal["SampledSoftmax"] = "SampledSoftmax"


@config_class
class BilateralSoftmax:
    """Bilateral softmax loss: one temperature for positives, another for negatives.

    Both are given, not learned: the loss falls without end as the positives' one does.

    Attributes:
        negatives: as in `SampledSoftmax`; 0 draws what `sampling.negatives` says.
        temperature_positive: divides the positive's cosine.
        temperature_negative: divides the negatives' cosines.
        correct: subtracts the log of each negative's sampling probability from its logit.
    """

    negatives: NonNegative = 800
    temperature_positive: PositiveFloat = 0.1
    temperature_negative: PositiveFloat = 0.1
    correct: bool = False
    type: Literal["BilateralSoftmax"] = "BilateralSoftmax"


@config_class
class CosineContrastive:
    """Cosine contrastive loss: positives towards cosine 1, negatives below a margin.

    Attributes:
        margin: cosine below which a negative costs nothing.
        negative_weight: of the negatives' mean against the positive.
    """

    margin: Margin = 0.8
    negative_weight: NonNegativeFloat = 150.0
    type: Literal["CosineContrastive"] = "CosineContrastive"


@config_class
class PairwiseLogistic:
    """Pairwise logistic loss (BPR): the positive before each negative.

    Attributes:
        temperature: divides the difference of cosines.
        learn_temperature: trains it, starting from `temperature`.
    """

    temperature: PositiveFloat = 0.1
    learn_temperature: bool = False
    type: Literal["PairwiseLogistic"] = "PairwiseLogistic"


@config_class
class TripletHinge:
    """Triplet hinge loss: the positive nearer than each negative by a margin.

    Attributes:
        margin: difference of cosines beyond which a negative costs nothing.
    """

    margin: Annotated[float, Field(gt=0.0, le=2.0)] = 0.2
    type: Literal["TripletHinge"] = "TripletHinge"


Loss = Annotated[
    CosineLogitBCE
    | InBatchSoftmax
    | SampledSoftmax
    | BilateralSoftmax
    | CosineContrastive
    | PairwiseLogistic
    | TripletHinge,
    Field(discriminator="type"),
]
