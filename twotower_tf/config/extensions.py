"""Modules outside the package that register configuration classes, named in the variable TWOTOWER_EXTENSIONS."""

from __future__ import annotations

import importlib
import os

from twotower_tf.errors import ConfigError

VARIABLE = "TWOTOWER_EXTENSIONS"


def import_extensions() -> None:
    """Imports the modules that TWOTOWER_EXTENSIONS names, separated by commas.

    Processes that read a configuration from JSON (later commands, scoring's workers, the check of an export) need it:
    JSON says which classes a configuration has, and not where they are defined. A module is imported once.

    Raises:
        ConfigError: for a module that cannot be imported.
    """
    for name in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"{VARIABLE}: invalid module {name!r} ({type(error).__name__}: {error}); correct the name, or add its "
                "directory to PYTHONPATH"
            ) from error
