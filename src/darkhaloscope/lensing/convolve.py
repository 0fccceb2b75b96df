"""Light of rays on a stamp, seen through each band's PSF.

Each ray is spread with a cubic B-spline on a grid of four nodes or more to the FWHM of the PSF: one,
two, four or eight to the pixel. The grid is transformed once for all bands, divided by the spline's
own transform, multiplied by each PSF's, and brought back at the pixel centres only. Spreading and
dividing is a non-uniform Fourier transform (Dutt & Rokhlin 1993, SIAM J. Sci. Comput. 14, 1368): a
ray keeps its place to a small part of a grid step, so that the centroid of an arc does not jump from
node to node, and the PSF removes what the grid cannot hold.

The frame reaches half a stamp beyond the stamp on each side, so that light outside the stamp comes
in through the PSF. The grid is periodic, and as large as the light asks for (:func:`_grid_pixels`):
no light of it comes round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from darkhaloscope.compiled import compiled
from darkhaloscope.errors import UserError
from darkhaloscope.lensing.pixel_psf import PixelPsf, limit_band, pixel_transfer
from darkhaloscope.lensing.psf import Psf, transfer

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

MAX_NODES = 4096
"""Largest grid, about, nodes a side (128 MiB): it stops large stamps with a PSF narrower than two pixels."""

FAR_LIGHT = 1e-5
"""Part of the light that may lie beyond the square about the stamp's centre that is convolved."""

GAUSSIAN_REACH = 2.5
"""Where a Gaussian is taken to end, in FWHM: 3e-8 of its peak."""

_KINK = 8.0  # pixels kept free about half a grid, where a periodic Moffat has a kink that rings
_GRID_STEP = 16  # grids are multiples of it, so that arcs of about the same extent share transforms


@compiled
def _spread(
    x: FloatArray,
    y: FloatArray,
    flux: FloatArray,
    per_pixel: int,
    low: float,
    high: float,
    grid: FloatArray,
) -> None:
    """Add rays to a periodic grid, each as a cubic B-spline over 4x4 nodes of the same total.

    ``x, y`` in stamp pixels; pixel p is node ``p * per_pixel``, modulo the grid. Rays outside
    ``low .. high`` on either axis are left out: their light would come round.
    """
    nodes = grid.shape[0]
    wx = np.empty(4)
    wy = np.empty(4)
    for k in range(x.size):
        if not (low <= x[k] <= high and low <= y[k] <= high):
            continue
        for axis in range(2):
            place = (x[k] if axis == 0 else y[k]) * per_pixel
            f = place - math.floor(place)
            g = 1.0 - f
            w = wx if axis == 0 else wy
            w[0] = g * g * g / 6.0
            w[1] = (4.0 - 3.0 * f * f * (2.0 - f)) / 6.0
            w[2] = (4.0 - 3.0 * g * g * (2.0 - g)) / 6.0
            w[3] = f * f * f / 6.0
        i0 = (math.floor(x[k] * per_pixel) - 1) % nodes
        j0 = (math.floor(y[k] * per_pixel) - 1) % nodes
        round_again = i0 + 4 > nodes  # seldom: a remainder a node takes longer than all else
        for j in range(4):
            row = (j0 + j) % nodes
            part = flux[k] * wy[j]
            for i in range(4):
                grid[row, (i0 + i) % nodes if round_again else i0 + i] += part * wx[i]


@compiled
def _extent(x: FloatArray, y: FloatArray, flux: FloatArray, centre: float, most: float) -> float:
    """Half-side in pixels of the square about ``(centre, centre)`` that holds the light.

    All but :data:`FAR_LIGHT` of what is no further than ``most`` on either axis. ``flux`` is not
    negative.
    """
    rings = np.zeros(int(most) + 2)
    total = 0.0
    for k in range(x.size):
        distance = max(abs(x[k] - centre), abs(y[k] - centre))
        if distance <= most:
            rings[int(distance)] += flux[k]
            total += flux[k]
    outside = 0.0
    for ring in range(rings.size - 1, -1, -1):
        outside += rings[ring]
        if outside > FAR_LIGHT * total:
            return min(ring + 1.0, most)
    return 0.0


