"""Progress with a rate and an ETA: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0


class Bar:
    """One stage's progress; a context manager.

    Parameters
    ----------
    console : Console
    label : str
        What is being done.
    total : int
        Units in all.
    unit : str
        What is counted, e.g. ``rows``.
    """

    def __init__(self, console: Console, label: str, total: int, unit: str) -> None:
        self._console, self._label, self._total, self._unit = console, label, total, unit
        self._done = 0
        self._skipped = 0
        self._start = self._last_line = time.monotonic()
        self._live = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[rate]}}  ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._live.add_task(label, total=total, rate="")

    def __enter__(self) -> Bar:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        if not self._console.is_terminal and exc[0] is None:
            self._console.print(self.line(), soft_wrap=True, highlight=False)

    def advance(self, units: int, *, skipped: bool = False) -> None:
        """Count finished units; ``skipped`` ones were there before and do not enter the rate."""
        self._done += units
        self._skipped += units if skipped else 0
        self._live.update(self._task, completed=self._done, rate=self._rate_text())
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line > LINE_EVERY_S:
            self._last_line = now
            self._console.print(self.line(), soft_wrap=True, highlight=False)

    def reached(self, done: int, total: int) -> None:
        """Set both counts at once, where the total is known only on the way."""
        self._total = total
        self._live.update(self._task, total=total)
        self.advance(done - self._done)

    def _rate(self) -> float:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        return (self._done - self._skipped) / elapsed

    def _rate_text(self) -> str:
        rate = self._rate()
        return f"{rate:.3g} {self._unit}/s" if rate > 0 else ""

    def line(self) -> str:
        """The state as one line of text."""
        share = self._done / self._total if self._total else 1.0
        text = f"{self._label}: {self._done} of {self._total} {self._unit} ({share:.0%})"
        rate = self._rate()
        if rate > 0:
            left = (self._total - self._done) / rate
            text += f", {rate:.3g} {self._unit}/s, ETA {left:.0f} s"
        return text


class Bars:
    """Stages one after another, each with a bar from its first step to its last; a context manager.

    Parameters
    ----------
    console : Console
    unit : str
        What is counted.
    """

    def __init__(self, console: Console, unit: str) -> None:
        self._console, self._unit = console, unit
        self._what = ""
        self._stack = ExitStack()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stack.__exit__(*exc)

    def __call__(self, what: str, done: int, total: int) -> None:
        """So much of a stage is done; another one than the last closes that one's bar."""
        if what != self._what:
            self._stack.close()
            self._what = what
            self._bar = self._stack.enter_context(Bar(self._console, what, total, self._unit))
        self._bar.reached(done, total)
