"""A deliberate fault, and test files that notice many."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: what is wrong then.
        old: the right text, which stands once in the package.
        new: the wrong one.
        tests: names of test files of which at least one must fail; the cheapest first.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


OPTIONS = ("test_options.py",)
