"""Computes the size of a regular expression with its counted repetitions written out, a bound of its matching cost.

RE2 matches in time linear in the text, but the factor is the size of its program, and `(a{0,30}){0,30}` is a program
of 900 letters (Cox, "Regular Expression Matching in the Wild", 2010).
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<quoted>\\Q.*?(?:\\E|$))           # literal text
    | (?P<escaped>\\(?:[pP]\{[^}]*\}|[pP].|x\{[^}]*\}|.)?)
    | (?P<set>\[\^?\]?(?:\[:[^]]*:\]|\\.|[^]\\])*\]?)
    | (?P<count>\{(?P<low>\d+)(?P<comma>,(?P<high>\d*))?\})
    | (?P<open>\((?:\?[^:)>]*[:>])?)
    | (?P<close>\))
    | (?P<free>[*+?|^$])                  # no letter of its own
    | (?P<letter>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLASS = 4  # letters' worth of a character class: RE2 writes it out as ranges of bytes


def measure_expanded(pattern: str) -> int:
    """Returns the number of letters of a pattern, a repeated part counted as often as it may be repeated.

    An odd pattern is counted as well as can be: whether it is valid is for RE2 to say.
    """
    groups = [[0]]  # of each open group, the sizes of its parts
    for token in _TOKEN.finditer(pattern):
        kind, parts = token.lastgroup, groups[-1]
        if kind == "count":
            parts[-1] *= max(1, int(token["low"]), int(token["high"] or 0))
        elif kind == "open":
            groups.append([0])
        elif kind == "close" and len(groups) > 1:
            size = sum(groups.pop())
            groups[-1].append(size)
        elif kind == "quoted":
            parts.append(len(token[0]))
        elif kind in ("set", "escaped"):
            parts.append(_CLASS)
        elif kind == "letter":
            parts.append(1)
    return sum(map(sum, groups))
