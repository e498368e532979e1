"""Turns cosines into click probabilities, for models whose loss trains one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ClickProbability:
    """The function sigmoid(weight · 2·atanh(cosine_scale · cosine) + bias), as `CosineLogitBCE` trains it.

    Attributes:
        cosine_scale: below 1, so that the logit is finite.
        weight: at least 0: nearer items are not less probable.
        bias: of the logit.
    """

    cosine_scale: float
    weight: float
    bias: float

    def of_cosines(self, cosines: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Computes the probabilities float64 of cosines, in the same shape."""
        logits = self.weight * 2.0 * np.arctanh(self.cosine_scale * np.asarray(cosines, np.float64)) + self.bias
        probabilities: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-logits))
        return probabilities
