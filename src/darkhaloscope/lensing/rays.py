"""Where the light is: rays through the image plane, dense only where the brightness asks for it.

The image plane is cut into square cells, the largest one holding practically all the light, and a
cell is cut in four until a 2x2 Gauss-Legendre rule integrates it to a small part of the image's
flux. The error of the rule is known beforehand: the brightness along a source-plane radius R is
``exp(-t)`` with ``t = b (R/reff)^(1/n)``, its fourth derivative is a polynomial in ``p = t/n`` over
``R^4``, and the rule's error is that times ``side^4 / 4320``. So cost follows the arc, a cusp is
never stepped over, and nothing depends on a pixel grid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.compiled import compiled
from darkhaloscope.lensing.deflection import Lens, stretch
from darkhaloscope.lensing.quads import A_EAST, A_NORTH, EAST, NORTH, ROWS, lens_rays
from darkhaloscope.lensing.sources import (
    Sersic,
    elliptical_ray,
    sersic_exponent,
    sersic_radius_outside,
)

FloatArray = NDArray[np.float64]

CELL_ERROR = 4e-5
"""Error that one cell may have, as a part of the source's flux times the root of the magnification
found so far: an arc that is longer has more cells, whose errors add up."""

OUTSIDE = 1e-6
"""Part of the source's flux that may lie outside the largest cell."""

CUSP_DEPTH = 64
"""How much smaller than the finest cells those few may be that the source's very centre falls on: a
Sersic source of n = 4 and 0.05 arcsec has 5 % of its flux within 0.004 arcsec."""

CUSP_ERROR = 0.05
"""Error of a cell that may hold an image of the source's very centre, as a part of another's: along an
Einstein ring there are many of them and all err to the same side, elsewhere they are few."""

_GAUSS = 0.5 / math.sqrt(3.0)
_U, _V = ROWS, ROWS + 1
FWHM_PER_CELL = 2.3
"""PSF widths (FWHM) to the side of a cell that the PSF blurs to nothing. A comb of cells leaves a
ripple of twice the PSF's transform at one wave a cell, times cos(pi / sqrt(3)) = -0.24 for two
Gauss-Legendre rays. For this side, twice and four times it: 3e-9, 4e-3 and 0.15 with a Gaussian,
2e-5, 6e-3 and 0.08 with a Moffat of beta 2.5."""

RIPPLE = 3e-4
"""Ripple that is allowed, as a part of the brightness of the blurred source."""

_RIPPLE_2, _RIPPLE_4 = 6e-3, 0.15


class Rays(NamedTuple):
    """Rays and the light they carry, for a source of unit flux.

    ``east``, ``north``: offsets from the lens centre (the target, without a lens), arcsec.
    ``flux``: light of the source that each carries. Rays outside the frame are only in ``total``.
    ``total``: lensed flux over the whole plane, the magnification.
    ``finest``: side of the smallest cell, arcsec, apart from those cut further on a cusp.
    """

    east: FloatArray
    north: FloatArray
    flux: FloatArray
    total: float
    finest: float


@compiled
def _grown(rays: FloatArray) -> FloatArray:
    out = np.empty((3, 2 * rays.shape[1]))
    out[:, : rays.shape[1]] = rays
    return out


@compiled
def ripple_of(side: float, resolution: float) -> float:
    """Ripple that cells of a side leave after the PSF, at most, as a part of their brightness."""
    if side <= 2.0 * resolution:
        return _RIPPLE_2
    return _RIPPLE_4 if side <= 4.0 * resolution else 1.0


