"""Unresolved sources: the images of a point, by solving the lens equation.

The image plane is cut into square cells. A cell whose rays cannot land on the source, by the same
bound that steers the rays of extended sources (:func:`deflection.stretch`), is dropped with all
that it holds, so that no image is missed for want of a starting point; what is left is cut down to
a thousandth of the Einstein radius and polished by Newton's method. Lengths are arcsec.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.compiled import compiled
from darkhaloscope.errors import UserError
from darkhaloscope.lensing.checks import require_fluxes, require_in
from darkhaloscope.lensing.deflection import Lens, lens_ray, stretch

FloatArray = NDArray[np.float64]

FAINTEST = 1e-5
"""Images magnified less are left out: central ones, of slopes just below 2."""

BRIGHTEST = 1e6
"""A source with an image magnified more counts as lying on a caustic."""

_FINEST = 2.0**-10  # half-side of the last cells, in Einstein radii
_MOST_CELLS = 20_000
_STEPS = 60


@dataclass(frozen=True)
class Point:
    """An unresolved source: each of its images is the PSF, times the image's magnification.

    Parameters
    ----------
    flux : sequence of float
        Flux in nMgy, one value a band.
    dx, dy : float
        Position (East, North) in arcsec, from the lens centre; from the target where there is no
        lens.

    Raises
    ------
    UserError
        A parameter out of its range, NaN included.
    """

    flux: Sequence[float]
    dx: float = 0.0
    dy: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "flux", require_fluxes(self.flux))
        require_in("source dx", self.dx, -1000.0, 1000.0, unit="arcsec")
        require_in("source dy", self.dy, -1000.0, 1000.0, unit="arcsec")


class Images(NamedTuple):
    """Images of a point source, brightest first.

    ``east``, ``north``: offsets from the lens centre, arcsec.
    ``magnification``: signed, negative where the image is mirrored (a saddle point).
    """

    east: FloatArray
    north: FloatArray
    magnification: FloatArray


@compiled
def _jacobian(east: float, north: float, lens: FloatArray) -> tuple[float, float, float]:
    """``d source / d image`` of a ray: its EE, EN (= NE) and NN elements.

    The deflection without shear is a gradient that scales as ``r^(1 - t)``: its derivatives are the
    convergence and, by Euler's theorem, ``gamma = (1 - t) alpha e^(i phi) / r - kappa e^(2 i phi)``
    (Tessore & Metcalf 2015, A&A 580, A79, eq. 17).
    """
    q, t = lens[1], lens[6]
    r = math.sqrt(east * east + north * north)
    major = east * lens[2] + north * lens[3]
    minor = east * lens[3] - north * lens[2]
    kappa = (1.0 - 0.5 * t) * (lens[0] / math.sqrt(q * major * major + minor * minor / q)) ** t
    a_east, a_north = lens_ray(east, north, lens)
    a_east -= lens[4] * east + lens[5] * north
    a_north -= lens[5] * east - lens[4] * north
    c, s = east / r, north / r
    bend = (1.0 - t) / r
    gamma1 = bend * (a_east * c - a_north * s) - kappa * (c * c - s * s) + lens[4]
    gamma2 = bend * (a_east * s + a_north * c) - kappa * 2.0 * c * s + lens[5]
    return 1.0 - kappa - gamma1, -gamma2, 1.0 - kappa + gamma1


@compiled
def _cells(lens: FloatArray, dx: float, dy: float, half: float, finest: float) -> FloatArray:
    """Centres (2, n) of the finest cells that may hold an image; as many as there is room for."""
    out = np.empty((2, _MOST_CELLS))
    count = 0
    stack = np.empty((256, 3))
    stack[0, 0], stack[0, 1], stack[0, 2] = 0.0, 0.0, half
    depth = 1
    while depth > 0 and count < _MOST_CELLS:
        depth -= 1
        east, north, h = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        a_east, a_north = lens_ray(east, north, lens)
        distance = math.hypot(east - a_east - dx, north - a_north - dy)
        if distance > stretch(math.hypot(east, north), h * math.sqrt(2.0), lens) * (1.0 + 1e-9):
            continue
        if h <= finest:
            out[0, count], out[1, count] = east, north
            count += 1
            continue
        for i in range(4):
            stack[depth, 0] = east + 0.5 * (h if i % 2 else -h)
            stack[depth, 1] = north + 0.5 * (h if i // 2 else -h)
            stack[depth, 2] = 0.5 * h
            depth += 1
    return out[:, :count]


@compiled
def _polish(cells: FloatArray, lens: FloatArray, dx: float, dy: float) -> tuple[FloatArray, int]:
    """Newton's method from every cell: the distinct images (3, n), and how many they are."""
    images = np.empty((3, cells.shape[1]))
    count = 0
    scale = lens[0] + math.hypot(dx, dy)
    for k in range(cells.shape[1]):
        east, north = cells[0, k], cells[1, k]
        determinant = 0.0
        found = False
        for _ in range(_STEPS):
            if east == 0.0 and north == 0.0:
                break
            a_east, a_north = lens_ray(east, north, lens)
            miss_e, miss_n = dx - (east - a_east), dy - (north - a_north)
            ee, en, nn = _jacobian(east, north, lens)
            determinant = ee * nn - en * en
            found = math.hypot(miss_e, miss_n) < 1e-13 * scale
            if found or determinant == 0.0 or not math.isfinite(determinant):
                break
            step_e = (nn * miss_e - en * miss_n) / determinant
            step_n = (ee * miss_n - en * miss_e) / determinant
            length = math.hypot(step_e, step_n)
            # near the singular centre no step goes further than half way there
            longest = min(0.3 * lens[0], 0.5 * math.hypot(east, north))
            shorten = min(1.0, longest / length) if length > 0.0 else 1.0
            east += shorten * step_e
            north += shorten * step_n
        if not found or abs(determinant) * FAINTEST > 1.0:
            continue
        for j in range(count):
            if math.hypot(east - images[0, j], north - images[1, j]) < 1e-7 * lens[0]:
                found = False
                break
        if found:
            images[0, count], images[1, count] = east, north
            images[2, count] = 1.0 / determinant if determinant != 0.0 else math.inf
            count += 1
    return images, count


def image_positions(lens: Lens, dx: float, dy: float) -> Images:
    """Images of a point source, with their magnifications.

    Parameters
    ----------
    lens : Lens
    dx, dy : float
        Source (East, North) in arcsec from the lens centre.

    Returns
    -------
    Images
        Those with a magnification of at least 1e-5. A singular isothermal lens has no central
        image.

    Raises
    ------
    UserError
        The source lies on a caustic: its magnification is infinite, or above a million.
    """
    require_in("source dx", dx, -1000.0, 1000.0, unit="arcsec")
    require_in("source dy", dy, -1000.0, 1000.0, unit="arcsec")
    numbers = lens.numbers()
    finest = _FINEST * lens.theta_e
    half = finest * 2.0 ** math.ceil(math.log2(lens.reach(math.hypot(dx, dy)) / finest))
    cells = _cells(numbers, dx, dy, half, finest)
    images, count = _polish(cells, numbers, dx, dy)
    brightest = float(np.abs(images[2, :count]).max(initial=0.0))
    if cells.shape[1] == _MOST_CELLS or brightest > BRIGHTEST:
        raise UserError(
            f"source dx, dy put the point source at ({dx:g}, {dy:g}) arcsec, on a caustic of the "
            "lens; its magnification must be below a million."
        )
    order = np.argsort(-np.abs(images[2, :count]), kind="stable")
    return Images(*(images[row, order] for row in range(3)))
