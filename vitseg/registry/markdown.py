"""Pieces of the Markdown that MLflow's page of a version shows: tables, lists and durations."""

import re
from collections.abc import Sequence

CELL_PADDING = "&ensp;"
"""After the text of each cell, and between a table and a heading: MLflow leaves no space there."""
_MAX_LISTED = 20


def listed(words: Sequence[str]) -> str:
    """Return words with commas, the first 20 and the number of the others."""
    more = f" and {len(words) - _MAX_LISTED} more" if len(words) > _MAX_LISTED else ""
    return ", ".join(words[:_MAX_LISTED]) + more


def duration(seconds: float) -> str:
    """Return seconds as text: `0.4 s`, `42 s`, `2 min 05 s`, `1 h 03 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table_head(titles: Sequence[str]) -> list[str]:
    """Return the first two lines of a table."""
    return [table_row(titles), "|---" * len(titles) + "|"]


def table_row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    clean = (re.sub(r"\s+", " ", cell.replace("|", "/")) for cell in cells)
    return "| " + " | ".join(f"{cell}{CELL_PADDING}" if cell else "" for cell in clean) + " |"
