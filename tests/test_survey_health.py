"""A release that cannot be read stops a run; bad luck does not."""

from __future__ import annotations

import numpy as np
import pytest

from darkhaloscope.errors import Reason, UserError
from darkhaloscope.survey import Cutouts
from darkhaloscope.survey.health import Streak, check_readable

OK, GONE, BROKEN = Reason.OK, Reason.UNREADABLE, Reason.CORRUPT_FILE


def test_twenty_alike_in_a_row_stop() -> None:
    streak = Streak()
    for number in range(19):
        streak.add(f"{number:04d}p000", [GONE, GONE])
    with pytest.raises(
        UserError, match=r"20 bricks in a row failed alike \(unreadable\).*0019p000.*403"
    ):
        streak.add("0019p000", [GONE], "brick 0019p000: 403.")


@pytest.mark.parametrize(
    "between",
    [[OK], [OK, GONE], [BROKEN], [Reason.NO_COVERAGE], [Reason.CROSSES_EDGE], []],
)
def test_anything_else_between_begins_anew(between: list[Reason]) -> None:
    streak = Streak()
    for _ in range(5):
        for _ in range(19):
            streak.add("0000p000", [GONE])
        streak.add("0000p000", between)
    # Another reason is the first of a row of its own.
    assert streak.length == (1 if between == [BROKEN] else 0)


def test_empty_sky_is_no_fault() -> None:
    streak = Streak()
    for _ in range(100):
        streak.add("0000p000", [Reason.NO_COVERAGE, Reason.NO_COVERAGE])


def test_the_first_brick() -> None:
    out = Cutouts.blank("0000p000", ("r",), 2, 16)
    check_readable(out)
    out.notes.append("brick 0000p000: cannot read s3://x: Forbidden.")
    out.reason[:] = Reason.MISSING_FILE
    check_readable(out)
    out.reason[0] = Reason.UNREADABLE
    check_readable(out)
    out.reason[:] = Reason.UNREADABLE
    with pytest.raises(UserError, match=r"first brick cannot be read: .*Forbidden"):
        check_readable(out)
    check_readable(Cutouts.blank("0000p000", ("r",), 0, 16))
    assert np.isnan(out.x).all()
