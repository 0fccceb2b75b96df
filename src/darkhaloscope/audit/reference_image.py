"""The light of a pixelised source through a lens: a fine, even grid of rays in polar coordinates.

The image is interpolated by the cubics of Keys (1981, IEEE Trans. ASSP 29, 1153) with a = -1/2, as the
convolution of the pixels with one kernel in each direction, nothing outside. Along a radius a ray's
place in the source is ``r a + r^t d + b`` (:mod:`.reference_lens`); midpoints in the radius and in the
angle err little, since the light ends smoothly on all sides. Half of the angles give the error.
"""

from __future__ import annotations

import math

import numpy as np

from darkhaloscope.audit.reference_lens import image_radius, ray_coefficients, ray_line
from darkhaloscope.audit.reference_parameters import ArcParameters, Floats
from darkhaloscope.audit.reference_psf import SPLINE, lay_ray
from darkhaloscope.compiled import compiled

_KERNEL_REACH = 2.0
_RAYS_PER_PIXEL = 3.0
_RAYS_PER_FWHM = 12.0


@compiled
def keys_kernel(x: float) -> float:
    """Keys' cubic kernel at a distance in pixels."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return 0.0


@compiled
def _interpolated(image: Floats, x: float, y: float) -> float:
    """The image at a place in its own pixels."""
    rows, columns = image.shape
    value = 0.0
    for j in range(max(0, math.ceil(y - 2.0)), min(rows - 1, math.floor(y + 2.0)) + 1):
        along = 0.0
        for i in range(max(0, math.ceil(x - 2.0)), min(columns - 1, math.floor(x + 2.0)) + 1):
            along += keys_kernel(x - i) * image[j, i]
        value += keys_kernel(y - j) * along
    return value


@compiled
def _lay_image(
    image: Floats,
    turn: Floats,
    c: Floats,
    rings: int,
    step: float,
    angles: int,
    place: Floats,
    margin: int,
    per_pixel: int,
    frame: int,
    nodes: int,
) -> tuple[Floats, float, float, Floats]:
    """All rays on the fine periodic grid, as :func:`reference_rays.lay_rays`; none with 0 nodes.

    ``turn``: from (East, North) on the source to the image's (x, y) in pixels, a row each. Returns the
    plane, its mean place, and the flux of the even and of the odd angles.
    """
    plane = np.zeros((nodes, nodes))
    wx, wy = np.empty(SPLINE), np.empty(SPLINE)
    rows, columns = image.shape
    middle_x, middle_y = 0.5 * (columns - 1), 0.5 * (rows - 1)
    sums = np.zeros(2)
    total, mean_x, mean_y = 0.0, 0.0, 0.0
    width = 2.0 * math.pi / angles
    for n in range(angles):
        phi = (n + 0.5) * width
        # an image has no ellipse: the two axes of the ray are North and East
        an, dn, bn, ae, de, be = ray_line(phi, c)
        x_step, y_step = -math.cos(phi) * place[2], math.sin(phi) * place[2]
        for m in range(rings):
            r = (m + 0.5) * step
            power = r ** c[15]
            north, east = r * an + power * dn + bn, r * ae + power * de + be
            u = middle_x + turn[0, 0] * east + turn[0, 1] * north
            v = middle_y + turn[1, 0] * east + turn[1, 1] * north
            if not (-2.0 < u < columns + 1.0 and -2.0 < v < rows + 1.0):
                continue
            flux = _interpolated(image, u, v) * r * step * width
            sums[n % 2] += flux
            if nodes == 0:
                continue
            x, y = place[0] + r * x_step, place[1] + r * y_step
            if not (-margin <= x < frame - margin and -margin <= y < frame - margin):
                continue
            lay_ray(plane, (x + margin) * per_pixel, (y + margin) * per_pixel, flux, wx, wy)
            total += flux
            mean_x += flux * x
            mean_y += flux * y
    if total > 0.0:
        mean_x /= total
        mean_y /= total
    return plane, mean_x, mean_y, sums


def lay_image(
    p: ArcParameters,
    place: Floats,
    numbers: tuple[int, int, int, int],
    finest_fwhm: float,
    tolerance: float,
) -> tuple[Floats, float, float, float, float, int]:
    """The lensed image of unit intrinsic flux on the fine grid.

    Parameters
    ----------
    p : ArcParameters
    place : ndarray
        Lens centre in stamp pixels, x and y, and pixels an arcsec.
    numbers : tuple of int
        margin, per_pixel, frame, nodes of the grid; no plane with 0 nodes.
    finest_fwhm : float
        Narrowest PSF, arcsec; 0 for none.
    tolerance : float
        Above 1e-4 a third of the rays are left out in each direction.

    Returns
    -------
    plane, mean x, mean y, magnification, error, rays
    """
    assert p.src_image is not None
    image = np.ascontiguousarray(p.src_image, dtype=float)
    image = image / (image.sum() * p.src_scale**2)
    reach = p.src_scale * (0.5 * math.hypot(*image.shape) + _KERNEL_REACH)
    radius = image_radius(reach + math.hypot(p.src_dx, p.src_dy), p)
    step = p.src_scale / _RAYS_PER_PIXEL
    if finest_fwhm > 0.0:
        step = min(step, finest_fwhm / _RAYS_PER_FWHM)
    if tolerance > 1e-4:
        step *= 1.5
    rings, angles = math.ceil(radius / step), 2 * math.ceil(math.pi * radius / step)
    angle = math.radians(p.src_rotation)
    s, c = math.sin(angle), math.cos(angle)
    turn = np.array([[-c, s], [s, c]]) / p.src_scale
    plane, x, y, sums = _lay_image(
        image, turn, ray_coefficients(p), rings, step, angles, place, *numbers
    )
    total = float(sums.sum())
    error = abs(float(sums[0] - sums[1])) / total
    return plane, x, y, total, error, rings * angles