@compiled
def _four_rays(
    east: float, north: float, step: float, lens: FloatArray, source: FloatArray, out: FloatArray
) -> None:
    """Four rays, ``step`` from a place on either axis, and where they land on the source.

    ``out`` (:data:`quads.ROWS` + 2, 4) gets East and North in its first rows, and in its last two
    the source's elliptical coordinates.
    """
    for i in range(4):
        out[EAST, i] = east + (step if i % 2 else -step)
        out[NORTH, i] = north + (step if i // 2 else -step)
        out[A_EAST, i] = out[A_NORTH, i] = 0.0
    if lens.size > 0:
        lens_rays(out, lens)
    for i in range(4):
        out[_U, i], out[_V, i] = elliptical_ray(
            out[EAST, i] - out[A_EAST, i] - source[0],
            out[NORTH, i] - out[A_NORTH, i] - source[1],
            source[2],
            source[3],
            source[4],
        )


@compiled
def _trace(
    lens: FloatArray,
    source: FloatArray,
    centre: FloatArray,
    half: float,
    frame: FloatArray,
    resolution: float,
    smallest: float,
    tolerance: float,
    ripple: float,
) -> tuple[FloatArray, int, float, float]:
    """Subdivide from the cell of half-side ``half`` about ``centre``; see the module's text.

    ``lens`` is empty where there is none. ``frame`` is (east_min, east_max, north_min, north_max).
    """
    lensed = lens.size > 0
    q, reff = source[2], source[5]
    inverse_n, b, peak = source[6], source[7], source[8]
    k = inverse_n
    # Fourth derivative of exp(-b R^k), as p^4 + c3 p^3 + c2 p^2 + c1 p over R^4, along the radius,
    # plus three times the one across it; magnitudes, so that it bounds.
    c3 = 6.0 * abs(k - 1.0)
    c2 = abs((k - 1.0) * (7.0 * k - 11.0)) + 3.0
    c1 = abs((k - 1.0) * (k - 2.0) * (k - 3.0)) + 3.0 * abs(2.0 - k)

    rays = np.empty((3, 16384))
    count = 0
    total = 0.0
    finest = 2.0 * half
    four = np.empty((ROWS + 2, 4))
    u, v = four[_U], four[_V]
    light = np.empty(4)
    # Cells that wait: centre, half a side, and where on the source the centre's ray lands.
    stack = np.empty((256, 5))
    _four_rays(centre[0], centre[1], 0.0, lens, source, four)
    stack[0] = centre[0], centre[1], half, u[0], v[0]
    depth = 1
    while depth > 0:
        depth -= 1
        east, north, h = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        side = 2.0 * h
        diagonal = h * math.sqrt(2.0)
        inside = (
            east + h > frame[0]
            and east - h < frame[1]
            and north + h > frame[2]
            and north - h < frame[3]
        )

        # The most light that the cell can hold, from how near to the source any of its rays comes.
        reach = diagonal
        r_lens = 0.0
        if lensed:
            r_lens = math.sqrt(east * east + north * north)
            reach = stretch(r_lens, diagonal, lens)
        r_centre = math.sqrt(stack[depth, 3] ** 2 + stack[depth, 4] ** 2)
        r_near = max(0.0, r_centre - reach / math.sqrt(q))
        bound = peak * side * side * math.exp(-sersic_exponent(r_near / reff, inverse_n, b))
        on_cusp = r_near * r_near < reach * reach / q
        allowed = tolerance * math.sqrt(max(1.0, total)) * (CUSP_ERROR if on_cusp else 1.0)
        if bound <= 0.1 * allowed:
            flux = peak * side * side * math.exp(-sersic_exponent(r_centre / reff, inverse_n, b))
            total += flux
            if inside:
                if count + 4 > rays.shape[1]:
                    rays = _grown(rays)
                rays[0, count], rays[1, count], rays[2, count] = east, north, flux
                count += 1
            continue

        # Four Gauss-Legendre rays, and how far apart they land in the source plane.
        _four_rays(east, north, _GAUSS * side, lens, source, four)
        r2_max = 0.0
        for i in range(4):
            r2 = u[i] * u[i] + v[i] * v[i]
            r2_max = max(r2_max, r2)
            light[i] = math.exp(-sersic_exponent(math.sqrt(r2) / reff, inverse_n, b))
        flux = 0.25 * peak * side * side * (light[0] + light[1] + light[2] + light[3])

        divide = False
        if h > (smallest / CUSP_DEPTH if on_cusp else smallest):
            # Gauss-Legendre rays lie side/sqrt(3) apart: three times their squared distance is
            # the squared extent of the cell.
            extent2 = 0.0
            for i, j in ((0, 1), (2, 3), (0, 2), (1, 3)):
                extent2 = max(extent2, (u[i] - u[j]) ** 2 + (v[i] - v[j]) ** 2)
            extent2 *= 3.0
            spread2 = extent2 / (r_near * r_near + 0.25 * extent2)
            if lensed:
                spread2 += side * side / (r_lens * r_lens + 0.25 * side * side)
            p = k * sersic_exponent(math.sqrt(r2_max) / reff, inverse_n, b)
            relative = p * (c1 + p * (c2 + p * (c3 + p))) * spread2 * spread2 / 4320.0
            divide = bound * min(1.0, relative) > allowed
            if inside and side > resolution:
                divide = divide or ripple_of(side, resolution) * flux > ripple * side * side
        if divide:
            _four_rays(east, north, 0.5 * h, lens, source, four)
            for i in range(4):
                stack[depth] = four[EAST, i], four[NORTH, i], 0.5 * h, u[i], v[i]
                depth += 1
            continue

        total += flux
        finest = min(finest, max(side, 2.0 * smallest))
        if inside:
            if count + 4 > rays.shape[1]:
                rays = _grown(rays)
            for i in range(4):
                rays[0, count], rays[1, count] = four[EAST, i], four[NORTH, i]
                rays[2, count] = 0.25 * peak * side * side * light[i]
                count += 1
    return rays, count, total, finest


def root_cell(
    lens: Lens | None, dx: float, dy: float, outer: float, pixel_scale: float
) -> tuple[FloatArray, FloatArray, float]:
    """What the subdivision starts from: the lens's numbers, a cell's centre and half its side.

    The cell holds the image of all within ``outer`` of the source's position ``dx, dy`` (arcsec);
    its side is a pixel's times a power of two. The numbers are empty without a lens.
    """
    if lens is None:
        numbers, centre, reach = np.empty(0), np.array([dx, dy], dtype=float), outer
    else:
        numbers, centre = lens.numbers(), np.zeros(2)
        reach = lens.reach(outer + math.hypot(dx, dy))
    half = 0.5 * pixel_scale * 2.0 ** max(1, math.ceil(math.log2(2.0 * reach / pixel_scale)))
    return numbers, centre, half


def trace(
    lens: Lens | None,
    source: Sersic,
    *,
    frame: tuple[float, float, float, float],
    pixel_scale: float,
    resolution: float,
    supersample: int,
    tolerance: float = CELL_ERROR,
) -> Rays:
    """Rays that carry the lensed light of a source of unit flux.

    Parameters
    ----------
    lens : Lens or None
        None for the source as it is.
    source : Sersic
    frame : tuple of float
        (east_min, east_max, north_min, north_max) in arcsec from the lens centre (the target,
        without a lens): rays in here are returned, light outside is only counted.
    pixel_scale : float
        arcsec per pixel: cells are that times a power of two.
    resolution : float
        Side in arcsec of a cell that the PSF blurs to nothing; larger cells are cut where their
        light matters.
    supersample : int
        The finest cells have ``2 / supersample`` of a pixel a side, two rays a side each; only
        those on the source's centre are cut further, :data:`CUSP_DEPTH` times.
    tolerance : float
        Error allowed to a cell; see :data:`CELL_ERROR`.

    Returns
    -------
    Rays
    """
    numbers = source.numbers()
    outer = sersic_radius_outside(source.reff, source.n, OUTSIDE) / math.sqrt(source.q)
    lens_numbers, centre, half = root_cell(lens, source.dx, source.dy, outer, pixel_scale)
    smallest = pixel_scale / supersample * (1.0 + 1e-9)
    # Half the light lies within reff, so that the blurred image is about this bright or brighter.
    blurred = 0.5 / (math.pi * (source.reff**2 + (FWHM_PER_CELL * resolution) ** 2))
    ripple = RIPPLE * blurred
    rays, count, total, finest = _trace(
        lens_numbers,
        numbers,
        centre,
        half,
        np.array(frame, dtype=float),
        resolution,
        smallest,
        tolerance,
        ripple,
    )
    return Rays(rays[0, :count], rays[1, :count], rays[2, :count], total, finest)
