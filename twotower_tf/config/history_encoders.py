"""The names that `History.encoder` accepts. `twotower_tf.model.history` has the layers."""

from __future__ import annotations

from twotower_tf.errors import ConfigError

_NAMES = ["mean", "recency", "last"]


def add_history_encoder(name: str) -> None:
    """Makes a name valid for `History.encoder`; `model.history.registers` calls it."""
    if name not in _NAMES:
        _NAMES.append(name)


def check_history_encoder(name: str) -> str:
    """Returns the name.

    Raises:
        ConfigError: for a name that no encoder is registered under.
    """
    if name not in _NAMES:
        raise ConfigError(
            f"History.encoder: invalid name {name!r} (expected {', '.join(_NAMES)}); import the module that registers "
            "it with twotower_tf.model.history.registers, or choose another"
        )
    return name
