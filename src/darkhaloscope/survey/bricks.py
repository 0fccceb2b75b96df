"""The tiling of the sky in bricks of 0.25 deg, and DESI's TARGETID.

Rows of constant declination, 0.25 deg high, centred on multiples of 0.25 deg; in each an even
number of bricks of equal width, the smallest number that keeps the longer edge at most 0.25 deg;
one brick at either pole. A brick is named by its centre, RA in tenths of a degree and declination
in tenths with p or m for the sign, both cut, not rounded: 0591m305 is centred on (59.18006, -30.5).
Ids count from 1 at the south pole, by row, then by RA. This is the tiling of the Legacy Surveys
(``survey-bricks.fits``) and of desiutil.brick.
"""

from __future__ import annotations

import functools
import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.errors import UserError

BRICK_SIZE = 0.25
"""Height of a brick in degrees."""

_ROWS = 721
_NAME = re.compile(r"(\d{4})([pm])(\d{3})")


@functools.cache
def _columns() -> NDArray[np.int64]:
    """Number of bricks in each row, from the south pole."""
    centre = -90.0 + BRICK_SIZE * np.arange(_ROWS)
    widest = np.abs(centre) - BRICK_SIZE / 2  # the edge nearer to the equator
    columns = (np.ceil(360.0 / BRICK_SIZE * np.cos(np.radians(widest)) / 2) * 2).astype(np.int64)
    columns[[0, -1]] = 1
    columns.setflags(write=False)
    return columns


def _row_column(ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ra = np.asarray(ra, dtype=float)
    dec = np.asarray(dec, dtype=float)
    if not (np.isfinite(ra).all() and (np.abs(dec) <= 90.0).all()):
        raise UserError("a sky position must have a finite ra and a dec within -90..90 deg.")
    ra = np.where(ra % 360.0 >= 360.0, 0.0, ra % 360.0)  # -1e-20 % 360 is 360
    row = ((dec + 90.0 + BRICK_SIZE / 2) / BRICK_SIZE).astype(np.int64)
    return row, (ra / 360.0 * _columns()[row]).astype(np.int64)


def _centre(row: NDArray[np.int64], column: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    count = _columns()[row]
    step = 360.0 / count
    upper = np.where(column + 1 == count, 360.0, (column + 1) * step)
    return 0.5 * (column * step + upper), -90.0 + BRICK_SIZE * row


def _format(ra: float, dec: float) -> str:
    # Rounded at 1e-4 deg before the cut, or 39.599999999999994 would be called 0395.
    return f"{ra * 10000:07.0f}"[:4] + ("p" if dec >= 0 else "m") + f"{abs(dec) * 10000:06.0f}"[:3]


def _parse(names: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    unique, inverse = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    places = np.array([_parse_one(str(name)) for name in unique], dtype=np.int64).reshape(-1, 2)
    found = places[inverse]
    return found[..., 0], found[..., 1]


def _parse_one(name: str) -> tuple[int, int]:
    if match := _NAME.fullmatch(name):
        tenths = int(match[3]) / 10.0
        # Centres are multiples of 0.25: the cut to tenths is undone by going up to the next one.
        steps = int(np.ceil(tenths / BRICK_SIZE - 1e-9))
        row = 360 + (steps if match[2] == "p" else -steps)
        if 0 <= row < _ROWS:
            count = int(_columns()[row])
            guess = int((int(match[1]) / 10.0) / 360.0 * count)
            for column in (guess, guess + 1, guess - 1):
                if 0 <= column < count:
                    ra, dec = _centre(np.array(row), np.array(column))
                    if _format(float(ra), float(dec)) == name:
                        return row, column
    raise UserError(f"{name!r} is not the name of a brick of the 0.25 deg tiling (like 0591m305).")


def brick_name(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.str_]:
    """Names of the bricks whose primary area holds the positions (deg), same shape, dtype ``<U8``.

    Raises
    ------
    UserError
        For a position that is not on the sky.
    """
    row, column = np.broadcast_arrays(*_row_column(ra, dec))
    key, inverse = np.unique(row * 4096 + column, return_inverse=True)
    names = [_format(*map(float, _centre(np.array(k // 4096), np.array(k % 4096)))) for k in key]
    return np.array(names, dtype="U8")[inverse].reshape(row.shape)


def brick_id(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """BRICKID (from 1) of the bricks whose primary area holds the positions (deg)."""
    row, column = _row_column(ra, dec)
    return _id(row, column)


def brick_id_of(names: ArrayLike) -> NDArray[np.int64]:
    """BRICKID of named bricks. Raises UserError for a name that is not of the tiling."""
    return _id(*_parse(names))


def _id(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    before = np.concatenate([[0], np.cumsum(_columns())])
    return before[row] + column + 1


def brick_centre(names: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(ra, dec) in deg of the centres of named bricks: CRVAL of their coadds.

    Raises UserError for a name that is not of the tiling.
    """
    return _centre(*_parse(names))


def brick_bounds(
    names: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(ra_min, ra_max, dec_min, dec_max) in deg of the primary areas of named bricks.

    The coadd of a brick is larger: it overlaps its neighbours by some 80 pixels a side. Raises
    UserError for a name that is not of the tiling.
    """
    row, column = _parse(names)
    count = _columns()[row]
    step = 360.0 / count
    dec = -90.0 + BRICK_SIZE * row
    half = BRICK_SIZE / 2
    return (
        column * step,
        np.where(column + 1 == count, 360.0, (column + 1) * step),
        np.maximum(dec - half, -90.0),
        np.minimum(dec + half, 90.0),
    )


_OBJID_BITS, _BRICKID_BITS, _RELEASE_BITS = 22, 20, 16


def target_id(release: ArrayLike, brickid: ArrayLike, objid: ArrayLike) -> NDArray[np.int64]:
    """DESI's TARGETID: objid in bits 0-21, brickid in 22-41, release in 42-57 (int64).

    As desitarget.targets.encode_targetid (Myers et al. 2023, AJ 165, 50, table 2).

    Raises
    ------
    UserError
        For a number that does not fit its bits.
    """
    parts = []
    for name, values, bits in (
        ("objid", objid, _OBJID_BITS),
        ("brickid", brickid, _BRICKID_BITS),
        ("release", release, _RELEASE_BITS),
    ):
        number = np.asarray(values).astype(np.int64)
        wrong = (number < 0) | (number >= 1 << bits)
        if wrong.any():
            raise UserError(
                f"{name} {number[wrong].flat[0]} does not fit the {bits} bits that a TARGETID has "
                f"for it (0 to {(1 << bits) - 1})."
            )
        parts.append(number)
    objid_, brickid_, release_ = parts
    return objid_ | brickid_ << _OBJID_BITS | release_ << (_OBJID_BITS + _BRICKID_BITS)
