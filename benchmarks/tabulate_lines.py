"""Lines of equal keys as a table on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

Line = dict[str, Any]


def show(console: Console, title: str, lines: list[Line]) -> None:
    """Lines of equal keys as a table."""
    out = Table(title=title, title_justify="left")
    for name in lines[0]:
        out.add_column(name)
    for line in lines:
        out.add_row(*(_text(v) for v in line.values()))
    console.print(out)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
