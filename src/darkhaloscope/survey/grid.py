"""The pixel grid of a brick: its WCS, and whether two files are on the same one."""

from __future__ import annotations

import warnings

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from numpy.typing import NDArray

from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.survey.maskbits import WISE_BITS
from darkhaloscope.survey.source import CorruptFileError
from darkhaloscope.survey.tiles import TiledImage

SCALE_TOLERANCE = 1e-3
"""Relative (and in rad): a coadd of another pixel scale, or turned by more, is not read."""

_GRID_CARDS = tuple(
    f"{stem}{axis}" for stem in ("CTYPE", "CRVAL", "CRPIX", "CD1_", "CD2_") for axis in (1, 2)
)


def check_same_grid(image: TiledImage, grid: TiledImage) -> None:
    """Raise CorruptFileError where an image is not on the pixels of the brick's first one."""
    if image.shape != grid.shape:
        (ny, nx), (my, mx) = image.shape, grid.shape
        raise CorruptFileError(
            f"its {nx} x {ny} pixels are not the {mx} x {my} of the brick's other files"
        )
    if image.name in WISE_BITS and "CRVAL1" not in image.header:  # These HDUs have no WCS.
        return
    for key in _GRID_CARDS:
        mine, other = image.header.get(key), grid.header.get(key)
        if isinstance(mine, int | float) and isinstance(other, int | float):
            same = abs(mine - other) <= (1e-10 if key.startswith("CD") else 1e-7)
        else:
            same = mine == other
        if not same:
            said = "has no" if mine is None else f"says {mine} as"
            raise CorruptFileError(f"it {said} {key}, the brick's other files say {other}")


def tan_wcs(header: fits.Header, pixel_scale: float = PIXEL_SCALE) -> WCS:
    """The WCS of a coadd, which must be TAN, North up, East to the left, in square pixels.

    Raises
    ------
    CorruptFileError
        For any other projection, orientation or scale (arcsec per pixel, relative tolerance 1e-3).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(header)
            matrix = np.asarray(wcs.pixel_scale_matrix, dtype=float) * 3600.0
    except (ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())
        raise CorruptFileError(f"its WCS cannot be read ({text})") from error
    if list(wcs.wcs.ctype) != ["RA---TAN", "DEC--TAN"]:
        raise CorruptFileError(f"its projection is {list(wcs.wcs.ctype)}, not TAN")
    expected = np.array([[-pixel_scale, 0.0], [0.0, pixel_scale]])
    if matrix.shape != (2, 2) or np.abs(matrix - expected).max() > SCALE_TOLERANCE * pixel_scale:
        raise CorruptFileError(
            f"its pixels are not North up, East left at {pixel_scale} arcsec "
            f"(CD matrix in arcsec: {np.round(matrix, 4).tolist()})"
        )
    return wcs


def sky_to_brick(
    wcs: WCS, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels (x, y) from 0 of sky positions in deg; NaN where TAN cannot show it (90 deg off)."""
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    known = np.isfinite(ra) & np.isfinite(dec)
    if known.any():
        x[known], y[known] = wcs.wcs_world2pix(ra[known], dec[known], 0)
    return x, y
