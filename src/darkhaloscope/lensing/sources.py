"""Brightness profiles of unlensed sources: the Sersic profile, with its true analytic flux.

Sersic (1963); the formulas are those of Graham & Driver (2005, PASA 22, 118, eqs. 1-4), with the
exact ``b`` instead of an expansion. Lengths are arcsec, fluxes nMgy, position angles degrees east
of north.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainccinv, gammaincinv, gammaln

from darkhaloscope.compiled import compiled
from darkhaloscope.lensing.checks import require_fluxes, require_in

FloatArray = NDArray[np.float64]

SERSIC_N = (0.5, 6.0)
"""Allowed Sersic indices."""


@dataclass(frozen=True)
class Sersic:
    """An elliptical Sersic source.

    Parameters
    ----------
    flux : sequence of float
        Total flux in nMgy, one value a band, over the whole plane (analytic, nothing is cut off).
    reff : float
        Half-light radius ``sqrt(a b)`` in arcsec, in [0.01, 60].
    n : float
        Sersic index, in [0.5, 6].
    q, pa : float
        Axis ratio in [0.05, 1] and position angle of the major axis, degrees east of north.
    dx, dy : float
        Position (East, North) in arcsec, from the lens centre; from the target where there is no
        lens.

    Raises
    ------
    UserError
        A parameter out of its range, NaN included.
    """

    flux: Sequence[float]
    reff: float
    n: float = 1.0
    q: float = 1.0
    pa: float = 0.0
    dx: float = 0.0
    dy: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "flux", require_fluxes(self.flux))
        require_in("source reff", self.reff, 0.01, 60.0, unit="arcsec")
        require_in("source n", self.n, *SERSIC_N)
        require_in("source q", self.q, 0.05, 1.0)
        require_in("source pa", self.pa, -360.0, 360.0, unit="degrees")
        require_in("source dx", self.dx, -1000.0, 1000.0, unit="arcsec")
        require_in("source dy", self.dy, -1000.0, 1000.0, unit="arcsec")

    def numbers(self) -> FloatArray:
        """What the renderer reads: dx, dy, q, sin pa, cos pa, reff, 1/n, b, I(0) for unit flux."""
        pa = math.radians(self.pa)
        b = float(sersic_b(self.n))
        centre = sersic_central_brightness(self.reff, self.n)
        return np.array(
            [
                self.dx,
                self.dy,
                self.q,
                math.sin(pa),
                math.cos(pa),
                self.reff,
                1.0 / self.n,
                b,
                centre,
            ],
            dtype=float,
        )


def sersic_b(n: ArrayLike) -> FloatArray:
    """The constant ``b`` that makes ``reff`` the half-light radius: ``P(2n, b) = 1/2``.

    Exact (the inverse of the regularised incomplete gamma function; Graham & Driver 2005, eq. 4).
    """
    return np.asarray(gammaincinv(2.0 * np.asarray(n, dtype=float), 0.5), dtype=float)


def sersic_central_brightness(reff: float, n: float) -> float:
    """Central surface brightness per unit total flux, arcsec^-2 (Graham & Driver 2005, eq. 2).

    ``1 / (2 pi n reff^2 b^(-2n) Gamma(2n))``. The axis ratio does not enter, since ``reff`` is
    ``sqrt(a b)``.
    """
    b = float(sersic_b(n))
    return math.exp(2.0 * n * math.log(b) - float(gammaln(2.0 * n))) / (2.0 * math.pi * n * reff**2)


def sersic_radius_outside(reff: float, n: float, fraction: float) -> float:
    """Elliptical radius in arcsec beyond which lies ``fraction`` of the flux."""
    t = float(gammainccinv(2.0 * n, fraction))
    return reff * (t / float(sersic_b(n))) ** n


@compiled
def sersic_exponent(x: float, inverse_n: float, b: float) -> float:
    """``b x^(1/n)`` for a radius ``x`` in half-light radii; the usual indices without ``pow``."""
    if inverse_n == 1.0:
        return b * x
    if inverse_n == 0.25:
        return b * math.sqrt(math.sqrt(x))
    if inverse_n == 2.0:
        return b * x * x
    return b * x**inverse_n


@compiled
def elliptical_ray(
    east: float, north: float, q: float, sin_pa: float, cos_pa: float
) -> tuple[float, float]:
    """``(sqrt(q) x', y'/sqrt(q))``, x' on the major axis; its length is the elliptical radius."""
    major = east * sin_pa + north * cos_pa
    minor = east * cos_pa - north * sin_pa
    root = math.sqrt(q)
    return root * major, minor / root


@compiled
def _sersic_rays(east: FloatArray, north: FloatArray, source: FloatArray, out: FloatArray) -> None:
    for i in range(east.size):
        u, v = elliptical_ray(
            east[i] - source[0], north[i] - source[1], source[2], source[3], source[4]
        )
        t = sersic_exponent(math.sqrt(u * u + v * v) / source[5], source[6], source[7])
        out[i] = source[8] * math.exp(-t)


def sersic_profile(east: ArrayLike, north: ArrayLike, source: Sersic) -> FloatArray:
    """Surface brightness of a Sersic source of unit flux.

    ``I(R) = I(0) exp(-b (R / reff)^(1/n))`` with the elliptical radius ``R^2 = q x'^2 + y'^2 / q``,
    x' along the major axis (Graham & Driver 2005, eq. 1).

    Parameters
    ----------
    east, north : array_like
        Offsets in arcsec from the point that ``source.dx, source.dy`` start at.
    source : Sersic
        Its ``flux`` is not used: the integral over the plane is 1.

    Returns
    -------
    ndarray
        Fraction of the flux per arcsec^2.
    """
    e, n = np.broadcast_arrays(np.asarray(east, dtype=float), np.asarray(north, dtype=float))
    out = np.empty(e.size)
    _sersic_rays(
        np.ascontiguousarray(e).ravel(), np.ascontiguousarray(n).ravel(), source.numbers(), out
    )
    return out.reshape(e.shape)
