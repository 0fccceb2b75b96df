"""The images of a point, as the independent integrator finds them: roots of one function of the angle.

Along the ray at angle ``phi`` a source position is ``r a + r^t d + b`` (:mod:`.reference_lens`), counted
from the source, with ``t = 2 - slope``. Its part along ``a``, ``F(r) = |a|^2 r + (a d) r^t + (a b)``,
is convex or monotone: it has at most two roots, found by bisection. On each of these two branches
``r(phi)`` the part across ``a`` is followed all round; it is 0 where there is an image. Branches that end
(at the lens centre, or where the two meet) are followed to their ends.
"""

from __future__ import annotations

import math

import numpy as np

from darkhaloscope.audit.reference_lens import ray_coefficients, ray_line
from darkhaloscope.audit.reference_parameters import ArcParameters, Floats
from darkhaloscope.compiled import compiled

_ANGLES = 4096
_HALVINGS = 55
_GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)
_STEP = 1e-6  # of the numerical derivative by the angle


@compiled
def _along(r: float, a2: float, ad: float, ab: float, t: float) -> float:
    return a2 * r + ad * r**t + ab


@compiled
def _radius(outer: bool, a2: float, ad: float, ab: float, t: float) -> float:
    """The outer or the inner root of F, NaN where there is none."""
    if t == 0.0:
        r = -(ab + ad) / a2
        return r if outer and r > 0.0 else math.nan
    dips = t * ad < 0.0  # F falls first, and has a minimum
    lowest = (-t * ad / a2) ** (1.0 / (1.0 - t)) if dips else 0.0
    if dips and _along(lowest, a2, ad, ab, t) > 0.0:
        return math.nan
    if outer:
        starts_low = dips or (ab < 0.0 if t > 0.0 else ad < 0.0)
        if not starts_low:
            return math.nan
        low, high = lowest, max(2.0 * lowest, 1e-6)
        while _along(high, a2, ad, ab, t) < 0.0:
            low, high = high, 2.0 * high
        sign = 1.0
    else:
        if not dips or (t > 0.0 and ab <= 0.0):
            return math.nan
        low, high = 0.0, lowest
        sign = -1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if sign * _along(middle, a2, ad, ab, t) < 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@compiled
def _across(phi: float, outer: bool, c: Floats) -> tuple[float, float]:
    """On a branch: the radius, and the part of the source position across ``a``; NaN off it."""
    ax, dx, bx, ay, dy, by = ray_line(phi, c)
    t = c[15]
    r = _radius(outer, ax * ax + ay * ay, ax * dx + ay * dy, ax * bx + ay * by, t)
    if math.isnan(r):
        return math.nan, math.nan
    p = r**t
    return r, ax * (p * dy + by) - ay * (p * dx + bx)


@compiled
def _end(inside: float, outside: float, outer: bool, c: Floats) -> float:
    """Last angle of a branch between one on it and one off it."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        if math.isnan(_across(middle, outer, c)[1]):
            outside = middle
        else:
            inside = middle
    return inside


@compiled
def _root(low: float, high: float, outer: bool, c: Floats) -> float:
    """The angle between two of different sign where the part across is 0."""
    start = _across(low, outer, c)[1]
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _across(middle, outer, c)[1] * start > 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@compiled
def _nearest_zero(low: float, high: float, sign: float, outer: bool, c: Floats) -> float:
    """Golden section: where the part across, of this sign at both ends, comes nearest to 0."""
    for _ in range(_HALVINGS):
        width = _GOLDEN * (high - low)
        if sign * _across(high - width, outer, c)[1] < sign * _across(low + width, outer, c)[1]:
            high = low + width
        else:
            low = high - width
    return 0.5 * (low + high)


@compiled
def _angles(outer: bool, c: Floats, found: Floats, count: int) -> int:
    """Put the angles of the images on one branch into ``found``; gives how many there are now."""
    step = 2.0 * math.pi / _ANGLES
    phi0, value0 = 0.0, _across(0.0, outer, c)[1]
    before = math.nan
    for k in range(1, _ANGLES + 2):  # one more: a touch may lie about the first angle
        phi1 = k * step
        value1 = _across(phi1, outer, c)[1]
        there0, there1 = not math.isnan(value0), not math.isnan(value1)
        low, high, at_low, at_high = phi0, phi1, value0, value1
        if there0 and not there1:
            high = _end(phi0, phi1, outer, c)
            at_high = _across(high, outer, c)[1]
        elif there1 and not there0:
            low = _end(phi1, phi0, outer, c)
            at_low = _across(low, outer, c)[1]
        if k <= _ANGLES and at_low * at_high <= 0.0:
            found[count] = _root(low, high, outer, c)
            count += 1
        elif (
            before * value0 > 0.0
            and value0 * value1 > 0.0
            and abs(value0) < abs(before)
            and abs(value0) <= abs(value1)
        ):
            sign = 1.0 if value0 > 0.0 else -1.0
            touch = _nearest_zero(phi0 - step, phi1, sign, outer, c)
            if _across(touch, outer, c)[1] * sign < 0.0:
                found[count] = _root(phi0 - step, touch, outer, c)
                found[count + 1] = _root(touch, phi1, outer, c)
                count += 2
        before, phi0, value0 = value0, phi1, value1
    return count


@compiled
def _magnification(phi: float, r: float, c: Floats) -> float:
    """Image area over source area, without sign: r over the Jacobian of (r, phi)."""
    t = c[15]
    ax, dx, _, ay, dy, _ = ray_line(phi, c)
    ax1, dx1, _, ay1, dy1, _ = ray_line(phi - _STEP, c)
    ax2, dx2, _, ay2, dy2, _ = ray_line(phi + _STEP, c)
    by_r = (ax + t * dx * r ** (t - 1.0), ay + t * dy * r ** (t - 1.0))
    p = r**t
    by_phi = (
        (r * (ax2 - ax1) + p * (dx2 - dx1)) / (2.0 * _STEP),
        (r * (ay2 - ay1) + p * (dy2 - dy1)) / (2.0 * _STEP),
    )
    return r / abs(by_r[0] * by_phi[1] - by_r[1] * by_phi[0])


def point_images(p: ArcParameters) -> tuple[Floats, Floats, Floats]:
    """Images of a point source of unit flux.

    Returns
    -------
    east, north : ndarray
        Arcsec from the lens centre.
    flux : ndarray
        Magnification without sign.
    """
    if p.theta_e == 0.0:
        straight = np.array([[1.0 - p.gamma1, -p.gamma2], [-p.gamma2, 1.0 + p.gamma1]])
        east, north = np.linalg.solve(straight, [p.src_dx, p.src_dy])
        return np.array([east]), np.array([north]), np.array([1.0 / np.linalg.det(straight)])
    c = ray_coefficients(p)
    images = []
    for outer in (True, False):
        angles = np.empty(64)
        for phi in angles[: _angles(outer, c, angles, 0)]:
            r = _across(phi, outer, c)[0]
            images.append((r * math.cos(phi), r * math.sin(phi), _magnification(phi, r, c)))
    east, north, flux = np.array(images).reshape(-1, 3).T
    return east, north, flux
