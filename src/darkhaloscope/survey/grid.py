"""The pixel grid of a brick: its WCS, and whether two files are on the same one."""

from __future__ import annotations

import warnings

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from numpy.typing import NDArray

from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.survey.source import CorruptFileError
from darkhaloscope.survey.tiles import TiledImage

SCALE_TOLERANCE = 1e-3
"""Relative (and in rad): a coadd of another pixel scale, or turned by more, is not read."""


def check_same_grid(image: TiledImage, grid: TiledImage) -> None:
    """Raise CorruptFileError where an image is not on the pixels of the brick's first one."""
    if image.shape != grid.shape:
        (ny, nx), (my, mx) = image.shape, grid.shape
        raise CorruptFileError(
            f"its {nx} x {ny} pixels are not the {mx} x {my} of the brick's other files"
        )
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
        mine, other = image.header.get(key), grid.header.get(key)
        if mine is None:  # The WISEM HDUs have no WCS.
            continue
        if not (isinstance(mine, int | float) and abs(mine - other) <= 1e-7):
            raise CorruptFileError(
                f"its {key} {mine} is not the {other} of the brick's other files"
            )


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
