"""History encoders: how the embeddings of a user's past items become one vector.

An encoder without options is a name of `History.encoder`. One with options has a configuration class here too; its name
stands for the class with all defaults, so that `History(of="adid", encoder="gru")` is `encoder=GRU()`. Layers are
registered with `twotower_tf.model.history.registers`.

| name | class | reads order | |
| --- | --- | --- | --- |
| `mean` | | no | mean of the embeddings |
| `recency` | | yes | mean weighted by 0.9 to the number of later values, so that the newest count most |
| `last` | | yes | the newest value alone |
| `attention` | `Attention` | by its learned positions | mean with learned weights |
| `self_attention` | `SelfAttention` | yes, causal | transformer: SASRec's block or the gated block of eSASRec |
| `gru` | `GRU` | yes, causal | gated recurrent units |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from twotower_tf.config.base import Positive, Share, config_class
from twotower_tf.config.open_union import OpenUnion
from twotower_tf.errors import ConfigError, unknown_name


class HistoryEncoder:
    """Base class of the encoders' configuration classes.

    Attributes:
        name: that `History.encoder` accepts in place of the class.
        causal: whether one pass over a sequence gives the vector at each of its positions, of the values up to there.
            Such an encoder is trained on whole sequences, see `TrainConfig.rows`.
    """

    name: ClassVar[str] = ""
    causal: ClassVar[bool] = False


_ENCODERS: dict[str, type[HistoryEncoder] | None] = dict.fromkeys(("mean", "recency", "last"))
EncoderClass = TypeVar("EncoderClass", bound=type[HistoryEncoder])


def history_encoder(name: str) -> Callable[[EncoderClass], EncoderClass]:
    """Makes a configuration class valid for `History.encoder`, and its name stand for it with all defaults.

    Args:
        name: that `twotower_tf.model.history.registers` gives the layer; the layer is created with the fields.

    Raises:
        ValueError: for a name that another encoder has, or a class without the field `type: Literal["NAME"] = "NAME"`.
    """

    def register(cls: EncoderClass) -> EncoderClass:
        own = cls.__name__
        if not dataclasses.is_dataclass(cls) or getattr(cls, "type", None) != own:
            raise ValueError(f'{own}.type: missing (expected type: Literal["{own}"] = "{own}" in a @config_class)')
        if name in _ENCODERS:
            raise ValueError(f"history encoder: invalid name {name!r} (already registered); choose another name")
        cls.name = name
        _ENCODERS[name] = cls
        return cls

    return register


def add_history_encoder(name: str) -> None:
    """Makes a name without options valid for `History.encoder`; `model.history.registers` calls it."""
    _ENCODERS.setdefault(name, None)


class _EncoderField(OpenUnion):
    """Annotates a field that holds a history encoder: a configuration class, or a name."""

    def __init__(self) -> None:
        super().__init__(lambda: [each for each in _ENCODERS.values() if each is not None])

    def _validate(self, value: Any, info: Any) -> Any:
        if not isinstance(value, str):
            return super()._validate(value, info)
        if value not in _ENCODERS:
            raise ConfigError(
                f"History.encoder: {unknown_name('encoder', value, _ENCODERS)} (of one outside the package, name the "
                "module in TWOTOWER_EXTENSIONS)"
            )
        cls = _ENCODERS[value]
        return value if cls is None else cls()


Encoder = Annotated[str | HistoryEncoder, _EncoderField()]


def encoder_name(encoder: str | HistoryEncoder) -> str:
    """Returns the name that the encoder's layer is registered under."""
    return encoder if isinstance(encoder, str) else encoder.name


def is_causal(encoder: str | HistoryEncoder) -> bool:
    """Returns whether one pass over a sequence gives the vector at each position."""
    return not isinstance(encoder, str) and encoder.causal


@history_encoder("attention")
@config_class
class Attention(HistoryEncoder):
    """A mean of the past items whose weights are a softmax of learned scores.

    Attributes:
        query: what scores an item. "learned": a network that sees the item alone (Yang et al., "Hierarchical Attention
            Networks", 2016, section 2.2). "user": one that compares it with the other user features, as in Deep
            Interest Network (Zhou et al., 2018, section 4.3).
        hidden: units of the scoring network's hidden layer.
        positions: adds a learned score for the number of later values, so that order counts.
    """

    query: Literal["learned", "user"] = "learned"
    hidden: Positive = 32
    positions: bool = True
    type: Literal["Attention"] = "Attention"


@history_encoder("self_attention")
@config_class
class SelfAttention(HistoryEncoder):
    """A causal transformer over the past items; the vector is that of the newest.

    Attributes:
        block: "sasrec" is the block of Kang and McAuley, "Self-Attentive Sequential Recommendation" (2018). "ligr" is
            the block with gated residuals and SwiGLU of LiGR (2025), which eSASRec uses.
        blocks: number of blocks, one after the other.
        heads: attention heads of a block; they divide the embedding's dimension.
        hidden: units of a block's feed-forward layer; None takes the embedding's dimension for "sasrec", and four times
            that for "ligr".
        dropout: dropout rate of the embedded items, and of what each half of a block adds.
        positions: adds a learned embedding of the place, counted from the oldest value kept.
    """

    causal: ClassVar[bool] = True

    block: Literal["sasrec", "ligr"] = "sasrec"
    blocks: Positive = 2
    heads: Positive = 1
    hidden: Positive | None = None
    dropout: Share = 0.1
    positions: bool = True
    type: Literal["SelfAttention"] = "SelfAttention"


@history_encoder("gru")
@config_class
class GRU(HistoryEncoder):
    """Gated recurrent units (Cho et al., 2014) over the past items; the vector is the state after the newest.

    Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks" (2016). A state has the embedding's
    dimension.

    Attributes:
        layers: number of layers, one after the other.
        dropout: dropout rate of the embedded items.
    """

    causal: ClassVar[bool] = True

    layers: Positive = 1
    dropout: Share = 0.0
    type: Literal["GRU"] = "GRU"
