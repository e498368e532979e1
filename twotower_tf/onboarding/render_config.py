"""Renders a proposed configuration as a commented Python file."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from twotower_tf import config
from twotower_tf.onboarding.proposal import Proposal
from twotower_tf.tables.values import python_literal


def render_proposal(proposal: Proposal, name: str, where: str) -> str:
    """Renders the configuration file of the experiment `name`, for the path `where`."""
    sections = proposal.sections
    codes = [line.code for side in proposal.lines.values() for line in side]
    codes += [line.code for line in proposal.more.values() if line.code.startswith("TextFormat(")]
    codes += [proposal.split.code, *(line.code for line in sections.values())]
    named = {name for code in codes for name in re.findall(r"\b[A-Z]\w*(?=\()", code)}  # also in values
    classes = {name for name in named if hasattr(config, name)} | {"DataConfig", "ExperimentConfig"}
    lines = [
        f'"""Proposed by `twotower init` from {_escape(", ".join(proposal.paths.values()))}.',
        "",
        f"twotower validate --config={where}",
        f"twotower run --config={where} --run_dir=runs/{name} --export_dir=export/{name}",
        "",
        *(_wrap(_escape(note), "") for note in proposal.notes),
        "All values below are guesses from the data. Check them, and correct them where you know better.",
        '"""',
        "",
        "from twotower_tf.config import (",
        *(f"    {cls}," for cls in sorted(classes)),
        ")",
        "",
        "",
        "def get_config() -> ExperimentConfig:",
        '    """The experiment."""',
        "    return ExperimentConfig(",
        f"        name={python_literal(name)},",
        "        data=DataConfig(",
        *_render_data(proposal),
        "        ),",
    ]
    for side in ("item", "user"):
        lines += [f"        {side}_features=("]
        lines += _add_comments((f"            {line.code},", line.comment) for line in proposal.lines[side])
        lines += ["        ),"]
    if proposal.left_out:
        lines += ["        # Columns that are not features:"]
        lines += [_wrap(f"{column}: {reason}", "        #   ") for column, reason in proposal.left_out.items()]
    lines += _add_comments((f"        {field}={line.code},", line.comment) for field, line in sections.items())
    return "\n".join([*lines, "    )", ""])


def _render_data(proposal: Proposal) -> list[str]:
    """Renders the fields of `DataConfig`; those that are offered become comments."""
    roles, outcomes = proposal.roles, proposal.outcomes
    data = [("root", python_literal(proposal.root), "relative to where you run twotower")]
    data += [(table, python_literal(path), "") for table, path in proposal.paths.items()]
    data += [("user_id", python_literal(roles.user.column), roles.user.why)]
    data += [("item_id", python_literal(roles.item.column), roles.item.why)]
    data += [("timestamp", python_literal(roles.time.column), roles.time.why)]
    data += [("label", python_literal(outcomes.label), outcomes.label_why)]
    data += [(each.field, each.code, each.comment) for each in outcomes.chosen if each.field != "label"]
    if roles.title.column:
        data += [("item_name", python_literal(roles.title.column), roles.title.why)]
    data += [(name, line.code, line.comment) for name, line in proposal.more.items()]
    data += [("split", proposal.split.code, proposal.split.comment)]
    found = _add_comments((f"            {name}={value},", comment) for name, value, comment in data)
    if outcomes.offered:
        found.append("            # What else may count; uncomment a line, and join two of one field with AND:")
        found += _add_comments((f"            # {each.field}={each.code},", each.comment) for each in outcomes.offered)
    return found


def _escape(text: str) -> str:
    """Replaces the parts of a text that would end a docstring."""
    return text.replace("\\", "/").replace('"""', "'''")


def _add_comments(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Formats lines with their comments at the end, or above where both are too long for one line."""
    found = []
    for code, comment in pairs:
        clean = " ".join(comment.split())
        if not clean:
            found.append(_break_call(code))
        elif len(code) + len(clean) + 4 <= 120:
            found.append(f"{code}  # {clean}")
        else:
            indent = code[: len(code) - len(code.lstrip())]
            found += [_wrap(clean, f"{indent}# "), _break_call(code)]
    return found


def _break_call(code: str) -> str:
    """Writes a call that is too long for one line with an argument per line."""
    head, bracket, rest = code.partition("(")
    if len(code) <= 120 or not bracket or not rest.endswith("),"):
        return code
    arguments, depth = [""], 0
    for token in re.findall(r'"(?:\\.|[^"\\])*"|.', rest[:-2]):
        depth += (token in ("(", "[")) - (token in (")", "]"))
        if token == "," and not depth:
            arguments.append("")
        else:
            arguments[-1] += token
    indent = code[: len(code) - len(code.lstrip())]
    inner = [f"{indent}    {each.strip()}," for each in arguments if each.strip()]  # a tuple ends with a comma
    return "\n".join([f"{head}(", *inner, f"{indent}),"])


def _wrap(text: str, prefix: str) -> str:
    return "\n".join(textwrap.wrap(" ".join(text.split()), 118, initial_indent=prefix, subsequent_indent=prefix))
