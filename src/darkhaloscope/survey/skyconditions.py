"""How the synthetic sky was 'observed': PSF widths, depth, coverage, and the noise of coadds.

Widths and depth are functions of the place on the sky, so that neighbouring bricks agree where they
overlap; only the coverage is a brick's own.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from darkhaloscope.survey import bricks as tiling
from darkhaloscope.survey import skyfiles
from darkhaloscope.survey.skysources import stream

SKY_SIGMA = {"g": 0.0018, "r": 0.0023, "i": 0.0042, "z": 0.0079}
"""1 / sqrt(invvar) of an empty pixel in nMgy under four exposures: g, r, z as in DR9."""

SKY_FLUX = {"g": 0.09, "r": 0.27, "i": 0.70, "z": 1.7}
"""Flux in nMgy of the night sky in a pixel (22.2, 21.0, 20.0, 19.0 mag arcsec^-2): what a source's
own photons have to compete with."""

PSF_WIDTH = {"g": 1.40, "r": 1.25, "i": 1.20, "z": 1.15}
"""Typical noise-equivalent width in arcsec."""

PSF_RANGE = (1.0, 1.7)
"""Widths in arcsec that none falls outside of."""

PSF_BETA = 3.5

GBand = Literal["normal", "empty", "absent"]

_EXPOSURES = 4
_GAP, _PERIODS = 0.012, (0.17, 0.31)  # deg: between detectors, and from one to the next
_GRID = 40  # pixels between the points at which smooth fields are computed


@dataclass(frozen=True)
class Conditions:
    """One band of one brick, arrays (y, x): noise-equivalent PSF width in arcsec, 1 / sqrt(invvar) of
    the empty sky in nMgy, and where there are data."""

    width: NDArray[np.float64]
    sigma: NDArray[np.float64]
    covered: NDArray[np.bool_]


def conditions(seed: int, brick: str, band: str, size: int) -> Conditions:
    """PSF, depth and coverage of one band of one brick.

    Widths of :data:`PSF_RANGE` in steps of 1/512 (a map that is lossless and yet small). Four
    exposures whose gaps between detectors lie elsewhere leave bands of lower depth; 14 bricks in a
    hundred have a band whose footprint ends within them.
    """
    from scipy.interpolate import RectBivariateSpline  # slow to import

    grid = np.linspace(0.0, size - 1.0, max(5, size // _GRID))
    x, y = np.meshgrid(grid, grid)
    ra, dec = skyfiles.brick_wcs(brick, size).wcs_pix2world(x, y, 0)
    ra0 = float(tiling.brick_centre(brick)[0])
    east = (ra - ra0 + 180.0) % 360.0 - 180.0  # no jump at 0 h

    def everywhere(field: NDArray[np.float64]) -> NDArray[np.float64]:
        axis = np.arange(size)
        return np.asarray(RectBivariateSpline(grid, grid, field)(axis, axis))

    width = PSF_WIDTH[band] * (1.0 + 0.03 * _smooth(seed, ("psf", band), ra, dec))
    depth = 1.0 + 0.05 * _smooth(seed, ("depth", band), ra, dec)
    rng = stream(seed, "gaps", band)
    offset = rng.random(_EXPOSURES)
    place = (ra0 + everywhere(east), everywhere(dec))
    exposures = np.full((size, size), float(_EXPOSURES))
    for k in range(_EXPOSURES):
        along, period = place[k % 2], _PERIODS[k // 2]
        exposures -= (along / period + offset[k]) % 1.0 < _GAP / period
    sigma = SKY_SIGMA[band] * everywhere(depth) * np.sqrt(_EXPOSURES / np.maximum(exposures, 1.0))
    return Conditions(
        np.round(np.clip(everywhere(width), *PSF_RANGE) * 512) / 512,
        sigma,
        _footprint(seed, brick, band, size),
    )


def g_band_of(seed: int, brick: str) -> GBand:
    """What the g files of a brick are: one brick in 25 has empty ones, and one in 25 none."""
    place = stream(seed, "g", brick).random()
    return "absent" if place < 0.04 else "empty" if place < 0.08 else "normal"


def _footprint(seed: int, brick: str, band: str, size: int) -> NDArray[np.bool_]:
    """Pixels with data: all, or those on one side of a line through the brick."""
    rng = stream(seed, "footprint", brick)
    partial, which, angle, offset = rng.random(4)
    if partial > 0.14 or "grz".find(band) != int(3 * which):
        return np.ones((size, size), bool)
    axis = (np.arange(size) - (size - 1) / 2) / size
    along = np.cos(2 * np.pi * angle) * axis + np.sin(2 * np.pi * angle) * axis[:, None]
    return np.asarray(along < 0.6 * offset - 0.1)


def _smooth(
    seed: int, what: tuple[str, str], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A sum of waves of 0.08 to 2 deg on the sphere, of variance 1."""
    rng = stream(seed, *what)
    wavelength = np.radians(np.geomspace(0.08, 2.0, 8))
    direction = rng.normal(size=(8, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    phase = rng.uniform(0.0, 2 * np.pi, 8)
    lon, lat = np.radians(ra), np.radians(dec)
    place = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    wave = np.tensordot(2 * np.pi / wavelength[:, None] * direction, place, axes=1)
    return np.asarray(np.cos(wave + phase[:, None, None]).sum(axis=0) / 2.0)


def coadd_noise(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Gaussian noise (size, size) as Lanczos-3 resampling leaves it, of 0.888 per 1 / sqrt(invvar).

    A coadd is a mean of exposures that were resampled at different sub-pixel shifts, while its
    invvar counts the pixels' own noise. Averaged over shifts, pixels m apart covary along each axis
    by the integral of L(u) L(u + m), L Lanczos' kernel of order 3: 0.888 at m = 0, and 0.112, -0.076,
    0.027 of it at m = 1, 2, 3. In the DR9 brick of the documentation: 0.91 to 0.89, and 0.11, -0.09, 0.02.
    """
    taps = _taps()
    pad = len(taps) // 2
    white = rng.standard_normal((size + 2 * pad, size + 2 * pad))
    along_x = correlate1d(white, taps, axis=1, mode="constant")
    return np.asarray(correlate1d(along_x, taps, axis=0, mode="constant"))[pad:-pad, pad:-pad]


@functools.cache
def _taps() -> NDArray[np.float64]:
    """The symmetric kernel whose autocorrelation is that of Lanczos-3, averaged over shifts."""
    step = 512
    u = np.arange(-3 * step, 3 * step + 1) / step
    kernel = np.sinc(u) * np.sinc(u / 3)
    covariance = [float(kernel[: len(u) - m * step] @ kernel[m * step :]) / step for m in range(6)]
    turn = 2 * math.pi * np.arange(256) / 256
    power = covariance[0] + 2 * sum(covariance[m] * np.cos(m * turn) for m in range(1, 6))
    taps = np.fft.ifft(np.sqrt(np.maximum(power, 0.0))).real
    return np.concatenate([taps[-24:], taps[:25]])
