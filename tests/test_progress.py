"""Progress as somebody at a terminal, or a log, sees it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from darkhaloscope.progress import Bars


def steps(console: Console) -> None:
    with Bars(console, "arms") as on_step:
        for what, total in (("data sets", 2), ("networks", 3)):
            for done in range(total + 1):
                on_step(what, done, total)


def test_each_stage_has_its_bar_on_a_terminal_and_one_line_in_a_log() -> None:
    said = StringIO()
    steps(Console(file=said, force_terminal=True, width=120))
    assert "data sets" in said.getvalue()
    assert "networks" in said.getvalue()
    assert "3/3" in said.getvalue()
    log = StringIO()
    steps(Console(file=log, force_terminal=False, width=120))
    lines = log.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "data sets: 2 of 2 arms (100%)",
        "networks: 3 of 3 arms (100%)",
    ]


def test_a_stage_that_fails_is_not_said_to_be_done() -> None:
    log = StringIO()

    def fails() -> None:
        with Bars(Console(file=log), "arms") as on_step:
            on_step("networks", 1, 3)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert log.getvalue() == ""
