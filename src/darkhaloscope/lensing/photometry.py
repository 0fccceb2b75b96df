"""Magnitudes to fluxes, the signal-to-noise of an arc by its several names, and its photon noise.

Fluxes are nMgy (AB, zero point 22.5), inverse variances 1/nMgy^2 per pixel and 0 where there is no
data. All noise is taken for uncorrelated; that of a resampled coadd is not (pixel scatter about
0.9/sqrt(invvar)), so that every figure here is of the survey's own invvar.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.errors import UserError
from darkhaloscope.lensing.checks import require_in

FloatArray = NDArray[np.float64]

ZERO_POINT = 22.5
"""AB magnitude of 1 nMgy."""

FEWEST_BRIGHT = 10
"""Pixels above 20 sigma that an estimate of the gain needs."""


def flux_from_mag(mag: ArrayLike, colours: ArrayLike = 0.0) -> FloatArray:
    """Flux in nMgy of AB magnitudes: ``10^(0.4 (22.5 - mag - colour))``.

    Parameters
    ----------
    mag : array_like
        AB magnitude in the reference band, in [-50, 100].
    colours : array_like
        Magnitude in each band minus that in the reference band, one a band; 0 is the reference
        band itself. Broadcasts against ``mag``.

    Returns
    -------
    ndarray
        nMgy, of the shape that the two broadcast to.

    Raises
    ------
    UserError
        A magnitude that is NaN or out of its range.
    """
    total = np.asarray(mag, dtype=float) + np.asarray(colours, dtype=float)
    for value in np.atleast_1d(total).ravel():
        require_in("mag", value, -50.0, 100.0)
    return np.asarray(10.0 ** (0.4 * (ZERO_POINT - total)), dtype=float)


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

    Raises
    ------
    UserError
        Shapes that differ, or an invvar that is negative or NaN.
    """
    arc, weight = _arrays(arc_band, invvar)
    return math.sqrt(float(np.sum(arc * arc * weight)))


def snr_matched_filter(arc: ArrayLike, invvar: ArrayLike) -> FloatArray:
    """``sqrt(sum arc^2 invvar)`` of each band: :func:`arc_snr` for arrays (..., y, x).

    The most that any linear filter can reach (Turin 1960, IRE Trans. Inf. Theory 6, 311). Bands
    combine in quadrature.
    """
    signal, weight = _arrays(arc, invvar)
    return np.asarray(np.sqrt((signal * signal * weight).sum(axis=(-2, -1))))


def snr_peak(arc: ArrayLike, invvar: ArrayLike) -> FloatArray:
    """``max(arc sqrt(invvar))`` of each band: the pixel that stands out most; arrays (..., y, x)."""
    signal, weight = _arrays(arc, invvar)
    return np.asarray((signal * np.sqrt(weight)).max(axis=(-2, -1)))


def snr_region(
    arc: ArrayLike,
    invvar: ArrayLike,
    *,
    region: ArrayLike | None = None,
    threshold: float = 1.0,
) -> FloatArray:
    """``sum_R arc / sqrt(sum_R 1/invvar)`` of each band: the flux of a region over its noise.

    Parameters
    ----------
    arc, invvar : array_like, shape (..., y, x)
    region : array_like of bool, broadcast to the arc
        R. By default the pixels with ``arc sqrt(invvar) > threshold``, in each band its own.
    threshold : float
        Sky sigmas above which a pixel belongs to the default region, in [0, 1000].

    Returns
    -------
    ndarray
        One a band; 0 where the region holds no pixel with data.
    """
    require_in("threshold", threshold, 0.0, 1000.0)
    signal, weight = _arrays(arc, invvar)
    if region is None:
        inside = signal * np.sqrt(weight) > threshold
    else:
        inside = np.broadcast_to(np.asarray(region, dtype=bool), signal.shape)
    inside = inside & (weight > 0.0)
    variance = np.divide(1.0, weight, out=np.zeros_like(signal), where=inside)
    total = np.where(inside, signal, 0.0).sum(axis=(-2, -1))
    noise = np.sqrt(variance.sum(axis=(-2, -1)))
    return np.asarray(np.divide(total, noise, out=np.zeros_like(noise), where=noise > 0.0))


def _arrays(arc: ArrayLike, invvar: ArrayLike) -> tuple[FloatArray, FloatArray]:
    signal = np.asarray(arc, dtype=float)
    weight = np.asarray(invvar, dtype=float)
    if signal.ndim < 2 or weight.shape[-2:] != signal.shape[-2:]:
        raise UserError(
            f"arc has shape {signal.shape} and invvar {weight.shape}; both must be (..., y, x) of "
            "the same stamp."
        )
    if not (weight >= 0.0).all():
        raise UserError("invvar holds a NaN or a negative value; it must be 0 or more, 1/nMgy^2.")
    shape = np.broadcast_shapes(signal.shape, weight.shape)
    return np.broadcast_to(signal, shape), np.broadcast_to(weight, shape)


