"""From a lens, a source and PSFs to a noiseless arc on a stamp.

Rays carry the lensed light (:mod:`rays`). Each is spread with a cubic B-spline on a grid of half
pixels (finer for a PSF narrower than two pixels); the grid is transformed once for all bands,
divided by the spline's own transform, multiplied by each PSF's, and brought back at the pixel
centres only. Spreading and dividing is a non-uniform Fourier transform (Dutt & Rokhlin 1993,
SIAM J. Sci. Comput. 14, 1368): a ray keeps its place to a small part of a grid step, so that the
centroid of an arc does not jump from node to node, and the PSF removes what the grid cannot hold.

The frame reaches half a stamp beyond the stamp on each side, and the transform as far again, so
that light outside the stamp comes in through the PSF and none comes round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE, pixel_to_sky, sky_to_pixel
from darkhaloscope.lensing.checks import require_in
from darkhaloscope.lensing.deflection import Lens
from darkhaloscope.lensing.psf import Psf, transfer
from darkhaloscope.lensing.rays import FWHM_PER_CELL, trace
from darkhaloscope.lensing.sources import Sersic

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

SUPERSAMPLE = 128
"""Finest sampling allowed by default: rays per pixel side where the brightness has a cusp."""

MAX_SIZE = 512
"""Largest stamp, pixels a side."""

MAX_NODES = 4096
"""Largest grid, nodes a side (128 MiB): it stops large stamps with a PSF narrower than two pixels."""


@dataclass(frozen=True)
class Rendered:
    """A noiseless arc, and what it is made of.

    Attributes
    ----------
    arc : ndarray, shape (band, y, x)
        nMgy per pixel, after the PSF; 0 in a band without a PSF. Not clipped: where the light fades
        it may be below zero by about 1e-7 of the peak.
    arc_flux_total : ndarray, shape (band,)
        Lensed flux in nMgy before the PSF, over the whole plane.
    magnification : float
        ``arc_flux_total`` over the source's flux; 1 without a lens.
    supersample : int
        Rays per pixel side in the finest part of the image plane, at least 1.
    """

    arc: FloatArray
    arc_flux_total: FloatArray
    magnification: float
    supersample: int


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


def _nodes_per_pixel(psfs: Sequence[Psf], pixel_scale: float, pixels: int) -> int:
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


def _convolve(
    x: FloatArray,
    y: FloatArray,
    flux: FloatArray,
    psfs: Sequence[Psf | None],
    size: int,
    pixel_scale: float,
) -> FloatArray:
    """Rays (stamp pixels, flux) seen through each PSF, per unit flux: (band, y, x), per pixel."""
    arc = np.zeros((len(psfs), size, size))
    drawn = [psf for psf in psfs if psf is not None]
    if not drawn:
        return arc
    around, small = _frame(size)
    per_pixel = _nodes_per_pixel(drawn, pixel_scale, small)
    nodes = small * per_pixel
    grid = np.zeros((nodes, nodes))
    _spread(x, y, flux, per_pixel, -float(around), size - 1.0 + around, grid)
    light = rfft2(grid)
    full, half = _spline_transform(nodes)
    light /= full[:, None]
    light /= half[None, :]
    for i, psf in enumerate(psfs):
        if psf is not None:
            hat = transfer(psf, nodes, per_pixel, pixel_scale)
            spectrum = _to_pixels(light, hat, per_pixel)
            arc[i] = irfft2(spectrum, s=(small, small))[:size, :size]
    return arc


def _frame(size: int) -> tuple[int, int]:
    """Pixels of the frame around the stamp on each side, and pixels of the periodic grid.

    A stamp's pixel and a ray of the frame are never further apart than half the grid, so that the
    PSF is taken at their true distance.
    """
    grid = int(next_fast_len(max(3 * size, size + 64), real=True))
    grid += grid % 2
    while next_fast_len(grid, real=True) != grid:
        grid += 2
    return grid // 2 - size, grid


def render(
    lens: Lens | None,
    source: Sersic,
    psfs: Sequence[Psf | None],
    *,
    size: int,
    x: float,
    y: float,
    pixel_scale: float = PIXEL_SCALE,
    supersample: int = SUPERSAMPLE,
) -> Rendered:
    """The noiseless image of a lensed (or, without a lens, unlensed) source in several bands.

    Parameters
    ----------
    lens : Lens or None
        Its centre is ``(dx, dy)`` from the target. None draws the source itself.
    source : Sersic
        One flux a band in nMgy; its position counts from the lens centre (from the target without a
        lens).
    psfs : sequence of Psf or None
        One a band; None draws nothing in that band.
    size : int
        Pixels a side, 8 to 512.
    x, y : float
        The target in stamp pixels: pixel centres are integers, any fraction is kept. Within half a
        stamp of the stamp.
    pixel_scale : float
        arcsec per pixel.
    supersample : int
        Finest sampling allowed, rays per pixel side: a power of two, 2 to 128.

    Returns
    -------
    Rendered

    Raises
    ------
    UserError
        A parameter out of its range, NaN included; a lens or source position outside the frame;
        numbers of fluxes and PSFs that differ.
    """
    _check(psfs, source, size, x, y, pixel_scale, supersample)
    dx, dy = (0.0, 0.0) if lens is None else (lens.dx, lens.dy)
    lens_x, lens_y = (float(value) for value in sky_to_pixel(dx, dy, x, y, pixel_scale))
    around, _ = _frame(size)
    low, high = -float(around), size - 1.0 + around
    source_x, source_y = sky_to_pixel(source.dx, source.dy, lens_x, lens_y, pixel_scale)
    if not (low <= source_x <= high and low <= source_y <= high):
        raise UserError(
            f"source dx, dy put the source at pixel ({source_x:.1f}, {source_y:.1f}); on each axis "
            f"it must be between {low:g} and {high:g} for a stamp of {size} pixels."
        )
    east, north = pixel_to_sky([high, low], [low, high], lens_x, lens_y, pixel_scale)
    widths = [psf.fwhm for psf in psfs if psf is not None]
    rays = trace(
        lens,
        source,
        frame=(east[0], east[1], north[0], north[1]),
        pixel_scale=pixel_scale,
        resolution=min(widths, default=math.inf) / FWHM_PER_CELL,
        supersample=supersample,
    )
    ray_x, ray_y = sky_to_pixel(rays.east, rays.north, lens_x, lens_y, pixel_scale)
    arc = _convolve(ray_x, ray_y, rays.flux, psfs, size, pixel_scale)
    flux = np.asarray(source.flux)
    arc *= flux[:, None, None]
    finest = max(1, round(2.0 * pixel_scale / rays.finest))
    return Rendered(arc, flux * rays.total, rays.total, finest)


def _check(
    psfs: Sequence[Psf | None],
    source: Sersic,
    size: int,
    x: float,
    y: float,
    pixel_scale: float,
    supersample: int,
) -> None:
    require_in("size", size, 8, MAX_SIZE, unit="pixels")
    if int(size) != size:
        raise UserError(f"size is {size:g} pixels; it must be a whole number of pixels.")
    require_in("pixel_scale", pixel_scale, 0.01, 10.0, unit="arcsec")
    require_in("target x", x, -0.5 * size, 1.5 * size, unit="pixels")
    require_in("target y", y, -0.5 * size, 1.5 * size, unit="pixels")
    require_in("supersample", supersample, 2, 128)
    if supersample not in (2, 4, 8, 16, 32, 64, 128):
        raise UserError(f"supersample is {supersample}; it must be a power of two from 2 to 128.")
    if len(psfs) != len(source.flux):
        raise UserError(
            f"{len(psfs)} PSFs were given for {len(source.flux)} source fluxes; "
            "there must be one of each for every band."
        )


def arc_snr(arc_band: ArrayLike, invvar: ArrayLike) -> float:
    """Signal-to-noise of an arc in one band: ``sqrt(sum arc^2 invvar)``.

    The signal-to-noise of a matched filter with the arc's own shape, for uncorrelated noise.

    Parameters
    ----------
    arc_band : array_like, shape (y, x)
        nMgy per pixel.
    invvar : array_like, shape (y, x)
        Inverse variance in 1/nMgy^2, 0 where there is no data.

    Returns
    -------
    float
    """
    arc, weight = np.asarray(arc_band, dtype=float), np.asarray(invvar, dtype=float)
    return math.sqrt(float(np.sum(arc * arc * weight)))


def warm() -> None:
    """Compile (or load from numba's cache) everything that :func:`render` runs."""
    psfs = [Psf("moffat", nea_fwhm=1.3), Psf("gaussian", fwhm=1.3)]
    source = Sersic((1.0, 1.0), reff=0.3)
    for lens in (
        None,
        Lens("SIS", 1.0),
        Lens("SIE", 1.0, q=0.7),
        Lens("EPL", 1.0, q=0.7, slope=2.1),
    ):
        render(lens, source, psfs, size=16, x=7.5, y=7.5)
