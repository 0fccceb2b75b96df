"""Which byte ranges are read, and when the rest of a file is cheaper."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkhaloscope.survey.reading import LOCAL, REMOTE, Reading, costs_of, expected, join

RANGES = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(1, 300)).map(lambda r: (r[0], r[0] + r[1]))
)


@given(RANGES, st.integers(0, 500), st.integers(1, 20))
def test_joined_ranges_hold_all_and_are_few(ranges: list, gap: int, most: int) -> None:
    joined = join(ranges, gap, most)
    assert len(joined) <= most
    assert all(any(a <= first and end <= b for a, b in joined) for first, end in ranges)
    assert all(end < first for (_, end), (first, _) in pairwise(joined))
    # A gap is read over only where it is short, or where there would be too many requests.
    if len(joined) < most:
        assert all(first - end > gap for (_, end), (first, _) in pairwise(joined))


@given(RANGES)
def test_without_a_gap_only_what_is_wanted_is_read(ranges: list) -> None:
    wanted = {byte for first, end in ranges for byte in range(first, end)}
    assert sum(end - first for first, end in join(ranges, 0, 1000)) == len(wanted)


def test_the_longest_gaps_are_kept() -> None:
    assert join([(0, 1), (10, 11), (12, 13), (40, 41)], 0, 2) == [(0, 13), (40, 41)]
    assert join([(0, 1), (10, 11), (20, 21)], 0, 2) == [(0, 21)]  # equal gaps go together


def test_costs() -> None:
    assert REMOTE.gap == 84_000
    assert costs_of("s3://bucket/x") is costs_of("https://host/x") is REMOTE
    assert costs_of("/disk/x") is costs_of("memory://x") is LOCAL


@pytest.mark.parametrize(("windows", "side"), [(5, 64), (59, 64), (59, 1), (400, 64), (30, 160)])
def test_what_is_expected_is_what_random_windows_need(windows: int, side: int) -> None:
    """Against windows thrown on 36 x 36 tiles of equal length."""
    rng = np.random.default_rng(3)
    size, gap, found = 12_000_000, 84_000, []
    tile = size // 1296
    for _ in range(200):
        needed = np.zeros((36, 36), bool)
        for y, x in rng.integers(0, 3600 - side, (windows, 2)):
            touched = np.s_[
                y // 100 : (y + side - 1) // 100 + 1, x // 100 : (x + side - 1) // 100 + 1
            ]
            needed[touched] = True
        tiles = [(int(t) * tile, int(t + 1) * tile) for t in np.flatnonzero(needed)]
        ranges = join(tiles, gap)
        found.append((len(ranges), sum(b - a for a, b in ranges)))
    requests, wanted = expected(size, windows, side, gap)
    assert requests == pytest.approx(np.mean(found, axis=0)[0], rel=0.25, abs=10)
    assert wanted == pytest.approx(np.mean(found, axis=0)[1], rel=0.25)


def test_auto_takes_the_cheaper_one() -> None:
    auto = Reading("auto")
    assert not auto.takes_whole(12_000_000, 59, 64, 10, REMOTE)
    assert auto.takes_whole(12_000_000, 2_000, 64, 10, REMOTE)  # nearly all tiles
    assert auto.takes_whole(300_000, 59, 1, 10, REMOTE)  # a psfsize map
    assert Reading("whole").takes_whole(10**9, 1, 1, 1, REMOTE)
    assert not Reading("ranges").takes_whole(10, 2_000, 64, 1, REMOTE)
