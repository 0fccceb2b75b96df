"""Where a ray lands: the lens of the independent integrator, in polar coordinates about its centre.

An elliptical power law deflects by a factor that depends on the direction only times
``r^(2 - slope)``, so that along a radius the source position is linear in ``r`` and that power.
"""

from __future__ import annotations

import math

import numpy as np

from darkhaloscope.audit.reference_parameters import ArcParameters, Floats
from darkhaloscope.compiled import compiled


def _axes(pa: float) -> Floats:
    """Rows: major and minor axis of a position angle, as (East, North). Its own inverse."""
    s, c = math.sin(math.radians(pa)), math.cos(math.radians(pa))
    return np.array([[s, c], [c, -s]])


def ray_coefficients(p: ArcParameters) -> Floats:
    """All that a ray needs: lens, source ellipse, the same after shear, source offset, slope."""
    q, pa = (p.src_q, p.src_pa) if p.src_model == "sersic" else (1.0, 0.0)
    ellipse = np.diag([math.sqrt(q), 1.0 / math.sqrt(q)]) @ _axes(pa)
    shear = np.array([[p.gamma1, p.gamma2], [p.gamma2, -p.gamma1]])
    lens = [p.theta_e * math.sqrt(p.lens_q), p.lens_q, math.sqrt(1.0 - p.lens_q**2)]
    return np.concatenate(
        [
            lens,
            _axes(p.lens_pa)[0],
            ellipse.ravel(),
            (ellipse @ (np.eye(2) - shear)).ravel(),
            [p.src_dx, p.src_dy, 2.0 - p.slope],
        ]
    )


def image_radius(reach: float, p: ArcParameters) -> float:
    """Radius beyond which nothing lands within ``reach`` of the axis on the source plane.

    The deflection at ``r`` is at most ``pull r^(2 - slope)``, found on a fine grid of directions.
    """
    free = 1.0 - math.hypot(p.gamma1, p.gamma2)
    if p.slope == 2.0:
        return (reach + p.theta_e / math.sqrt(p.lens_q)) / free
    c = ray_coefficients(p)
    pulls = [abs(power_law_pull(math.cos(a), math.sin(a), c)) for a in np.linspace(0.0, 1.6, 161)]
    pull, power = 1.001 * max(pulls), 2.0 - p.slope
    radius = reach + p.theta_e
    while free * radius - pull * radius**power < reach:
        radius *= 1.05
    return radius


@compiled
def power_law_pull(major: float, minor: float, c: Floats) -> complex:
    """Deflection by the power law at distance 1 in a direction on its axes, as major + i minor.

    Tessore & Metcalf (2015, A&A 580, A79), eq. 13, the terms of its series added until they are lost
    in rounding.
    """
    q, t = c[1], 1.0 - c[15]
    psi = math.sqrt(q * q * major * major + minor * minor)
    term = complex(q * major / psi, minor / psi)
    turn = -(1.0 - q) / (1.0 + q) * term * term
    total = term
    for n in range(1, 2000):
        term *= turn * ((2.0 * n - (2.0 - t)) / (2.0 * n + (2.0 - t)))
        total += term
        if abs(term) < 1e-16:
            break
    # c[0] is theta_e sqrt(q), the b of the paper
    return total * (2.0 * c[0] / (1.0 + q) * (c[0] / psi) ** (t - 1.0))


@compiled
def ray_line(phi: float, c: Floats) -> tuple[float, float, float, float, float, float]:
    """Source position along the ray at angle phi, on the ellipse's axes.

    (ax, dx, bx, ay, dy, by): it is ``r ax + r^(2 - slope) dx + bx``, and the same in y.
    """
    east, north = math.cos(phi), math.sin(phi)
    major = east * c[3] + north * c[4]
    minor = east * c[4] - north * c[3]
    if c[15] == 0.0:
        psi = math.sqrt(c[1] * c[1] * major * major + minor * minor)
        u, v = major / psi, minor / psi
        e = c[2]
        if e > 1e-4:  # else the next term is below e^2 / 3
            u, v = math.atan(e * u) / e, math.atanh(e * v) / e
        u, v = c[0] * u, c[0] * v
    else:
        pull = power_law_pull(major, minor, c)
        u, v = pull.real, pull.imag
    pull_east = u * c[3] + v * c[4]
    pull_north = u * c[4] - v * c[3]
    return (
        c[9] * east + c[10] * north,
        -c[5] * pull_east - c[6] * pull_north,
        -c[5] * c[13] - c[6] * c[14],
        c[11] * east + c[12] * north,
        -c[7] * pull_east - c[8] * pull_north,
        -c[7] * c[13] - c[8] * c[14],
    )
