"""Regions, splits and the guard: against published HEALPix numbers, geometry, and pairs of stamps."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.survey.bricks import brick_bounds, brick_name
from darkhaloscope.survey.regions import GUARD, assign, counts, guard_radius, region_ids, split_of

FRACTIONS = (0.7, 0.15, 0.15)


@pytest.mark.parametrize(
    ("ra", "dec", "pixel"),
    [
        # Gorski et al. 2005 (ApJ 622, 759), fig. 4: base pixel f has nested numbers f 64^2 to
        # (f + 1) 64^2 - 1, 0 at its southernmost corner; these lie next to such corners.
        (45.0, 0.05, 0),  # base pixel 0: its south corner is (45, 0)
        (45.0, 89.95, 4095),  # and its north corner the pole
        (0.0, -41.8, 4 * 4096),  # base pixel 4 is centred on (0, 0), from asin(-2/3) = -41.81
        (0.0, 41.8, 5 * 4096 - 1),
        (225.0, -89.95, 10 * 4096),  # base pixel 10 starts at the south pole
    ],
)
def test_healpix_numbers(ra: float, dec: float, pixel: int) -> None:
    assert region_ids([ra], [dec], "healpix").tolist() == [f"hp64-{pixel}"]


def sky(n: int, seed: int, dec: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ra = rng.uniform(150.0, 152.0, n) % 360
    return ra, np.degrees(np.arcsin(rng.uniform(*np.sin(np.radians(dec)), n)))


def stamps_share_pixels(ra: np.ndarray, dec: np.ndarray, size: int) -> np.ndarray:
    """Pairs (i, j) whose squares of ``size`` pixels overlap, each in the plane of the first one."""
    place = SkyCoord(ra, dec, unit="deg")
    i, j, _, _ = place.search_around_sky(place, 1.5 * size * PIXEL_SCALE * place.ra.unit / 3600)
    pairs = [(a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b]
    found = []
    for a, b in pairs:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra[a], dec[a]]
        wcs.wcs.cdelt, wcs.wcs.crpix = [-PIXEL_SCALE / 3600, PIXEL_SCALE / 3600], [1, 1]
        x, y = wcs.wcs_world2pix([[ra[b], dec[b]]], 0)[0]
        if max(abs(x), abs(y)) < size + 1:
            found.append((a, b))
    return np.array(found)


@pytest.mark.parametrize("kind", ["brick", "healpix"])
@pytest.mark.parametrize("dec", [(-0.2, 0.2), (59.3, 60.0), (-80.2, -80.0)])
def test_stamps_of_different_splits_share_no_pixel(kind: str, dec: tuple[float, float]) -> None:
    ra, dec_ = sky(6000, 3, dec)
    ids, split = assign(ra, dec_, kind=kind, fractions=FRACTIONS, size=64)
    pairs = stamps_share_pixels(ra, dec_, 64)
    assert len(pairs) > 300
    a, b = split[pairs].T
    used = (a != GUARD) & (b != GUARD)
    assert (a[used] == b[used]).all()
    if kind == "brick":
        # Without the guard there would be a leak: the test can fail.
        bare = np.array([split_of(str(name), FRACTIONS) for name in ids])
        assert (bare[pairs[:, 0]] != bare[pairs[:, 1]]).any()


@pytest.mark.parametrize("size", [64, 256])
def test_pairs_across_healpix_borders(size: int) -> None:
    """Stamps that overlap by a corner, astride borders that run diagonally: the guard has to reach
    sqrt(2) times as far as across the straight sides of bricks."""
    rng = np.random.default_rng(7)
    step = size * PIXEL_SCALE / 3600
    ra, dec = rng.uniform(20, 340, 60_000), rng.uniform(-60, 60, 60_000)
    angle = rng.uniform(0, 2 * np.pi, len(ra))
    ra2, dec2 = ra + step * np.cos(angle) / np.cos(np.radians(dec)), dec + step * np.sin(angle)
    over = region_ids(ra, dec, "healpix") != region_ids(ra2, dec2, "healpix")
    near, far = np.stack([ra, dec])[:, over], np.stack([ra2, dec2])[:, over]
    home = region_ids(*near, "healpix")
    for _ in range(20):  # onto the border
        middle = (near + far) / 2
        inside = region_ids(*middle, "healpix") == home
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    # Corner to corner, or nearly: less than a stamp apart along both axes.
    offset = rng.choice([-1, 1], near.shape) * rng.uniform(0.8, 0.99, near.shape) * step
    offset[0] /= np.cos(np.radians(near[1]))
    thirds = (0.34, 0.33, 0.33)
    sides = [
        assign(*(near + part * offset), kind="healpix", fractions=thirds, size=size)
        for part in (0.5, -0.5)
    ]
    (ids, split), (ids2, split2) = sides
    bare = [np.array([split_of(str(n), thirds) for n in names]) for names in (ids, ids2)]
    assert (bare[0] != bare[1]).sum() > 20  # without the guard they would leak
    assert not ((split != split2) & (split != GUARD) & (split2 != GUARD)).any()


def test_only_rows_near_another_split_are_guarded() -> None:
    """Distance to the edges of one brick, by hand: its four sides are lines in ra and dec."""
    ra, dec = sky(8000, 4, (-0.7, 0.7))
    _, split = assign(ra, dec, kind="brick", fractions=FRACTIONS, size=64)
    west, east, low, high = brick_bounds(brick_name(ra, dec))
    cos = np.cos(np.radians(dec))
    sides = np.stack([(ra - west) * cos, (east - ra) * cos, dec - low, high - dec]) * 3600
    inside = sides.min(axis=0) > 1.21 * guard_radius(64)
    assert not (split[inside] == GUARD).any()
    # A row within the radius of a side whose other bank is of another split is guarded.
    across = brick_name(ra, dec + 2 * guard_radius(64) / 3600)
    other = np.array([split_of(str(n), FRACTIONS) for n in across])
    own = np.array([split_of(str(n), FRACTIONS) for n in brick_name(ra, dec)])
    near = (sides[3] < guard_radius(64)) & (own != other)
    assert near.sum() > 20
    assert (split[near] == GUARD).all()
    free = split != GUARD
    np.testing.assert_array_equal(split[free], own[free])
    assert 0.01 < np.mean(split == GUARD) < 0.07


def test_a_corner_is_guarded() -> None:
    """Across the corner alone: the four bricks of a corner where only the diagonal one differs."""
    target = (150.0, 0.125)  # bricks of the equator's rows meet at multiples of 0.25 deg in ra
    found = 0
    for step in range(200):
        ra0 = target[0] + 0.25 * step
        quad = [(ra0 + x, 0.125 + y) for x in (-0.01, 0.01) for y in (-0.01, 0.01)]
        names = brick_name(*np.transpose(quad))
        splits = [split_of(str(name), FRACTIONS) for name in names]
        if len(set(names.tolist())) == 4 and splits[0] == splits[1] == splits[2] != splits[3]:
            found += 1
            offset = 0.6 * guard_radius(64) / 3600  # 0.85 radii from the corner
            _, split = assign(
                [ra0 - offset], [0.125 - offset], kind="brick", fractions=FRACTIONS, size=64
            )
            assert split[0] == GUARD
    assert found


def test_splits_are_the_hash() -> None:
    ids, split = assign(*sky(2000, 5, (20, 24)), kind="healpix", fractions=FRACTIONS, size=64)
    place = np.array([xxhash.xxh64(str(n).encode(), seed=0).intdigest() / 2**64 for n in ids])
    free = split != GUARD
    np.testing.assert_array_equal(split[free], np.digitize(place, [0.7, 0.85])[free])
    assert counts(split).startswith(f"train {np.sum(split == 0)}, val ")


def test_across_zero_and_at_the_pole() -> None:
    ra = np.array([359.9999, 0.0001, 0.0, 123.0])
    dec = np.array([10.0, 10.0, 90.0, -89.99])
    for kind in ("brick", "healpix"):
        ids, split = assign(ra, dec, kind=kind, fractions=FRACTIONS, size=64)
        assert len(ids) == len(split) == 4
    _, all_train = assign(ra, dec, kind="brick", fractions=(1.0, 0.0, 0.0), size=256)
    assert set(all_train.tolist()) == {0}
    assert assign([], [], kind="healpix", fractions=FRACTIONS, size=64)[1].shape == (0,)
