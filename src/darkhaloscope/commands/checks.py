"""The renderer's physics checks, as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from darkhaloscope import (
    lensing,
)
from darkhaloscope.selftest import Check, run_checks


def selftest(*, console: Console | None = None) -> list[Check]:
    """Check the renderer against what physics gives, and print a table of the checks.

    See :func:`darkhaloscope.selftest.run_checks`; what fails is explained below the table.
    """
    console = console or Console()
    with console.status("compiling the renderer, once"):
        lensing.warm()
    checks = run_checks()
    table = Table(box=None, pad_edge=False)
    table.add_column("check", no_wrap=True)
    for name in ("measured", "expected", "within"):
        table.add_column(name, justify="right")
    table.add_column("unit")
    table.add_column("")
    for check in checks:
        result = "[green]ok[/green]" if check.passed else "[red]FAILED[/red]"
        numbers = (f"{check.value:.4g}", f"{check.expected:.4g}", f"{check.tolerance:.2g}")
        table.add_row(check.name, *numbers, check.unit, result)
    console.print(table)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        console.print(f"{check.name}: {check.says}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"{len(checks) - len(failed)} of {len(checks)} checks passed", highlight=False)
    return checks