def gain_from_invvar(flux: ArrayLike, invvar: ArrayLike) -> float:
    """Photons per nMgy of one band's pixels, from how invvar falls where they are bright.

    ``1/invvar = V0 + flux/gain``, with V0 (sky and read noise) the median of ``1/invvar`` where
    ``|flux| sqrt(invvar) < 2``; the gain is ``sum flux / sum (1/invvar - V0)`` over the pixels
    above 20 sigma, which noise in the flux does not bias. An approximation: it takes one gain for
    the whole stamp (a coadd's varies with the number of exposures), and V0 for uniform. Over a
    region of DR9 V0 varies by 10-20 %; against that, galaxies of 0.5 nMgy a pixel raise 1/invvar to
    2-3 times V0 in g and r, and not measurably in z, where the sky is bright: an error there.

    Parameters
    ----------
    flux, invvar : array_like, shape (y, x)
        Sky-subtracted pixels in nMgy and their inverse variance.

    Returns
    -------
    float
        Photons (electrons) per nMgy.

    Raises
    ------
    UserError
        Fewer than 10 pixels above 20 sigma, or no sky, or an invvar that does not fall there.
    """
    pixels, weight = _arrays(flux, invvar)
    known = (weight > 0.0) & np.isfinite(pixels)
    significance = pixels * np.sqrt(weight)
    bright, faint = known & (significance > 20.0), known & (np.abs(significance) < 2.0)
    if bright.sum() < FEWEST_BRIGHT or faint.sum() < FEWEST_BRIGHT:
        raise UserError(
            f"flux has {int(bright.sum())} pixels above 20 sigma and {int(faint.sum())} below 2; "
            f"for a gain there must be at least {FEWEST_BRIGHT} of each: give gain instead."
        )
    floor = float(np.median(1.0 / weight[faint]))
    excess = float((1.0 / weight[bright] - floor).sum())
    if excess <= 0.0:
        raise UserError("invvar does not fall where flux is bright: give gain instead.")
    return float(pixels[bright].sum()) / excess


def poisson_noise(
    arc: ArrayLike,
    rng: np.random.Generator,
    *,
    gain: float | None = None,
    flux: ArrayLike | None = None,
    invvar: ArrayLike | None = None,
) -> FloatArray:
    """A realisation of an arc's own photon noise, to be added to it: ``Poisson(arc g)/g - arc``.

    Only the arc's: the noise of the sky and of the galaxies is in the pixels already. Mean 0,
    variance ``arc / g``, independent from pixel to pixel (a coadd's is correlated). Where the arc
    is not above 0 there is none.

    Parameters
    ----------
    arc : array_like
        Noiseless arc of one band, nMgy per pixel.
    rng : numpy.random.Generator
        One Poisson draw a pixel, in the array's order.
    gain : float
        Photons per nMgy, in (0, 1e12]: this, or ``flux`` and ``invvar``.
    flux, invvar : array_like, shape (y, x)
        Pixels and inverse variance of the same band, from which :func:`gain_from_invvar` estimates
        the gain: to 10 % or so, and so the variance.

    Returns
    -------
    ndarray
        nMgy per pixel, of the arc's shape.

    Raises
    ------
    UserError
        Neither or both ways to a gain, one out of its range, or an arc that is not finite or has
        more than 1e18 photons in a pixel.
    """
    signal = np.asarray(arc, dtype=float)
    if not np.isfinite(signal).all():
        raise UserError("arc holds NaN or infinity; every pixel must be finite, in nMgy.")
    by_gain = gain is not None and flux is None and invvar is None
    by_pixels = gain is None and flux is not None and invvar is not None
    if not (by_gain or by_pixels):
        raise UserError("poisson_noise needs gain, or flux and invvar; it must be one of the two.")
    if gain is None:
        assert flux is not None
        assert invvar is not None
        gain = gain_from_invvar(flux, invvar)
    require_in("gain", gain, 0.0, 1e12, unit="photons per nMgy", open_low=True)
    light = np.maximum(signal, 0.0)
    require_in(
        "photons of arc", float((light * gain).max(initial=0.0)), 0.0, 1e18, unit="per pixel"
    )
    return np.asarray(rng.poisson(light * gain) / gain - light)
