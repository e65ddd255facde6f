"""The report as Markdown, for a model card."""

from __future__ import annotations

import re
from typing import Any

from tokenkit.evaluation.comparison import tables, words
from tokenkit.evaluation.comparison.tables import Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def markdown(report: dict[str, Any]) -> str:
    """The tables and warnings of a report; plots, samples and curves are on the page."""
    names, teacher = list(report["models"]), report["teacher"]
    parts = [f"## Comparison of {plain(', '.join(names))}"]
    if len(names) > 1:
        parts.append(f"{plain(teacher)} is the teacher, which the others are held against.")
    parts.append(table(tables.summary(report)))
    parts += [f"- **{plain(w['text'])}**: {plain(w['why'])}" for w in report["warnings"]]
    parts += ["### Bits per byte", words.BITS, table(tables.bits_table(report)), *left_out(report)]
    if report["kept"]:
        parts += ["### What was kept", words.KEPT, table(tables.kept_table(report))]
    if report["tasks"]:
        parts += ["### Tasks", words.TASKS, table(tables.task_table(report))]
    parts += ["### Speed and memory", words.COST, table(tables.cost_table(report))]
    if any(report["rows"].values()):
        parts += ["### Rows that barely moved", words.ROWS, table(tables.rows_table(report))]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text without a meaning in Markdown, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def table(made: Table) -> str:
    """A table; numbers stand on the right."""
    lines = [made.header, ["---", *["---:"] * (len(made.header) - 1)]]
    lines = [[plain(word) for word in lines[0]], lines[1]]
    lines += [[plain(cell.plain()) for cell in row] for row in made.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def left_out(report: dict[str, Any]) -> list[str]:
    """Which documents were not read."""
    found = []
    for label, file in report["bits_per_byte"].items():
        numbers = ", ".join(str(item["document"]) for item in file["left_out"])
        if numbers:
            found.append(
                f"Left out of {plain(label)}, since a tokenizer cannot write them: {numbers}."
            )
    return found
