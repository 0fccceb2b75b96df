"""A release that cannot be read stops a run; bad luck does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_brick import BRICK, XS, YS, path_of, sky, write_brick

from darkhaloscope import prepare, storage
from darkhaloscope.config import parse_experiment
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.survey import Cutouts
from darkhaloscope.survey import bricks as tiling
from darkhaloscope.survey.health import Streak, Watch, check_not_all_fail, check_readable

OK, GONE, BROKEN = Reason.OK, Reason.UNREADABLE, Reason.CORRUPT_FILE


def test_twenty_alike_in_a_row_stop() -> None:
    streak = Streak(20)
    for number in range(19):
        streak.add(f"{number:04d}p000", [GONE, GONE])
    with pytest.raises(
        Incomplete, match=r"20 bricks in a row failed alike \(unreadable\).*0019p000.*403"
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
    for out.lasting in (True, False):
        with pytest.raises(UserError, match=r"first brick cannot be read: .*Forbidden") as caught:
            check_readable(out)
        assert caught.value.passes is not out.lasting
    check_readable(Cutouts.blank("0000p000", ("r",), 0, 16))
    assert np.isnan(out.x).all()


def test_what_is_out_of_reach_after_the_first_brick_is_for_its_rows_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_brick(tmp_path)
    places = [*np.transpose(sky(XS, YS)).tolist(), [59.5, -30.5]]
    document = {
        "survey": {"root": str(tmp_path), "bands": ["g", "r", "z"]},
        "targets": {"positions": places},
        "stamp": {"size": 32},
        "lens": {"theta_e": 0.7},
        "source": {"mag": 21.0},
    }
    made = prepare.plan_of(parse_experiment(document))
    assert len(made.bricks) == 2
    exists = storage.exists

    def forbidden(where: str) -> None:
        def asked(url: str) -> bool:
            if where in url:
                raise storage.StorageError(f"cannot look at {url}: Forbidden")
            return exists(url)

        monkeypatch.setattr(storage, "exists", asked)

    forbidden(str(made.bricks[1]))
    assert f"brick {BRICK}, read.mode auto" in prepare.preflight(made)
    forbidden(BRICK)
    with pytest.raises(UserError, match="Forbidden"):
        prepare.preflight(made)


def test_bricks_that_all_fail_alike() -> None:
    def brick(name: str, *reasons: Reason) -> Cutouts:
        out = Cutouts.blank(name, ("r",), len(reasons), 16)
        out.reason[:] = reasons
        out.notes.append(f"brick {name}: image-r is corrupt.")
        return out

    bad, worse = brick("0000p000", BROKEN, BROKEN), brick("0002p000", BROKEN)
    with pytest.raises(
        UserError, match=r"0000p000, 0002p000\) fail alike \(corrupt_file\).*image-r"
    ):
        check_not_all_fail([bad, worse])
    away = [brick("0000p000", GONE), brick("0002p000", GONE)]
    with pytest.raises(Incomplete, match="unreadable"):
        check_not_all_fail(away)
    away[0].lasting = True
    with pytest.raises(UserError, match="unreadable") as caught:
        check_not_all_fail(away)
    assert not caught.value.passes
    check_not_all_fail([bad])  # one alone may be bad luck
    for other in ([OK, BROKEN], [Reason.MISSING_FILE], [Reason.NO_COVERAGE], []):
        check_not_all_fail([bad, brick("0002p000", *other)])
    nobody = brick("0000p000", Reason.CROSSES_EDGE)
    check_not_all_fail([nobody, nobody])


def test_a_run_that_would_fail_entirely_does_not_begin(tmp_path: Path) -> None:
    names = [str(tiling.brick_name(59.18 + 0.3 * k, -30.5)) for k in range(6)]
    write_brick(tmp_path)
    good = tmp_path / "south" / "coadd" / BRICK[:3] / BRICK
    for name in names[1:]:  # the same files: of another grid than their brick's, but sound
        folder = tmp_path / "south" / "coadd" / name[:3] / name
        folder.mkdir(parents=True)
        for file in good.iterdir():
            (folder / file.name.replace(BRICK, name)).write_bytes(file.read_bytes())
    document = {
        "survey": {"root": str(tmp_path), "bands": ["g", "r", "z"]},
        "targets": {"positions": [[59.18 + 0.3 * k, -30.5] for k in range(6)]},
        "stamp": {"size": 32},
        "lens": {"theta_e": 0.7},
        "source": {"mag": 21.0},
    }
    with pytest.raises(UserError, match=r"read.checksums is set and .*sha256sum; take it out"):
        prepare.preflight(
            prepare.plan_of(parse_experiment(document | {"read": {"checksums": True}}))
        )
    made = prepare.plan_of(parse_experiment(document))
    assert made.bricks.tolist() == names
    path_of(tmp_path, "image", "r").write_bytes(b"no file")
    assert f"brick {names[2]}, read.mode" in prepare.preflight(made)  # the first is bad luck
    for file in tmp_path.rglob("*image-r*"):
        file.write_bytes(b"no file")
    with pytest.raises(UserError, match=r"all rows of 4 bricks .* fail alike \(corrupt_file\)"):
        prepare.preflight(made)
    endless = parse_experiment(document | {"read": {"stop_after": 0}})
    prepare.preflight(prepare.plan_of(endless))
