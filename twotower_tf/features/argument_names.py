"""Names the Python arguments of a loaded signature, for columns of any name. Imports no TensorFlow."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence


def argument_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the argument of each input when a signature is called from Python.

    A name that is a Python identifier is its own argument. REST, gRPC and `saved_model_cli` use the input's name as it
    is.

    Returns:
        Distinct identifiers, in the same order.
    """
    taken: dict[str, str] = {}
    for name in names:
        alias = re.sub(r"[^A-Za-z0-9_]", "_", name)
        if not alias[:1].isalpha() or keyword.iskeyword(alias) or alias == "self":
            alias = f"arg_{alias}"
        while alias in taken.values():
            alias += "_"
        taken[name] = alias
    return taken
