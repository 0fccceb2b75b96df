"""A release that cannot be read stops a run; bad luck does not."""

from __future__ import annotations

import numpy as np
import pytest

from darkhaloscope.errors import Reason, UserError
from darkhaloscope.survey import Cutouts
from darkhaloscope.survey.health import Streak, Watch, check_readable

OK, GONE, BROKEN = Reason.OK, Reason.UNREADABLE, Reason.CORRUPT_FILE


def test_twenty_alike_in_a_row_stop() -> None:
    streak = Streak(20)
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
    streak = Streak(20)
    for _ in range(5):
        for number in range(19):
            streak.add(f"{number:04d}p000", [GONE])
        streak.add("0019p000", between)
    # Another reason is the first of a row of its own.
    assert streak.length == (1 if between == [BROKEN] else 0)


def test_empty_sky_is_no_fault() -> None:
    streak = Streak(20)
    for _ in range(100):
        streak.add("0000p000", [Reason.NO_COVERAGE, Reason.NO_COVERAGE])


def test_two_parts_of_a_brick_are_one_and_zero_is_no_limit() -> None:
    streak = Streak(2)
    for _ in range(3):
        streak.add("0000p000", [GONE])
    assert streak.length == 1
    endless = Streak(0)
    for number in range(100):
        endless.add(f"{number:04d}p000", [GONE])
    assert endless.length == 100


def test_blocks_may_come_in_any_order() -> None:
    def bricks(first: int, reason: Reason, count: int = 5) -> list[tuple[str, int]]:
        return [(f"{first + i:04d}p000", int(reason)) for i in range(count)]

    watch = Watch(10)
    watch.add(0, [*bricks(0, GONE), *bricks(5, OK)])
    watch.add(3, [*bricks(30, GONE), *bricks(35, BROKEN)])
    watch.add(4, bricks(40, OK))
    watch.add(2, [*bricks(19, GONE, 1), *bricks(20, GONE)], ["brick 0024p000: 403."])
    assert watch.trouble is None  # block 1 may yet say otherwise
    watch.add(1, [*bricks(10, OK), *bricks(15, GONE)])
    assert watch.trouble is not None
    assert "10 bricks in a row failed alike (unreadable), the last one 0024p000" in str(
        watch.trouble
    )
    assert "says: brick 0024p000: 403;" in str(watch.trouble)
    assert sorted(watch.alike()) == [1, 2, 3]


def test_a_block_that_was_there_before_ends_a_streak() -> None:
    watch = Watch(2)
    watch.add(1)
    watch.add(0, [("0000p000", int(GONE))])
    watch.add(2, [("0002p000", int(GONE))])
    assert watch.trouble is None


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
