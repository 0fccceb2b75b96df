"""Reduced deflection angles of the lenses, on arrays of (East, North) offsets from the lens centre.

All lengths are arcsec, position angles degrees east of north, so that a major axis points along
``(E, N) = (sin pa, cos pa)``. The ray equation is ``source = image - alpha(image)``. The isothermal
ellipsoid is in the intermediate-axis convention of Kormann, Schneider & Bartelmann (1994, A&A 284,
285) as lenstronomy's ``SIE`` has it; the elliptical power law (EPL) is that of Tessore & Metcalf
(2015, A&A 580, A79), lenstronomy's ``EPL``; the shear is lenstronomy's ``SHEAR`` with x = East and
y = North.

Each formula is written once, for one ray (``*_ray``, compiled), and the public functions apply it
to arrays, so that what the tests compare with a peer is what the renderer runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.compiled import compiled
from darkhaloscope.lensing.checks import require_choice, require_in

FloatArray = NDArray[np.float64]

ORIGIN = 1e-140  # arcsec: nearer, squares underflow and lose the direction; it is the centre
# Below this argument atan(u)/u and atanh(u)/u are their series: the next term, u^6/7, is 1e-13.
_SERIES_LIMIT = 1e-2

SLOPE = (1.4, 2.6)
"""Allowed slopes of an EPL: 2 is isothermal."""

_SERIES_LEFT_OUT = 1e-14
SERIES_STARTS = 9  # where the coefficients of the series begin in Lens.numbers()
_SERIES_Q = 0.35  # an SIE flatter than this has so many that arcs of tangents are faster


@dataclass(frozen=True)
class Lens:
    """One lens: an isothermal sphere or ellipsoid, or an elliptical power law, with shear.

    Parameters
    ----------
    model : 'SIS', 'SIE' or 'EPL'
    theta_e : float
        Einstein radius in arcsec; for an ellipsoid on the intermediate axis, so that the area inside
        the SIE's critical curve is ``pi theta_e^2`` at any axis ratio. In (0, 100].
    q, pa : float
        Axis ratio of the convergence, in [0.05, 1], and position angle of its major axis, degrees
        east of north. An SIS has ``q = 1``.
    gamma1, gamma2 : float
        External shear (not reduced) about the lens centre, each in [-0.5, 0.5].
    dx, dy : float
        Lens centre minus target, (East, North) in arcsec.
    slope : float
        Slope ``gamma`` of the EPL's density ``rho ~ r^-gamma``, in [1.4, 2.6]; its convergence is
        ``(3 - gamma)/2 (theta_e / sqrt(q x'^2 + y'^2/q))^(gamma - 1)``. 2 for the other models, and
        an EPL of slope 2 is the SIE.

    Raises
    ------
    UserError
        A parameter out of its range, NaN included.
    """

    model: Literal["SIS", "SIE", "EPL"]
    theta_e: float
    q: float = 1.0
    pa: float = 0.0
    gamma1: float = 0.0
    gamma2: float = 0.0
    dx: float = 0.0
    dy: float = 0.0
    slope: float = 2.0

    def __post_init__(self) -> None:
        require_choice("lens model", self.model, ("SIS", "SIE", "EPL"))
        require_in("lens theta_e", self.theta_e, 0.0, 100.0, unit="arcsec", open_low=True)
        require_in("lens q", self.q, 0.05, 1.0)
        require_in("lens pa", self.pa, -360.0, 360.0, unit="degrees")
        require_in("lens gamma1", self.gamma1, -0.5, 0.5)
        require_in("lens gamma2", self.gamma2, -0.5, 0.5)
        require_in("lens dx", self.dx, -1000.0, 1000.0, unit="arcsec")
        require_in("lens dy", self.dy, -1000.0, 1000.0, unit="arcsec")
        if self.model == "SIS":
            require_in("lens q of an SIS", self.q, 1.0, 1.0)
        if self.model == "EPL":
            require_in("lens slope", self.slope, *SLOPE)
        else:
            require_in(f"lens slope of an {self.model}", self.slope, 2.0, 2.0)

    def numbers(self) -> FloatArray:
        """What :func:`lens_ray` reads: theta_e, q, sin pa, cos pa, gamma1, gamma2, t, largest, ...

        ``t = slope - 1``; ``largest`` is the most that the lens can deflect at a distance of 1
        arcsec; then ``(theta_e / sqrt(q))^t``, and for an EPL the coefficients of its series, which
        an SIE that is not too flat has, too (:mod:`quads`).
        """
        pa = math.radians(self.pa)
        lens = [self.theta_e, self.q, math.sin(pa), math.cos(pa), self.gamma1, self.gamma2]
        scale = self.theta_e / math.sqrt(self.q)
        if self.slope == 2.0:
            terms = _epl_series(self.q, 1.0) if _SERIES_Q <= self.q < 1.0 else []
            return np.array([*lens, 1.0, scale, scale, *terms])
        t = self.slope - 1.0
        series = _epl_series(self.q, t)
        largest = _epl_largest(self.theta_e, self.q, t, series)
        return np.array([*lens, t, largest, scale**t, *series])

    def reach(self, distance: float) -> float:
        """Radius in arcsec beyond which no ray lands within ``distance`` of the axis behind."""
        t, largest = self.numbers()[6:8]
        free = 1.0 - float(np.hypot(self.gamma1, self.gamma2))
        if t == 1.0:
            return float((distance + largest) / free)
        radius = distance + self.theta_e
        while radius * free - largest * radius ** (1.0 - t) < distance:
            radius *= 1.1
        return float(radius)


def _epl_series(q: float, t: float) -> list[float]:
    """Coefficients of ``2F1(1, t/2; 2 - t/2; z)`` in powers of ``z / f``, f = (1 - q) / (1 + q).

    Tessore & Metcalf (2015), the series of eq. 13, with ``f^n`` multiplied in; as many as leave out
    1e-14 of the deflection. They are positive.
    """
    f = (1.0 - q) / (1.0 + q)
    series = [1.0]
    while series[-1] * f > _SERIES_LEFT_OUT * (1.0 - f):
        n = len(series)
        series.append(series[-1] * f * (2.0 * n - 2.0 + t) / (2.0 * n + 2.0 - t))
    return series


def _epl_largest(theta_e: float, q: float, t: float, series: list[float]) -> float:
    """Bound of ``|alpha| r^(t - 1)``: the series at its largest, R at its end of [q r, r]."""
    b = theta_e * math.sqrt(q)
    return 2.0 * b / (1.0 + q) * (b / (q if t > 1.0 else 1.0)) ** (t - 1.0) * sum(series)


@compiled
def _atan_over(e: float, z: float) -> float:
    """``atan(e z) / e``, also for e -> 0."""
    u = e * z
    if abs(u) < _SERIES_LIMIT:
        return z * (1.0 - u * u * (1.0 / 3.0 - u * u / 5.0))
    return math.atan(u) / e


@compiled
def _atanh_over(e: float, z: float) -> float:
    """``atanh(e z) / e``, also for e -> 0."""
    u = e * z
    if abs(u) < _SERIES_LIMIT:
        return z * (1.0 + u * u * (1.0 / 3.0 + u * u / 5.0))
    return math.atanh(u) / e


@compiled
def sis_ray(east: float, north: float, theta_e: float) -> tuple[float, float]:
    """Deflection of one ray by an SIS; zero at the centre, where its direction is not defined."""
    r = math.sqrt(east * east + north * north)
    if r < ORIGIN:
        return 0.0, 0.0
    return theta_e * east / r, theta_e * north / r


@compiled
def sie_ray(
    east: float, north: float, theta_e: float, q: float, sin_pa: float, cos_pa: float
) -> tuple[float, float]:
    """Deflection of one ray by an SIE (Kormann et al. 1994, eq. 27a, no core)."""
    major = east * sin_pa + north * cos_pa
    minor = east * cos_pa - north * sin_pa
    psi = math.sqrt(q * q * major * major + minor * minor)
    if psi < ORIGIN:
        return 0.0, 0.0
    e = math.sqrt((1.0 - q) * (1.0 + q))
    strength = theta_e * math.sqrt(q)
    along = strength * _atan_over(e, major / psi)
    across = strength * _atanh_over(e, minor / psi)
    return along * sin_pa + across * cos_pa, along * cos_pa - across * sin_pa


@compiled
def epl_ray(east: float, north: float, lens: FloatArray) -> tuple[float, float]:
    """Deflection of one ray by an EPL (Tessore & Metcalf 2015, eq. 13).

    ``alpha = 2 b / (1 + q) (b / R)^(t - 1) e^(i phi) 2F1(1, t/2; 2 - t/2; -f e^(2 i phi))`` with
    ``b = theta_e sqrt(q)`` and ``R e^(i phi) = q x' + i y'``. For t > 1 it grows without limit
    towards the centre; at the centre it is 0.
    """
    q, sin_pa, cos_pa, t = lens[1], lens[2], lens[3], lens[6]
    u = q * (east * sin_pa + north * cos_pa)
    v = east * cos_pa - north * sin_pa
    radius = math.sqrt(u * u + v * v)
    if radius < ORIGIN:
        return 0.0, 0.0
    u /= radius
    v /= radius
    w_re, w_im = v * v - u * u, -2.0 * u * v
    re, im = lens[lens.size - 1], 0.0
    for n in range(lens.size - 2, SERIES_STARTS - 1, -1):
        re, im = lens[n] + re * w_re - im * w_im, re * w_im + im * w_re
    b = lens[0] * math.sqrt(q)
    strength = 2.0 * b / (1.0 + q) * (b / radius) ** (t - 1.0)
    along = strength * (u * re - v * im)
    across = strength * (u * im + v * re)
    return along * sin_pa + across * cos_pa, along * cos_pa - across * sin_pa


@compiled
def shear_ray(east: float, north: float, gamma1: float, gamma2: float) -> tuple[float, float]:
    """Deflection of one ray by external shear about the origin."""
    return gamma1 * east + gamma2 * north, gamma2 * east - gamma1 * north


@compiled
def lens_ray(east: float, north: float, lens: FloatArray) -> tuple[float, float]:
    """Deflection of one ray by the lens whose numbers are :meth:`Lens.numbers`."""
    if lens[6] != 1.0:
        a_east, a_north = epl_ray(east, north, lens)
    elif lens[1] == 1.0:
        a_east, a_north = sis_ray(east, north, lens[0])
    else:
        a_east, a_north = sie_ray(east, north, lens[0], lens[1], lens[2], lens[3])
    s_east, s_north = shear_ray(east, north, lens[4], lens[5])
    return a_east + s_east, a_north + s_north


@compiled
def stretch(r: float, half: float, lens: FloatArray) -> float:
    """How far apart in the source plane two rays can lie that pass within ``half`` of each other.

    An upper bound for rays around a point at distance ``r`` from the lens centre, arcsec. The
    Jacobian's largest eigenvalue is ``|1 - kappa| + |gamma|``, and a deflection that scales as
    ``r^(1 - t)`` has ``gamma = (1 - t) alpha e^(i phi) / r - kappa e^(2 i phi)`` (Tessore & Metcalf
    2015, eq. 17; by Euler's theorem), so that it is at most
    ``max(1, 2 kappa - 1) + |1 - t| |alpha| / r``; for the isothermal lens 1 or 2 kappa - 1
    (Kormann et al. 1994). Nor can the deflection change by more than twice its largest value, which
    is the only bound where the patch holds the centre; for t > 1 there is none there: infinity.
    """
    gamma = math.sqrt(lens[4] * lens[4] + lens[5] * lens[5])
    t, largest = lens[6], lens[7]
    nearest = r - half
    if t == 1.0:
        jump = half + 2.0 * largest
        if nearest > 0.0:
            steep = half * max(1.0, largest / nearest - 1.0)
            return min(steep, jump) + half * gamma
        return jump + half * gamma
    if nearest <= 0.0:
        if t > 1.0:
            return math.inf
        return half + 2.0 * largest * (r + half) ** (1.0 - t) + half * gamma
    power = nearest**-t
    steep = max(1.0, (2.0 - t) * lens[8] * power - 1.0) + abs(1.0 - t) * largest * power
    furthest = (r + half) ** (1.0 - t) if t < 1.0 else nearest * power
    return min(half + 2.0 * largest * furthest, half * steep) + half * gamma


@compiled
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


def epl(
    east: ArrayLike, north: ArrayLike, theta_e: float, q: float, pa: float, slope: float
) -> tuple[FloatArray, FloatArray]:
    """Deflection of an elliptical power law, intermediate-axis convention.

    The convergence is ``(3 - slope)/2 (theta_e / sqrt(q x'^2 + y'^2/q))^(slope - 1)`` with x' along
    the major axis (Tessore & Metcalf 2015, A&A 580, A79, eq. 13; lenstronomy ``EPL``). At
    slope 2 it is :func:`sie`.

    Parameters
    ----------
    east, north : array_like
        Image-plane offsets from the lens centre, arcsec.
    theta_e, q, pa : float
        Einstein radius in arcsec, axis ratio in [0.05, 1], position angle of the major axis in
        degrees east of north.
    slope : float
        Slope of the density, in [1.4, 2.6].

    Returns
    -------
    alpha_E, alpha_N : ndarray
        Arcsec, 0 at the centre (for slopes above 2 it grows without limit towards it).

    Raises
    ------
    UserError
        A parameter out of its range.
    """
    return _on_arrays(east, north, Lens("EPL", theta_e, q=q, pa=pa, slope=slope).numbers())


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
