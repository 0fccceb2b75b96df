"""The light of a Sersic source through a lens: cells of the image plane, split until they are right.

The image plane is integrated in polar coordinates about the lens centre. Each cell of (radius,
angle) carries two quadratures, 3x3 Gauss points on the whole and on each quarter. Their difference
is taken for the error of the finer, which it overestimates; where the source's centre may lie between
the rays, what a peak there could hide is added (the cusp of n = 4 defeats differences). The worst
cells are halved, or quartered, until all errors, added up without sign, are below ``tolerance`` times
the flux. Rings grow geometrically out to the radius beyond which ``tolerance / 100`` of the source's
light is left: the flux is that of the whole plane.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammainccinv, gammaincinv, gammaln

from darkhaloscope.audit.reference_lens import image_radius, ray_line
from darkhaloscope.audit.reference_parameters import ArcParameters, Floats
from darkhaloscope.audit.reference_psf import SPLINE, lay_ray
from darkhaloscope.compiled import compiled

MAX_CELLS = 400_000
_ANGLES = 8
_GAUSS_NODE = math.sqrt(0.6)
_RAYS_PER_CELL = 45
_ALONG_R, _ALONG_PHI, _ALONG_BOTH = 0, 1, 2


def sersic_numbers(p: ArcParameters) -> Floats:
    """Sersic of unit flux: peak brightness, b_n, R_e^2, 1 / (2 n) (Graham & Driver 2005, eq. 4)."""
    n = p.src_n
    b = float(gammaincinv(2.0 * n, 0.5))
    log_area = math.log(2.0 * math.pi * n * p.src_reff**2) + gammaln(2.0 * n)
    return np.array([math.exp(2.0 * n * math.log(b) - log_area), b, p.src_reff**2, 0.5 / n])


def root_rings(p: ArcParameters, tolerance: float) -> Floats:
    """Radii in arcsec of the first rings, out to where ``tolerance / 100`` of the light is left."""
    n = p.src_n
    b = gammaincinv(2.0 * n, 0.5)
    reach = p.src_reff * (gammainccinv(2.0 * n, 0.01 * tolerance) / b) ** n / math.sqrt(p.src_q)
    reach += math.hypot(p.src_dx, p.src_dy)
    reach = image_radius(reach, p)
    first = 0.5 * p.theta_e if p.theta_e > 0.0 else p.src_reff
    count = max(1, math.ceil(math.log2(reach / first)))
    return np.concatenate([[0.0], first * 2.0 ** np.arange(count + 1)])


@compiled
def _nodes(low: float, high: float, points: Floats, weights: Floats) -> None:
    """Three Gauss points on each half of an interval, then three on the whole of it."""
    quarter = 0.25 * (high - low)
    for part in range(3):
        half_width = quarter if part < 2 else 2.0 * quarter
        middle = low + (2 * part + 1) * quarter if part < 2 else low + 2.0 * quarter
        for i in range(3):
            points[3 * part + i] = middle + (i - 1) * _GAUSS_NODE * half_width
            weights[3 * part + i] = half_width * (8.0 if i == 1 else 5.0) / 9.0


@compiled
def _light(x: float, y: float, profile: Floats) -> float:
    """Sersic brightness at a place on the ellipse's axes."""
    return profile[0] * math.exp(-profile[1] * ((x * x + y * y) / profile[2]) ** profile[3])


@compiled
def _evaluate(cell: Floats, c: Floats, profile: Floats, k: float, frame: float) -> None:
    """Fill a cell (r0, r1, phi0, phi1, error, flux, how to split) from its 45 rays.

    The error has three parts: the difference of the two quadratures; where the source's centre may
    lie between the rays, what a peak there would add to one ray's share of the area; and what the
    PSF would feel, the error ``(k w)^6 / 2,016,000`` of three Gauss points on half the cell, for
    the wave ``k``.
    """
    radii, radial, angles, angular = np.empty(9), np.empty(9), np.empty(9), np.empty(9)
    _nodes(cell[0], cell[1], radii, radial)
    _nodes(cell[2], cell[3], angles, angular)
    powers = radii ** c[15]
    across_nodes = (cell[1] - cell[0]) / (radii[5] - radii[0])
    flux, coarse, nearest = 0.0, 0.0, np.inf
    along_r, along_phi = 0.0, 0.0  # extent on the source plane, squared
    first_x, first_y = np.zeros(6), np.zeros(6)
    for i in range(6):
        ax, dx, bx, ay, dy, by = ray_line(angles[i], c)
        for j in range(6):
            x = radii[j] * ax + powers[j] * dx + bx
            y = radii[j] * ay + powers[j] * dy + by
            flux += _light(x, y, profile) * radii[j] * radial[j] * angular[i]
            nearest = min(nearest, x * x + y * y)
            if i == 0:
                first_x[j], first_y[j] = x, y
            along_phi = max(along_phi, (x - first_x[j]) ** 2 + (y - first_y[j]) ** 2)
        long_x = ax * (radii[5] - radii[0]) + dx * (powers[5] - powers[0])
        long_y = ay * (radii[5] - radii[0]) + dy * (powers[5] - powers[0])
        along_r = max(along_r, (long_x * long_x + long_y * long_y) * across_nodes**2)
    for i in range(6, 9):
        ax, dx, bx, ay, dy, by = ray_line(angles[i], c)
        for j in range(6, 9):
            x = radii[j] * ax + powers[j] * dx + bx
            y = radii[j] * ay + powers[j] * dy + by
            coarse += _light(x, y, profile) * radii[j] * radial[j] * angular[i]
    error = abs(flux - coarse)
    extent2 = max(along_r, along_phi)
    if extent2 > 9.0 * nearest:
        ray_area = 0.5 * (cell[1] ** 2 - cell[0] ** 2) * (cell[3] - cell[2]) / 36.0
        error += (profile[0] - _light(math.sqrt(nearest), 0.0, profile)) * ray_area
    split_r, split_phi = along_r > 0.25 * along_phi, along_phi > 0.25 * along_r
    if cell[0] < frame:
        wide, long = cell[1] - cell[0], cell[1] * (cell[3] - cell[2])
        felt = flux * min(1.0, (0.5 * k * max(wide, long)) ** 6 / 2.016e6)
        if felt > 0.5 * error:
            split_r, split_phi = split_r or wide > 0.5 * long, split_phi or long > 0.5 * wide
        error += felt
    cell[4], cell[5] = error, flux
    cell[6] = _ALONG_BOTH if split_r and split_phi else (_ALONG_R if split_r else _ALONG_PHI)


