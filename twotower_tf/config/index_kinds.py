"""The names that `IndexConfig.kind` accepts. `twotower_tf.index.backends` has the classes."""

from __future__ import annotations

from importlib import metadata

from twotower_tf.errors import ConfigError

GROUP = "twotower_tf.index_backends"  # entry points: a kind's name and the class that `register_backend` decorates
AUTO = "auto"
_EXACT = {"exact": True, "scann": False}  # kind: whether its answers are exact


def add_index_kind(name: str, exact: bool) -> None:
    """Makes a name valid for `IndexConfig.kind`; `index.backends.register_backend` calls it."""
    _EXACT[name] = exact


def check_index_kind(name: str) -> str:
    """Returns the name, after loading the entry point that registers it where no imported module has done so.

    Raises:
        ConfigError: for a name that no backend is registered under.
    """
    if name not in _EXACT:
        for entry in metadata.entry_points(group=GROUP, name=name):
            entry.load()
    if name not in _EXACT:
        raise ConfigError(
            f"IndexConfig.kind: invalid kind {name!r} (expected {', '.join([AUTO, *_EXACT])}); install the package "
            "that registers it, or choose another"
        )
    return name


def check_config_kind(name: str) -> str:
    """Returns a name that a configuration may have: "auto", or one that `check_index_kind` accepts."""
    return name if name == AUTO else check_index_kind(name)


def is_exact(kind: str) -> bool:
    """Returns whether a registered kind's answers are exact, so that no recall is stated."""
    return _EXACT[kind]
