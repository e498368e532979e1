"""Rewrites the table of shipped configurations in docs/benchmarks.md from the figures of `make quality`.

`python docs/quality_table.py FIGURES [PAGE]`: FIGURES has a JSON object per line, as tests/end_to_end/quality_record.py
writes them. The last one of a configuration replaces its row, between the marks in the page; other rows stay.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "benchmarks.md"
BEGIN = "<!-- Rows that `make quality` measures are rewritten by docs/quality_table.py. -->"
END = "<!-- End of the table of `make quality`. -->"
HEADER = (
    "configuration",
    "protocol",
    "recall (popularity)",
    "ndcg (popularity)",
    "parameters",
    "time of `run`",
    "date",
)


def rewrite_table(text: str, figures: list[dict[str, Any]]) -> str:
    """Returns the page's text with a row for each configuration: rows that exist keep their places, new ones follow.

    Raises:
        ValueError: where the page has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no table between the lines {BEGIN!r} and {END!r}; put them back")
    rows = {name: line for line in table.splitlines() if (name := _name(line))}
    rows |= {each["configuration"]: format_row(each) for each in figures}
    lines = [_join(HEADER), _join(["---"] * len(HEADER)), *rows.values()]
    return "\n".join([before + begin, *lines, end + after])


def format_row(figures: dict[str, Any]) -> str:
    """Formats one run's figures as a row."""
    command = f"`{figures['configuration']}`" + (", `--final`" if figures["final"] else "")
    parameters = f"{figures['parameters'] / 1e6:.2f} million"
    machine = f"{figures['date']}, {figures['cores']} cores, load {figures['load']:.0f}"
    metrics = [_compare(figures, metric) for metric in ("recall", "ndcg")]
    return _join([command, figures["protocol"], *metrics, parameters, _duration(figures["seconds"]), machine])


def _compare(figures: dict[str, Any], metric: str) -> str:
    names = [f"{metric}@{k}" for k in figures["ks"]]
    return ", ".join(
        f"@{name.partition('@')[2]} {_decimal(figures['metrics'][name])} ({_decimal(figures['popularity'][name])})"
        for name in names
    )


def _decimal(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _name(line: str) -> str:
    found = re.match(r"\| `(\w+)`", line)
    return found[1] if found else ""


def _join(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def main(path: Path, page: Path = PAGE) -> None:
    """Rewrites the page; without a file of figures, as where the published data are missing, nothing changes."""
    if not path.is_file():
        print(f"{path}: no figures; {page} is left as it is")
        return
    figures = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    page.write_text(rewrite_table(page.read_text(encoding="utf-8"), figures), encoding="utf-8")
    print(f"{page}: {', '.join(each['configuration'] for each in figures)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