@compiled
def _to_pixels(light: ComplexArray, hat: FloatArray, per_pixel: int) -> ComplexArray:
    """Multiply by a transfer function and keep every ``per_pixel``-th node.

    Taking every m-th node is, among frequencies, adding those that alias (the sampling theorem).
    ``light`` is a half transform (y, x); so is the result, for a grid ``per_pixel`` times smaller.
    """
    nodes = light.shape[0]
    half = nodes // 2
    small = nodes // per_pixel
    out = np.empty((small, small // 2 + 1), dtype=np.complex128)
    for ky in range(small):
        for kx in range(small // 2 + 1):
            value = 0.0 + 0.0j
            for a in range(per_pixel):
                fy = ky + a * small
                my = nodes - fy if fy > half else fy
                for b in range(per_pixel):
                    fx = kx + b * small
                    if fx > half:
                        mx = nodes - fx
                        back = nodes - fy if fy > 0 else 0
                        value += np.conj(light[back, mx]) * hat[my, mx]
                    else:
                        value += light[fy, fx] * hat[my, fx]
            out[ky, kx] = value / (per_pixel * per_pixel)
    return out


def _nodes_per_pixel(
    psfs: Sequence[Psf | PixelPsf], pixel_scale: float, size: int, narrowest: float
) -> int:
    """Nodes on a pixel's side, four or more on the narrowest FWHM."""
    # One node a pixel: not for a kernel made from pixels, which may hold waves up to half a cycle a
    # pixel whatever its width; and a Moffat's transform falls off more slowly than a Gaussian's.
    smooth = all(isinstance(psf, Psf) for psf in psfs)
    gaussian = all(isinstance(psf, Psf) and psf.model == "gaussian" for psf in psfs)
    for nodes in (1, 2, 4, 8) if smooth else (2, 4, 8):
        if narrowest / pixel_scale * nodes >= (5.0 if nodes == 1 and not gaussian else 4.0):
            if 3 * size * nodes > MAX_NODES:
                raise UserError(
                    f"size is too large for a PSF fwhm of {narrowest:g} arcsec; it must be at most "
                    f"{MAX_NODES // (3 * nodes)} pixels."
                )
            return nodes
    raise UserError(
        f"PSF fwhm is {narrowest:g} arcsec; it must be at least half a pixel, "
        f"{0.5 * pixel_scale:g} arcsec."
    )


def _grid_pixels(
    psfs: Sequence[Psf | PixelPsf], extent: float, size: int, pixel_scale: float
) -> int:
    """Pixels a side of the periodic grid for light within ``extent`` of the stamp's centre.

    On a grid of P pixels the PSF at a distance d also stands for d - P. No ray is further than
    ``d = extent + (size - 1) / 2`` from a pixel of the stamp on either axis, so that none comes
    round where P is twice that; or d and as much as the PSF reaches, for a PSF that ends.
    """
    furthest = extent + 0.5 * (size - 1)
    reach = 0.0
    for psf in psfs:
        ends = isinstance(psf, Psf) and psf.model == "gaussian"
        reach = max(reach, GAUSSIAN_REACH * psf.fwhm / pixel_scale if ends else math.inf)
    needed = max(furthest + min(furthest + _KINK, reach), size)
    for psf in psfs:
        if isinstance(psf, PixelPsf):
            needed = max(needed, psf.image.shape[0])
    pixels = _GRID_STEP * math.ceil(needed / _GRID_STEP)
    while next_fast_len(pixels, real=True) != pixels:
        pixels += _GRID_STEP
    return pixels


@lru_cache(maxsize=16)
def _spline_transform(nodes: int) -> tuple[FloatArray, FloatArray]:
    """Transform of the cubic B-spline on the y and on the (half) x frequencies of a grid."""
    out = np.sinc(np.fft.fftfreq(nodes)) ** 4, np.sinc(np.fft.rfftfreq(nodes)) ** 4
    for values in out:
        values.setflags(write=False)
    return out


def convolve(
    x: FloatArray,
    y: FloatArray,
    flux: FloatArray,
    psfs: Sequence[Psf | PixelPsf | None],
    size: int,
    pixel_scale: float,
    narrowest: float,
) -> FloatArray:
    """Rays (stamp pixels, flux) seen through each PSF, per unit flux: (band, y, x), per pixel.

    ``narrowest`` is the FWHM in arcsec that the grid is fine enough for.
    """
    arc = np.zeros((len(psfs), size, size))
    drawn = [psf for psf in psfs if psf is not None]
    if not drawn:
        return arc
    per_pixel = _nodes_per_pixel(drawn, pixel_scale, size, narrowest)
    centre = 0.5 * (size - 1)
    extent = _extent(x, y, np.abs(flux), centre, centre + frame(size))
    small = _grid_pixels(drawn, extent, size, pixel_scale)
    nodes = small * per_pixel
    grid = np.zeros((nodes, nodes))
    _spread(x, y, flux, per_pixel, centre - extent, centre + extent, grid)
    light = rfft2(grid)
    full, half = _spline_transform(nodes)
    light /= full[:, None]
    light /= half[None, :]
    for i, psf in enumerate(psfs):
        if isinstance(psf, PixelPsf):
            spectrum = limit_band(light, per_pixel) * pixel_transfer(psf, small)
            arc[i] = irfft2(spectrum, s=(small, small))[:size, :size]
        elif psf is not None:
            hat = transfer(psf, nodes, per_pixel, pixel_scale)
            spectrum = _to_pixels(light, hat, per_pixel)
            arc[i] = irfft2(spectrum, s=(small, small))[:size, :size]
    return arc


def frame(size: int) -> int:
    """Pixels on each side of the stamp whose light is laid on the grid: half a stamp, or more."""
    return max((size + 1) // 2, 32 - size // 2)
