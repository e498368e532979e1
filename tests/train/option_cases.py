"""Every option of negatives and losses in a configuration, and what it means for the rows of a small log."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tests.train.option_oracle import (
    COUNT,
    ITEMS,
    LOG,
    POSITIVES,
    above,
    alike,
    at_most,
    bilateral,
    colour,
    contrastive,
    gbce,
    logistic,
    of_all,
    popularity,
    ranked,
    rejected,
    shape,
    share,
    softmax,
    thinned,
    triplet,
    uniform,
)
from twotower_tf.config import (
    GBCE,
    BilateralSoftmax,
    Catalogue,
    CosineContrastive,
    CosineLogitBCE,
    Downsample,
    FullSoftmax,
    InBatch,
    InBatchSoftmax,
    Labelled,
    Mined,
    PairwiseLogistic,
    Popularity,
    Queue,
    Rejections,
    SameAttribute,
    SampledSoftmax,
    SkipAbove,
    TripletHinge,
    Uniform,
)

# --- the table --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Draws that a row has for itself: their probabilities, how many, what one counts, whether they are hard."""

    probabilities: Callable[..., dict[int, float]]
    draws: int
    weight: float = 1.0
    hard: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration, and what it means.

    Attributes:
        negatives: of the configuration.
        loss: of the configuration.
        meaning: the loss of one row; None for `CosineLogitBCE`, whose mean is over all candidates.
        own: what rows draw for themselves, in the order of `negatives`.
        shared: (probabilities, draws) for the whole batch.
        queue: slots.
        share: of each item among an epoch's positives.
        sampling: other fields of `SamplingConfig`.
        age: the factor of a row's weight by its age in days.
        labelled: rows with label 0 are rows of their own.
        learned: weights of its own that the loss trains.
        size: rows of an epoch.
    """

    negatives: tuple[Any, ...]
    loss: Any
    meaning: Any = None
    own: tuple[Drawn, ...] = ()
    shared: tuple[tuple[dict[int, float], int], ...] = ()
    queue: int = 0
    share: list[float] = dataclasses.field(default_factory=share)
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    age: Callable[[float], float] = lambda days: 1.0
    labelled: bool = False
    learned: int = 0
    size: float = len(POSITIVES)

    @property
    def in_batch(self):
        return InBatch() in self.negatives


EVEN = of_all([1.0] * ITEMS)
ROOTS = of_all([max(count, 2) ** 0.5 for count in COUNT])
SOFT, PAIR = InBatchSoftmax(temperature=0.2), PairwiseLogistic(temperature=0.3)
OWN = SampledSoftmax(temperature=0.2)
IN = (InBatch(),)


def hard(probabilities, draws=1, weight=1.0):
    return Drawn(probabilities, draws, weight, hard=True)


CASES = {
    "uniform": Case((Uniform(3),), OWN, softmax(0.2, True), (Drawn(uniform, 3),)),
    "uniform shared": Case((Uniform(5, shared=True),), OWN, softmax(0.2, True), shared=((EVEN, 5),)),
    "popularity": Case((Popularity(3),), OWN, softmax(0.2, True), (Drawn(popularity(0.75, 1), 3),)),
    "popularity alpha": Case((Popularity(2, alpha=2.0),), OWN, softmax(0.2, True), (Drawn(popularity(2, 1), 2),)),
    "popularity floor": Case((Popularity(2, floor=4.0),), OWN, softmax(0.2, True), (Drawn(popularity(0.75, 4), 2),)),
    "popularity shared": Case(
        (*IN, Popularity(6, alpha=0.5, floor=2.0, shared=True)), SOFT, softmax(0.2, True), shared=((ROOTS, 6),)
    ),
    "two of the row's own": Case(
        (Uniform(3), Popularity(1)),
        OWN,
        softmax(0.2, True),
        (Drawn(uniform, 3), Drawn(popularity(0.75, 1), 1)),
    ),
    "in-batch": Case(IN, SOFT, softmax(0.2, True)),
    "in-batch, own item masked": Case(IN, SOFT, softmax(0.2, True), sampling={"masked": "row"}),
    "in-batch, temperature": Case(IN, InBatchSoftmax(temperature=0.7), softmax(0.7, True)),
    "in-batch, uncorrected": Case(IN, InBatchSoftmax(temperature=0.2, correct=False), softmax(0.2, False)),
    # A user's own temperature is the common one before training: it adds a weight.
    "in-batch, learned": Case(
        IN, InBatchSoftmax(temperature=0.2, learn_temperature=True, user_temperature=True), softmax(0.2, 1), learned=2
    ),
    "in-batch, growing": Case(
        (*IN, Queue(size=12), Rejections(2)),
        InBatchSoftmax(temperature=0.2, growing=True),
        softmax(0.2, True),
        (hard(rejected("click", 0), 2),),
        queue=12,
    ),
    "queue": Case((*IN, Queue(size=12)), SOFT, softmax(0.2, True), queue=12),
    "downsample": Case(
        IN,
        SOFT,
        softmax(0.2, True),
        share=share(thinned(0.03)),
        sampling={"downsample": Downsample(t=0.03)},
        size=sum(thinned(0.03)(*each) for each in POSITIVES),
    ),
    "per user": Case(
        IN,
        SOFT,
        softmax(0.2, True),
        share=share(at_most(2)),
        sampling={"per_user": 2},
        size=sum(at_most(2)(*each) for each in POSITIVES),
    ),
    "downsample and per user": Case(
        IN,
        SOFT,
        softmax(0.2, True),
        share=share(at_most(2, thinned(0.03))),
        sampling={"downsample": Downsample(t=0.03), "per_user": 2},
        size=sum(at_most(2, thinned(0.03))(*each) for each in POSITIVES),
    ),
    "recency": Case(
        IN, SOFT, softmax(0.2, True), sampling={"recency_half_life": 5.0}, age=lambda days: 0.5 ** (days / 5)
    ),
    "rejections": Case((*IN, Rejections(2)), SOFT, softmax(0.2, True), (hard(rejected("click", 0), 2),)),
    "rejections weight": Case(
        (*IN, Rejections(2, weight=3.0)), SOFT, softmax(0.2, True), (hard(rejected("click", 0), 2, 3.0),)
    ),
    "rejections explicit": Case(
        (*IN, Rejections(3, explicit=True)), SOFT, softmax(0.2, True), (hard(rejected("hidden", 1), 3),)
    ),
    "rejections alone": Case((Rejections(2),), OWN, softmax(0.2, True), (hard(rejected("click", 0), 2),)),
    "skip above": Case((*IN, SkipAbove(2)), SOFT, softmax(0.2, True), (hard(above, 2),)),
    "skip above weight": Case((*IN, SkipAbove(weight=0.5)), SOFT, softmax(0.2, True), (hard(above, 1, 0.5),)),
    "same attribute": Case((*IN, SameAttribute(("shape",), 2)), SOFT, softmax(0.2, True), (hard(alike(shape), 2),)),
    "same attributes": Case(
        (*IN, SameAttribute(("shape", "colour"), weight=2.0)),
        SOFT,
        softmax(0.2, True),
        (hard(alike(shape, colour), 1, 2.0),),
    ),
    "mined": Case((*IN, Mined((2, 4), 2)), SOFT, softmax(0.2, True), (hard(ranked(2, 4), 2),)),
    "mined weight": Case((*IN, Mined((1, 3), weight=0.25)), SOFT, softmax(0.2, True), (hard(ranked(1, 3), 1, 0.25),)),
    "easy and hard of the row's own": Case(
        (Rejections(1, weight=2.0), Uniform(3)),
        OWN,
        softmax(0.2, True),
        (hard(rejected("click", 0), 1, 2.0), Drawn(uniform, 3)),
    ),
    "sampled softmax": Case(
        (Uniform(6, shared=True), Popularity(3, alpha=0.5, floor=2.0, shared=True), Rejections()),
        SampledSoftmax(temperature=0.4),
        softmax(0.4, True),
        (hard(rejected("click", 0)),),
        shared=((EVEN, 6), (ROOTS, 3)),
    ),
    "sampled softmax, uncorrected": Case(
        (Popularity(3, alpha=2.0),),
        SampledSoftmax(temperature=0.05, correct=False),
        softmax(0.05, False),
        (Drawn(popularity(2, 1), 3),),
    ),
    "sampled softmax, learned": Case(
        (Uniform(4, shared=True),),
        SampledSoftmax(temperature=0.05, learn_temperature=True, user_temperature=True),
        softmax(0.05, 1),
        shared=((EVEN, 4),),
        learned=2,
    ),
    "sampled softmax, growing": Case(
        (Uniform(3),), SampledSoftmax(temperature=0.2, growing=True), softmax(0.2, True), (Drawn(uniform, 3),)
    ),
    "full softmax, growing": Case(
        (Catalogue(),), FullSoftmax(temperature=0.3, growing=True), softmax(0.3, True), shared=((EVEN, ITEMS),)
    ),
    "full softmax": Case((Catalogue(),), FullSoftmax(temperature=0.3), softmax(0.3, False), shared=((EVEN, ITEMS),)),
    "full softmax, learned, own item masked": Case(
        (Catalogue(),),
        FullSoftmax(learn_temperature=True, user_temperature=True),
        softmax(0.1, False),
        shared=((EVEN, ITEMS),),
        sampling={"masked": "row"},
        learned=2,
    ),
    "bilateral, catalogue": Case(
        (Catalogue(),), BilateralSoftmax(0.3, 0.2), bilateral(0.3, 0.2, False), shared=((EVEN, ITEMS),)
    ),
    "bilateral": Case((Uniform(3),), BilateralSoftmax(0.3, 0.2), bilateral(0.3, 0.2, False), (Drawn(uniform, 3),)),
    "bilateral, corrected": Case(
        (*IN, Popularity(5, alpha=0.5, floor=2.0, shared=True), SkipAbove(weight=3.0)),
        BilateralSoftmax(0.3, 0.2, correct=True),
        bilateral(0.3, 0.2, True),
        (hard(above, 1, 3.0),),
        shared=((ROOTS, 5),),
    ),
    "gbce": Case((Uniform(3),), GBCE(temperature=0.4), gbce(0.4, 0.75), (Drawn(uniform, 3),)),
    "gbce, shared, learned": Case(
        (Uniform(3, shared=True),), GBCE(0.4, True, 0.5), gbce(0.4, 0.5), shared=((EVEN, 3),), learned=1
    ),
    "contrastive": Case(
        (*IN, Rejections(2, weight=3.0)),
        CosineContrastive(margin=0.1, negative_weight=7.0),
        contrastive(0.1, 7.0),
        (hard(rejected("click", 0), 2, 3.0),),
    ),
    "pairwise": Case((Uniform(3),), PAIR, logistic(0.3), (Drawn(uniform, 3),)),
    "pairwise, weighted": Case(
        (Uniform(3), SameAttribute(("colour",), weight=0.5)),
        PAIR,
        logistic(0.3),
        (Drawn(uniform, 3), hard(alike(colour), 1, 0.5)),
    ),
    "pairwise, learned": Case(
        (Uniform(2),), PairwiseLogistic(0.3, learn_temperature=True), logistic(0.3), (Drawn(uniform, 2),), learned=1
    ),
    "triplet": Case((*IN, Uniform(4)), TripletHinge(margin=0.6), triplet(0.6), (Drawn(uniform, 4),)),
    "click": Case((Uniform(2),), CosineLogitBCE(), own=(Drawn(uniform, 2),), learned=2),
    "click, weighted": Case(
        (Rejections(2, weight=3.0), Uniform(1)),
        CosineLogitBCE(),
        own=(hard(rejected("click", 0), 2, 3.0), Drawn(uniform, 1)),
        learned=2,
    ),
    "click, labelled": Case(
        (Labelled(), Uniform(2)), CosineLogitBCE(), own=(Drawn(uniform, 2),), labelled=True, learned=2, size=len(LOG)
    ),
}
