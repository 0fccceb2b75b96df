"""The tiling against the releases' own headers and catalogues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from darkhaloscope.errors import UserError
from darkhaloscope.survey import bricks

SHARED = Path(__file__).parents[2] / "shared" / "data"

# name, BRICKID, CRVAL1, CRVAL2, RAMIN, RAMAX, DECMIN, DECMAX of released psfsize headers
RELEASED = [
    ("1358p297", 494902, 135.862619808307, 29.75, 135.718849840256, 136.006389776358, 29.625),
    ("3366m010", 325954, 336.625, -1.0, 336.5, 336.75, -1.125),
]


@pytest.mark.parametrize(("name", "number", "ra", "dec", "west", "east", "south"), RELEASED)
def test_released_headers(
    name: str, number: int, ra: float, dec: float, west: float, east: float, south: float
) -> None:
    np.testing.assert_allclose(bricks.brick_centre(name), (ra, dec), rtol=0, atol=1e-11)
    assert bricks.brick_id_of(name) == number
    np.testing.assert_allclose(
        bricks.brick_bounds(name), (west, east, south, south + 0.25), rtol=0, atol=1e-11
    )
    assert bricks.brick_name(ra, dec) == name
    assert bricks.brick_id(ra, dec) == number


def test_centre_of_the_real_brick() -> None:
    ra, dec = bricks.brick_centre("0591m305")
    assert ra == pytest.approx(59.1800643086817, abs=1e-12)
    assert dec == -30.5


@pytest.mark.parametrize("table", ["dr8_tractor-3303p000", "dr8_sweep-320m005-330p000"])
def test_dr8_catalogues(table: str) -> None:
    path = SHARED / "catalogues" / f"{table}.fits"
    if not path.exists():
        pytest.skip("../shared/data is not here")
    rows = fits.getdata(path)
    assert (bricks.brick_id_of(rows["brickname"]) == rows["brickid"]).all()
    if table.startswith("dr8_sweep"):  # A tractor catalogue also lists what lies in the overlap.
        assert (bricks.brick_name(rows["ra"], rows["dec"]) == rows["brickname"]).all()


def test_the_sky_has_662174_bricks() -> None:
    """The number of rows of the releases' survey-bricks table."""
    assert bricks.brick_id(0.0, -90.0) == 1
    assert bricks.brick_id(359.9, 90.0) == 662_174


@given(ra=st.floats(-1e-9, 360.0), dec=st.floats(-90.0, 90.0))
def test_a_brick_holds_its_positions(ra: float, dec: float) -> None:
    name = str(bricks.brick_name(ra, dec))
    west, east, south, north = bricks.brick_bounds(name)
    assert west <= ra % 360.0 % 360.0 <= east
    assert south <= dec <= north
    assert bricks.brick_name(*bricks.brick_centre(name)) == name
    assert bricks.brick_id_of(name) == bricks.brick_id(ra, dec)


def test_arrays_and_scalars_agree() -> None:
    ra, dec = np.meshgrid(np.linspace(0, 359, 12), np.linspace(-89, 89, 7))
    names = bricks.brick_name(ra, dec)
    assert names.shape == ra.shape
    assert names[3, 5] == bricks.brick_name(ra[3, 5], dec[3, 5])
    assert bricks.brick_centre(names)[0].shape == ra.shape


@pytest.mark.parametrize("name", ["", "0591m304", "9999p000", "0591x305", "0591m306", "591m305"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="not the name of a brick"):
        bricks.brick_centre(name)


@pytest.mark.parametrize(("ra", "dec"), [(np.nan, 0.0), (0.0, 91.0), (0.0, np.nan)])
def test_positions_off_the_sky(ra: float, dec: float) -> None:
    with pytest.raises(UserError, match="sky position"):
        bricks.brick_name(ra, dec)


def test_target_id_bits() -> None:
    """Each number comes back out of its own bits; all bits together fill 58."""
    number = int(bricks.target_id(9010, 331689, 21))
    assert number & 0x3FFFFF == 21
    assert number >> 22 & 0xFFFFF == 331689
    assert number >> 42 == 9010
    top = int(bricks.target_id(2**16 - 1, 2**20 - 1, 2**22 - 1))
    assert top == 2**58 - 1


@pytest.mark.parametrize(
    ("release", "brickid", "objid", "name"),
    [
        (2**16, 1, 1, "release"),
        (1, 2**20, 1, "brickid"),
        (1, 1, 2**22, "objid"),
        (1, 1, -1, "objid"),
    ],
)
def test_target_id_ranges(release: int, brickid: int, objid: int, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} .* does not fit"):
        bricks.target_id([9010, release], [1, brickid], [1, objid])
