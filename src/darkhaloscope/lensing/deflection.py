"""Reduced deflection angles of the lenses, on arrays of (East, North) offsets from the lens centre.

All lengths are arcsec, position angles degrees east of north, so that a major axis points along
``(E, N) = (sin pa, cos pa)``. The ray equation is ``source = image - alpha(image)``. The isothermal
ellipsoid is in the intermediate-axis convention of Kormann, Schneider & Bartelmann (1994, A&A 284,
285) as lenstronomy's ``SIE`` has it; the shear is lenstronomy's ``SHEAR`` with x = East and
y = North.

Each formula is written once, for one ray (``*_ray``, compiled), and the public functions apply it
to arrays, so that what the tests compare with a peer is what the renderer runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.lensing.checks import require_choice, require_in

FloatArray = NDArray[np.float64]

# Below this argument atan(u)/u and atanh(u)/u are their series: the next term, u^6/7, is 1e-13.
_SERIES_LIMIT = 1e-2


@dataclass(frozen=True)
class Lens:
    """One lens: a singular isothermal sphere or ellipsoid, with external shear.

    Parameters
    ----------
    model : 'SIS' or 'SIE'
    theta_e : float
        Einstein radius in arcsec; for the SIE on the intermediate axis, so that the area inside the
        critical curve is ``pi theta_e^2`` at any axis ratio. In (0, 100].
    q, pa : float
        Axis ratio of the convergence, in [0.05, 1], and position angle of its major axis, degrees
        east of north. An SIS has ``q = 1``.
    gamma1, gamma2 : float
        External shear (not reduced) about the lens centre, each in [-0.5, 0.5].
    dx, dy : float
        Lens centre minus target, (East, North) in arcsec.

    Raises
    ------
    UserError
        A parameter out of its range, NaN included.
    """

    model: Literal["SIS", "SIE"]
    theta_e: float
    q: float = 1.0
    pa: float = 0.0
    gamma1: float = 0.0
    gamma2: float = 0.0
    dx: float = 0.0
    dy: float = 0.0

    def __post_init__(self) -> None:
        require_choice("lens model", self.model, ("SIS", "SIE"))
        require_in("lens theta_e", self.theta_e, 0.0, 100.0, unit="arcsec", open_low=True)
        require_in("lens q", self.q, 0.05, 1.0)
        require_in("lens pa", self.pa, -360.0, 360.0, unit="degrees")
        require_in("lens gamma1", self.gamma1, -0.5, 0.5)
        require_in("lens gamma2", self.gamma2, -0.5, 0.5)
        require_in("lens dx", self.dx, -1000.0, 1000.0, unit="arcsec")
        require_in("lens dy", self.dy, -1000.0, 1000.0, unit="arcsec")
        if self.model == "SIS":
            require_in("lens q of an SIS", self.q, 1.0, 1.0)

    def numbers(self) -> FloatArray:
        """The numbers :func:`lens_ray` reads: theta_e, q, sin pa, cos pa, gamma1, gamma2."""
        pa = math.radians(self.pa)
        return np.array(
            [self.theta_e, self.q, math.sin(pa), math.cos(pa), self.gamma1, self.gamma2],
            dtype=float,
        )


@njit(cache=True, nogil=True)
def _atan_over(e: float, z: float) -> float:
    """``atan(e z) / e``, also for e -> 0."""
    u = e * z
    if abs(u) < _SERIES_LIMIT:
        return z * (1.0 - u * u * (1.0 / 3.0 - u * u / 5.0))
    return math.atan(u) / e


@njit(cache=True, nogil=True)
def _atanh_over(e: float, z: float) -> float:
    """``atanh(e z) / e``, also for e -> 0."""
    u = e * z
    if abs(u) < _SERIES_LIMIT:
        return z * (1.0 + u * u * (1.0 / 3.0 + u * u / 5.0))
    return math.atanh(u) / e


@njit(cache=True, nogil=True)
def sis_ray(east: float, north: float, theta_e: float) -> tuple[float, float]:
    """Deflection of one ray by an SIS; zero at the centre, where its direction is not defined."""
    r = math.sqrt(east * east + north * north)
    if r == 0.0:
        return 0.0, 0.0
    return theta_e * east / r, theta_e * north / r


@njit(cache=True, nogil=True)
def sie_ray(
    east: float, north: float, theta_e: float, q: float, sin_pa: float, cos_pa: float
) -> tuple[float, float]:
    """Deflection of one ray by an SIE (Kormann et al. 1994, eq. 27a, no core)."""
    major = east * sin_pa + north * cos_pa
    minor = east * cos_pa - north * sin_pa
    psi = math.sqrt(q * q * major * major + minor * minor)
    if psi == 0.0:
        return 0.0, 0.0
    e = math.sqrt((1.0 - q) * (1.0 + q))
    strength = theta_e * math.sqrt(q)
    along = strength * _atan_over(e, major / psi)
    across = strength * _atanh_over(e, minor / psi)
    return along * sin_pa + across * cos_pa, along * cos_pa - across * sin_pa


@njit(cache=True, nogil=True)
def shear_ray(east: float, north: float, gamma1: float, gamma2: float) -> tuple[float, float]:
    """Deflection of one ray by external shear about the origin."""
    return gamma1 * east + gamma2 * north, gamma2 * east - gamma1 * north


@njit(cache=True, nogil=True)
def lens_ray(east: float, north: float, lens: FloatArray) -> tuple[float, float]:
    """Deflection of one ray by the lens whose numbers are :meth:`Lens.numbers`."""
    if lens[1] == 1.0:
        a_east, a_north = sis_ray(east, north, lens[0])
    else:
        a_east, a_north = sie_ray(east, north, lens[0], lens[1], lens[2], lens[3])
    s_east, s_north = shear_ray(east, north, lens[4], lens[5])
    return a_east + s_east, a_north + s_north


@njit(cache=True, nogil=True)
def stretch(r: float, half: float, lens: FloatArray) -> float:
    """How far apart in the source plane two rays can lie that pass within ``half`` of each other.

    An upper bound for rays around a point at distance ``r`` from the lens centre, arcsec. The
    isothermal map has eigenvalues 1 and 1 - 2 kappa (Kormann et al. 1994); 2 kappa is at most
    ``theta_e / (sqrt(q) r)``, and where the patch holds the centre the deflection still changes by
    no more than twice its largest value, ``theta_e / sqrt(q)``.
    """
    gamma = math.sqrt(lens[4] * lens[4] + lens[5] * lens[5])
    largest = lens[0] / math.sqrt(lens[1])
    nearest = r - half
    jump = half + 2.0 * largest
    if nearest > 0.0:
        steep = half * max(1.0, largest / nearest - 1.0)
        return min(steep, jump) + half * gamma
    return jump + half * gamma


@njit(cache=True, nogil=True)
def _lens_rays(east: FloatArray, north: FloatArray, lens: FloatArray, out: FloatArray) -> None:
    for i in range(east.size):
        out[0, i], out[1, i] = lens_ray(east[i], north[i], lens)


def _on_arrays(
    east: ArrayLike, north: ArrayLike, lens: FloatArray
) -> tuple[FloatArray, FloatArray]:
    e, n = np.broadcast_arrays(np.asarray(east, dtype=float), np.asarray(north, dtype=float))
    out = np.empty((2, e.size))
    _lens_rays(np.ascontiguousarray(e).ravel(), np.ascontiguousarray(n).ravel(), lens, out)
    return out[0].reshape(e.shape), out[1].reshape(e.shape)


def sis(east: ArrayLike, north: ArrayLike, theta_e: float) -> tuple[FloatArray, FloatArray]:
    """Deflection of a singular isothermal sphere.

    Parameters
    ----------
    east, north : array_like
        Image-plane offsets from the lens centre, arcsec; any shapes that broadcast.
    theta_e : float
        Einstein radius, arcsec, in (0, 100].

    Returns
    -------
    alpha_E, alpha_N : ndarray
        ``theta_e * (E, N) / r`` in arcsec, 0 at the centre.

    Raises
    ------
    UserError
        theta_e out of its range.
    """
    return _on_arrays(east, north, Lens("SIS", theta_e).numbers())


def sie(
    east: ArrayLike, north: ArrayLike, theta_e: float, q: float, pa: float
) -> tuple[FloatArray, FloatArray]:
    """Deflection of a singular isothermal ellipsoid, intermediate-axis convention.

    The convergence is ``theta_e / (2 sqrt(q x'^2 + y'^2 / q))`` with x' along the major axis
    (Kormann et al. 1994, A&A 284, 285, eq. 27a, without a core). At q = 1 it is :func:`sis`.

    Parameters
    ----------
    east, north : array_like
        Image-plane offsets from the lens centre, arcsec.
    theta_e, q, pa : float
        Einstein radius in arcsec, axis ratio in [0.05, 1], position angle of the major axis in
        degrees east of north.

    Returns
    -------
    alpha_E, alpha_N : ndarray
        Arcsec, 0 at the centre.

    Raises
    ------
    UserError
        A parameter out of its range.
    """
    return _on_arrays(east, north, Lens("SIE", theta_e, q=q, pa=pa).numbers())


def shear(
    east: ArrayLike, north: ArrayLike, gamma1: float, gamma2: float
) -> tuple[FloatArray, FloatArray]:
    """Deflection of external shear about the lens centre.

    Parameters
    ----------
    east, north : array_like
        Image-plane offsets from the lens centre, arcsec.
    gamma1, gamma2 : float
        Shear components (not reduced) in the (East, North) frame.

    Returns
    -------
    alpha_E, alpha_N : ndarray
        ``(gamma1 E + gamma2 N, gamma2 E - gamma1 N)`` in arcsec.
    """
    e, n = np.asarray(east, dtype=float), np.asarray(north, dtype=float)
    return gamma1 * e + gamma2 * n, gamma2 * e - gamma1 * n
