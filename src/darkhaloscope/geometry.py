"""The one pixel convention: centres, stamp windows, radii, and sky axes.

Pixel centres are integers, arrays are indexed ``[y, x]``. The centre of an N-pixel stamp is
``(N - 1) / 2`` (31.5 for 64), between the four central pixels of an even stamp. A target sits at its
true sub-pixel position; a stamp is cut at whole pixels, so that this position differs from the
stamp's centre by at most half a pixel, and it is kept.

Sky offsets are (East, North) in arcsec. Coadds of the Legacy Surveys are TAN images with North up and
East to the left, so ``x = -East / scale`` and ``y = North / scale``: :func:`pixel_to_sky` is the only
place where this sign stands. Position angles are in degrees, east of north.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

PIXEL_SCALE = 0.262
"""Arcsec per pixel of every Legacy Surveys coadd (Dey et al. 2019, AJ 157, 168)."""

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""FWHM of a Gaussian in units of its sigma: 2.3548."""

CORE_SIZE = 10
"""Side of the central box in pixels that the core gate reads."""


def stamp_centre(size: int) -> float:
    """The centre of a stamp of ``size`` pixels, on either axis, in pixels: ``(size - 1) / 2``."""
    return (size - 1) / 2.0


def stamp_corner(position: ArrayLike, size: int) -> NDArray[np.int64]:
    """First pixel of the stamp that holds a target, on one axis.

    Parameters
    ----------
    position : array_like
        The target in pixels of the parent image (centres are integers).
    size : int
        Pixels on a side.

    Returns
    -------
    ndarray of int64
        The corner whose stamp centre is nearest to the target. ``position - corner`` is the target in
        stamp pixels, within half a pixel of :func:`stamp_centre`. Ties go down, always, so that the
        same sky gives the same stamp.
    """
    return np.ceil(np.asarray(position, dtype=float) - stamp_centre(size) - 0.5).astype(np.int64)


def pixel_to_sky(
    x: ArrayLike,
    y: ArrayLike,
    x0: ArrayLike,
    y0: ArrayLike,
    scale: float = PIXEL_SCALE,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(East, North) in arcsec of pixels ``x, y`` about a point at pixels ``x0, y0``.

    These are the axes of the coadd's tangent plane. They differ from the local ones at a target by
    what meridians converge, ``(ra - ra_brick) sin(dec)``: 1e-3 rad at a brick's edge at dec -30.
    """
    east = (np.asarray(x0, dtype=float) - np.asarray(x, dtype=float)) * scale
    north = (np.asarray(y, dtype=float) - np.asarray(y0, dtype=float)) * scale
    return east, north


def sky_to_pixel(
    east: ArrayLike, north: ArrayLike, x0: ArrayLike, y0: ArrayLike, scale: float = PIXEL_SCALE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels ``x, y`` of an (East, North) offset in arcsec from a point at pixels ``x0, y0``."""
    x = np.asarray(x0, dtype=float) - np.asarray(east, dtype=float) / scale
    y = np.asarray(y0, dtype=float) + np.asarray(north, dtype=float) / scale
    return x, y


def radius_map(size: int, x0: float, y0: float) -> NDArray[np.float64]:
    """Distance in pixels of every pixel centre of a stamp from the point ``x0, y0``, shape (y, x)."""
    axis = np.arange(size, dtype=float)
    return np.hypot(axis[None, :] - x0, axis[:, None] - y0)


def core_slice(size: int, core: int = CORE_SIZE) -> slice:
    """The central ``core`` pixels of a stamp's axis; 27:37 for 64 pixels.

    For a stamp whose parity differs from the core's the box lies half a pixel low.
    """
    first = (size - core) // 2
    return slice(first, first + core)


def nea_pixels(psfsize: ArrayLike, scale: float = PIXEL_SCALE) -> NDArray[np.float64]:
    """Noise-equivalent area in pixels of a PSF of width ``psfsize`` (arcsec).

    ``psfsize`` is the FWHM of the Gaussian with the same noise-equivalent area, so that
    ``NEA = 4 pi sigma^2`` (King 1983, PASP 95, 163, eq. 3).
    """
    sigma = np.asarray(psfsize, dtype=float) / FWHM_PER_SIGMA / scale
    return 4.0 * np.pi * sigma**2
