"""Light of rays on a stamp, seen through each band's PSF.

Each ray is spread with a cubic B-spline on a grid of half pixels (finer for a PSF narrower than two
pixels); the grid is transformed once for all bands, divided by the spline's own transform,
multiplied by each PSF's, and brought back at the pixel centres only. Spreading and dividing is a
non-uniform Fourier transform (Dutt & Rokhlin 1993, SIAM J. Sci. Comput. 14, 1368): a ray keeps its
place to a small part of a grid step, so that the centroid of an arc does not jump from node to
node, and the PSF removes what the grid cannot hold.

The frame reaches half a stamp beyond the stamp on each side, and the transform as far again, so
that light outside the stamp comes in through the PSF and none comes round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from darkhaloscope.errors import UserError
from darkhaloscope.lensing.pixel_psf import PixelPsf, limit_band, pixel_transfer
from darkhaloscope.lensing.psf import Psf, transfer

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

MAX_NODES = 4096
"""Largest grid, nodes a side (128 MiB): it stops large stamps with a PSF narrower than two pixels."""


@njit(cache=True, nogil=True)
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
        i0 = math.floor(x[k] * per_pixel) - 1
        j0 = math.floor(y[k] * per_pixel) - 1
        for j in range(4):
            row = (j0 + j) % nodes
            part = flux[k] * wy[j]
            for i in range(4):
                grid[row, (i0 + i) % nodes] += part * wx[i]


@njit(cache=True, nogil=True)
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


def _nodes_per_pixel(psfs: Sequence[Psf | PixelPsf], pixel_scale: float, pixels: int) -> int:
    """Nodes on a pixel's side, four or more on the narrowest FWHM, for a grid of that many pixels."""
    narrowest = min(psf.fwhm for psf in psfs)
    for nodes in (2, 4, 8):
        if narrowest / pixel_scale * nodes >= 4.0:
            if pixels * nodes > MAX_NODES:
                raise UserError(
                    f"size is too large for a PSF fwhm of {narrowest:g} arcsec; it must be at most "
                    f"{MAX_NODES // (3 * nodes)} pixels."
                )
            return nodes
    raise UserError(
        f"PSF fwhm is {narrowest:g} arcsec; it must be at least half a pixel, "
        f"{0.5 * pixel_scale:g} arcsec."
    )


def _spline_transform(nodes: int) -> tuple[FloatArray, FloatArray]:
    """Transform of the cubic B-spline on the y and on the (half) x frequencies of a grid."""
    full = np.sinc(np.fft.fftfreq(nodes)) ** 4
    return full, np.sinc(np.fft.rfftfreq(nodes)) ** 4


def convolve(
    x: FloatArray,
    y: FloatArray,
    flux: FloatArray,
    psfs: Sequence[Psf | PixelPsf | None],
    size: int,
    pixel_scale: float,
) -> FloatArray:
    """Rays (stamp pixels, flux) seen through each PSF, per unit flux: (band, y, x), per pixel."""
    arc = np.zeros((len(psfs), size, size))
    drawn = [psf for psf in psfs if psf is not None]
    if not drawn:
        return arc
    around, small = frame(size)
    per_pixel = _nodes_per_pixel(drawn, pixel_scale, small)
    nodes = small * per_pixel
    grid = np.zeros((nodes, nodes))
    _spread(x, y, flux, per_pixel, -float(around), size - 1.0 + around, grid)
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


def frame(size: int) -> tuple[int, int]:
    """Pixels of the frame around the stamp on each side, and pixels of the periodic grid.

    A stamp's pixel and a ray of the frame are never further apart than half the grid, so that the
    PSF is taken at their true distance.
    """
    grid = int(next_fast_len(max(3 * size, size + 64), real=True))
    grid += grid % 2
    while next_fast_len(grid, real=True) != grid:
        grid += 2
    return grid // 2 - size, grid
