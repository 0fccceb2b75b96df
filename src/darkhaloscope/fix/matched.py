"""Light for a control that is as bright in the core as an arc, and is no arc.

Per band a round Gaussian about the target, convolved with the band's PSF. Its size is the one that comes
nearest to the arc's light in the pixels of the core gate, its flux there exactly the arc's: a reader
that sees brightness alone sees nothing. It has no edge anywhere, which a mean of the arc over rings cut
at some radius would have.

A Moffat is a mixture of Gaussians: with ``t`` of the Gamma distribution of shape beta - 1, a Gaussian of
variance alpha^2 / (2 t). Its convolution with a Gaussian of variance s^2 is the mixture with s^2 added to
each, and each, on a grid, is the product of a function of x and one of y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from darkhaloscope.geometry import CORE_SIZE, PIXEL_SCALE, core_slice
from darkhaloscope.lensing import Psf

Floats = NDArray[np.float64]

SIZES = np.linspace(0.0, CORE_SIZE / 2, 51) * PIXEL_SCALE
"""Sigmas in arcsec that are tried, before the PSF: up to half of the gate's side, where the light is all
but flat in it. A list, so that no search can end elsewhere on another machine."""

LOG_T = -24.0, 4.5
"""Ends of the mixture in log t."""

STEP = 0.75
"""Step of the mixture in log t, in units of the Gamma distribution's own width there, 1 / sqrt(beta). The
trapezoidal rule converges exponentially: the profile is right to 1e-6 of itself out to a stamp's corner."""


class Matched(NamedTuple):
    """The added light of one row.

    Attributes
    ----------
    light : (band, y, x)
        nMgy per pixel.
    flux_total : (band,)
        Of the whole plane, nMgy; NaN in a band without a PSF.
    sigma : (band,)
        Of the Gaussian before the PSF, arcsec; NaN in a band without a PSF, and where the arc has no
        light in the core.
    """

    light: Floats
    flux_total: Floats
    sigma: Floats


def matched_light(
    arc: NDArray[np.float32],
    nodata: NDArray[np.bool_],
    psfs: Sequence[Psf | None],
    target_x: float,
    target_y: float,
) -> Matched:
    """Round light with an arc's flux in the core.

    Parameters
    ----------
    arc : (band, y, x)
        As it is stored, after PSF and fix, nMgy per pixel.
    nodata : (band, y, x)
        Pixels where no light is seen.
    psfs : one a band
        None for a band that is not drawn.
    target_x, target_y : float
        Where the light is centred, in stamp pixels.
    """
    size = arc.shape[-1]
    core = core_slice(size)
    made = Matched(np.zeros(arc.shape), np.full(len(arc), np.nan), np.full(len(arc), np.nan))
    for b, psf in enumerate(psfs):
        if psf is None:
            continue
        seen = ~nodata[b, core, core]
        wanted = arc[b, core, core].astype(float) * seen
        made.flux_total[b] = 0.0
        if not (wanted.sum() > 0.0):
            continue
        tried = np.stack([_square(psf, s, size, target_x, target_y, core) for s in SIZES]) * seen
        # Of each size the flux that gives the arc's in the core; then the size that is nearest.
        flux = wanted.sum() / tried.sum(axis=(1, 2))
        best = int(np.argmin(((flux[:, None, None] * tried - wanted) ** 2).sum(axis=(1, 2))))
        made.flux_total[b], made.sigma[b] = flux[best], SIZES[best]
        light = flux[best] * round_profile(psf, float(SIZES[best]), size, target_x, target_y)
        made.light[b] = np.where(nodata[b], 0.0, light)
    return made


def round_profile(psf: Psf, sigma: float, size: int, x0: float, y0: float) -> Floats:
    """A round Gaussian of unit flux, convolved with a PSF, on a stamp: fraction of the flux per pixel.

    Parameters
    ----------
    psf : Psf
    sigma : float
        Of the Gaussian before the PSF, arcsec; 0 is a point.
    size : int
        Pixels on a side.
    x0, y0 : float
        Its centre in stamp pixels.
    """
    return _square(psf, sigma, size, x0, y0, slice(0, size))


def _square(psf: Psf, sigma: float, size: int, x0: float, y0: float, part: slice) -> Floats:
    weight, variance = _mixture(psf)
    width = np.sqrt(variance + sigma**2) / PIXEL_SCALE
    axis = np.arange(size, dtype=float)[part]
    across, up = (_along(axis - centre, width, psf.pixel) for centre in (x0, y0))
    # Not a product of matrices: that would call BLAS, which sums otherwise on another CPU.
    return np.asarray(np.einsum("k,ky,kx->yx", weight, up, across))


def _along(offset: Floats, width: Floats, pixel: str) -> Floats:
    """Gaussians (component, pixel) along one axis: at the pixels' centres, or averaged over pixels."""
    if pixel == "integrate":
        edges = (np.append(offset, offset[-1] + 1.0) - 0.5)[None, :] / (
            math.sqrt(2) * width[:, None]
        )
        return np.diff(0.5 * erf(edges), axis=1)
    scaled = offset[None, :] / width[:, None]
    return np.exp(-0.5 * scaled**2) / (math.sqrt(2 * math.pi) * width[:, None])


def _mixture(psf: Psf) -> tuple[Floats, Floats]:
    """Weights (their sum is 1) and variances (arcsec^2) of the Gaussians that a PSF is made of."""
    if psf.model == "gaussian":
        return np.ones(1), np.array([psf.sigma**2])
    log_t = np.arange(*LOG_T, STEP / math.sqrt(psf.beta))
    t = np.exp(log_t)
    weight = np.exp((psf.beta - 1.0) * log_t - t)
    return weight / weight.sum(), psf.alpha**2 / (2.0 * t)