@compiled
def _threshold(cells: Floats, allowed: float) -> float:
    """The error above which cells are split: those below add up to half of what is allowed."""
    low, high = 0.0, cells[:, 4].max()
    for _ in range(24):
        middle = 0.5 * (low + high) if low > 0.0 else high / 64.0
        total = 0.0
        for i in range(cells.shape[0]):
            if cells[i, 4] <= middle:
                total += cells[i, 4]
        if total > 0.5 * allowed:
            high = middle
        else:
            low = middle
    return low


@compiled
def subdivide(
    rings: Floats,
    c: Floats,
    profile: Floats,
    tolerance: float,
    k: float,
    frame: float,
    limit: int,
) -> tuple[Floats, int, int, float]:
    """Split cells until their errors add up to less than the tolerance.

    Returns the cells, their number, the rays spent and the summed error (intrinsic flux 1).
    """
    cells = np.empty((limit, 7))
    count = 0
    step = 2.0 * math.pi / _ANGLES
    for ring in range(rings.size - 1):
        for sector in range(_ANGLES):
            cells[count, 0], cells[count, 1] = rings[ring], rings[ring + 1]
            cells[count, 2], cells[count, 3] = sector * step, (sector + 1) * step
            _evaluate(cells[count], c, profile, k, frame)
            count += 1
    evaluated = count
    while True:
        flux, error = cells[:count, 5].sum(), cells[:count, 4].sum()
        if error <= tolerance * flux or count + 3 > limit:
            return cells, count, _RAYS_PER_CELL * evaluated, error
        threshold = _threshold(cells[:count], tolerance * flux)
        for i in range(count):
            if cells[i, 4] <= threshold or count + 3 > limit:
                continue
            r0, r1, phi0, phi1 = cells[i, 0], cells[i, 1], cells[i, 2], cells[i, 3]
            radial_parts = 1 if cells[i, 6] == _ALONG_PHI else 2
            angular_parts = 1 if cells[i, 6] == _ALONG_R else 2
            dr, dphi = (r1 - r0) / radial_parts, (phi1 - phi0) / angular_parts
            new = i
            for a in range(radial_parts):
                for b in range(angular_parts):
                    cells[new, 0], cells[new, 1] = r0 + a * dr, r0 + (a + 1) * dr
                    cells[new, 2], cells[new, 3] = phi0 + b * dphi, phi0 + (b + 1) * dphi
                    _evaluate(cells[new], c, profile, k, frame)
                    evaluated += 1
                    new = count if new == i else new + 1
            count += radial_parts * angular_parts - 1


@compiled
def lay_rays(
    cells: Floats,
    c: Floats,
    profile: Floats,
    place: Floats,
    margin: int,
    per_pixel: int,
    frame: int,
    nodes: int,
) -> tuple[Floats, float, float]:
    """All rays of all cells on the fine periodic grid.

    Returns the plane (its sum is the flux in the frame) and its flux-weighted mean in stamp pixels.
    """
    plane = np.zeros((nodes, nodes))
    wx, wy = np.empty(SPLINE), np.empty(SPLINE)
    radii, radial, angles, angular = np.empty(9), np.empty(9), np.empty(9), np.empty(9)
    total, mean_x, mean_y = 0.0, 0.0, 0.0
    for n in range(cells.shape[0]):
        cell = cells[n]
        if cell[5] < 1e-14:
            continue
        _nodes(cell[0], cell[1], radii, radial)
        _nodes(cell[2], cell[3], angles, angular)
        powers = radii ** c[15]
        for i in range(6):
            ax, dx, bx, ay, dy, by = ray_line(angles[i], c)
            # x falls towards the East
            x_step, y_step = -math.cos(angles[i]) * place[2], math.sin(angles[i]) * place[2]
            for j in range(6):
                x, y = place[0] + radii[j] * x_step, place[1] + radii[j] * y_step
                if not (-margin <= x < frame - margin and -margin <= y < frame - margin):
                    continue
                sx = radii[j] * ax + powers[j] * dx + bx
                sy = radii[j] * ay + powers[j] * dy + by
                flux = _light(sx, sy, profile) * radii[j] * radial[j] * angular[i]
                total += flux
                mean_x += flux * x
                mean_y += flux * y
                lay_ray(plane, (x + margin) * per_pixel, (y + margin) * per_pixel, flux, wx, wy)
    if total > 0.0:
        mean_x /= total
        mean_y /= total
    return plane, mean_x, mean_y
