"""Deflection of four rays at once, for what takes the renderer's time.

The formulas are those of :mod:`deflection`, which has them for one ray. The series of an elliptical
power law is summed for four rays side by side, so that a processor need not wait for one term to
begin the next; at slope 2 it is that of the isothermal ellipsoid, and cheaper than two arcs of
tangents.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.compiled import compiled
from darkhaloscope.lensing.deflection import ORIGIN, SERIES_STARTS, lens_ray, shear_ray

FloatArray = NDArray[np.float64]


EAST, NORTH, A_EAST, A_NORTH = 0, 1, 2, 3
ROWS = 6
"""Rows of the array that :func:`lens_rays` works on; the last two are its own."""

_COS, _STRENGTH = 4, 5


@compiled
def lens_rays(rays: FloatArray, lens: FloatArray) -> None:
    """Deflection of four rays, as :func:`deflection.lens_ray` gives of each.

    ``rays`` (:data:`ROWS`, 4) has East and North in its first rows and gets the deflection, arcsec,
    in the next two. Clenshaw's recurrence ``p_n = c_n + 2 cos(theta) p_(n+1) - p_(n+2)`` sums the
    series, whose coefficients are real: ``p_0 - p_1 cos(theta)`` is the real part and
    ``p_1 sin(theta)`` the imaginary one (Clenshaw 1955, Math. Tables Aids Comput. 9, 118).
    """
    if lens.size <= SERIES_STARTS:
        for i in range(4):
            rays[A_EAST, i], rays[A_NORTH, i] = lens_ray(rays[EAST, i], rays[NORTH, i], lens)
        return
    q, sin_pa, cos_pa, t = lens[1], lens[2], lens[3], lens[6]
    b = lens[0] * math.sqrt(q)
    for i in range(4):
        u = q * (rays[EAST, i] * sin_pa + rays[NORTH, i] * cos_pa)
        v = rays[EAST, i] * cos_pa - rays[NORTH, i] * sin_pa
        radius = math.sqrt(u * u + v * v)
        strength = 2.0 * b / (1.0 + q)
        if radius < ORIGIN:
            radius, strength = 1.0, 0.0
        elif t != 1.0:
            strength *= (b / radius) ** (t - 1.0)
        u /= radius
        v /= radius
        # the direction stands where the deflection will
        rays[A_EAST, i], rays[A_NORTH, i] = u, v
        rays[_COS, i] = v * v - u * u
        rays[_STRENGTH, i] = strength
    w0, w1 = 2.0 * rays[_COS, 0], 2.0 * rays[_COS, 1]
    w2, w3 = 2.0 * rays[_COS, 2], 2.0 * rays[_COS, 3]
    p0 = p1 = p2 = p3 = o0 = o1 = o2 = o3 = 0.0
    for n in range(lens.size - 1, SERIES_STARTS, -1):
        c = lens[n]
        p0, o0 = c - o0 + w0 * p0, p0
        p1, o1 = c - o1 + w1 * p1, p1
        p2, o2 = c - o2 + w2 * p2, p2
        p3, o3 = c - o3 + w3 * p3, p3
    for i, first, second in ((0, p0, o0), (1, p1, o1), (2, p2, o2), (3, p3, o3)):
        east, north, u, v = rays[EAST, i], rays[NORTH, i], rays[A_EAST, i], rays[A_NORTH, i]
        # p_0 - p_1 cos = c_0 - p_2 + p_1 cos
        re = lens[SERIES_STARTS] - second + rays[_COS, i] * first
        im = -2.0 * u * v * first
        along = rays[_STRENGTH, i] * (u * re - v * im)
        across = rays[_STRENGTH, i] * (u * im + v * re)
        s_east, s_north = shear_ray(east, north, lens[4], lens[5])
        rays[A_EAST, i] = along * sin_pa + across * cos_pa + s_east
        rays[A_NORTH, i] = along * cos_pa - across * sin_pa + s_north
