"""Sources given as pixels: the image of a real galaxy, behind a lens.

The image is interpolated in the source plane, by lines or by cubics (Keys 1981, IEEE Trans. ASSP
29, 1153), whose weights add up to 1 everywhere: the flux is the sum of the pixels. The same
quadtree as for a Sersic source finds the light, with the largest pixel that a cell's rays can reach
in the place of a known profile. Nothing is read from files here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.compiled import compiled
from darkhaloscope.errors import UserError
from darkhaloscope.lensing.checks import require_choice, require_fluxes, require_in
from darkhaloscope.lensing.deflection import Lens, lens_ray, stretch
from darkhaloscope.lensing.rays import FWHM_PER_CELL, RIPPLE, Rays, ripple_of, root_cell

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PIXEL_ERROR = 2e-4
"""Error that one cell may have, as a part of the flux found so far. Cells within one source pixel
err at random: measured on real galaxies, 2e-4 of the flux and 5e-4 of the arc's peak at most."""

_GAUSS = 0.5 / math.sqrt(3.0)
_MARGIN = 2  # pixels beyond the image that cubics reach
_OVERSHOOT = 1.3  # of cubics: their weights' magnitudes add up to 1.25^2 at most between pixels
_RULE_ERROR = 0.05  # of a 2x2 rule on a cell within one source pixel, over its brightness range


class PixelSource:
    """A source given as an image, such as a cut-out of a real galaxy.

    Parameters
    ----------
    flux : sequence of float
        Total flux in nMgy, one value a band: the image is divided by its sum.
    image : array_like, shape (y, x)
        Brightness in any unit, sky subtracted; noise may be negative, the sum must not.
    scale : float
        arcsec per pixel of the image, in [0.001, 1]. Other than the true one to make the source
        larger or smaller.
    dx, dy : float
        Position (East, North) in arcsec of the image's centre ``((nx - 1)/2, (ny - 1)/2)``, from
        the lens centre; from the target where there is no lens.
    rotation : float
        Position angle of the image's y axis, degrees east of north. At 0 it lies as on a coadd:
        North up, East to the left.
    mirrored : bool
        The image's x axis is turned round first (East to the right at a rotation of 0).
    interpolation : 'linear' or 'cubic'
        'linear' is never below the pixels' smallest value and blurs by about half a pixel; 'cubic'
        is sharper.
    deconvolved : bool
        Recorded only. False: the image holds its own camera's PSF (for HST F814W about 0.1 arcsec),
        which is lensed with it: the arc is too smooth by that much times the magnification.

    Raises
    ------
    UserError
        A parameter out of its range, NaN included; an image without flux.
    """

    def __init__(
        self,
        flux: Sequence[float],
        image: ArrayLike,
        scale: float,
        *,
        dx: float = 0.0,
        dy: float = 0.0,
        rotation: float = 0.0,
        mirrored: bool = False,
        interpolation: Literal["linear", "cubic"] = "cubic",
        deconvolved: bool = False,
    ) -> None:
        self.flux = require_fluxes(flux)
        require_in("source scale", scale, 0.001, 1.0, unit="arcsec")
        require_in("source dx", dx, -1000.0, 1000.0, unit="arcsec")
        require_in("source dy", dy, -1000.0, 1000.0, unit="arcsec")
        require_in("source rotation", rotation, -360.0, 360.0, unit="degrees")
        require_choice("source interpolation", interpolation, ("linear", "cubic"))
        pixels = np.array(image, dtype=float, order="C")  # another order is compiled anew
        if pixels.ndim != 2 or min(pixels.shape) < 2 or max(pixels.shape) > 4096:
            raise UserError(
                f"source image has shape {pixels.shape}; it must be (y, x), 2 to 4096 pixels each."
            )
        if not np.isfinite(pixels).all():
            raise UserError("source image holds NaN or infinity; every pixel must be finite.")
        total = float(pixels.sum())
        if not total > 1e-3 * float(np.abs(pixels).max()):
            raise UserError(
                f"source image sums to {total:g}; its sum must be above 0, the source's flux."
            )
        self.image: FloatArray = pixels / total
        self.image.setflags(write=False)
        self.scale, self.dx, self.dy = float(scale), float(dx), float(dy)
        self.rotation, self.mirrored = float(rotation), bool(mirrored)
        self.interpolation, self.deconvolved = interpolation, bool(deconvolved)
        self._levels, self._shapes = _maxima(np.abs(np.pad(self.image, _MARGIN)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """An array that was pickled can be written again, and numba would compile anew for it."""
        self.__dict__.update(state)
        self.image.setflags(write=False)

    def numbers(self) -> FloatArray:
        """dx, dy, sin and cos of the rotation, +-1 for the x axis, 1/scale, centre x, y, cubic."""
        angle = math.radians(self.rotation)
        rows, columns = self.image.shape
        side = -1.0 if not self.mirrored else 1.0
        centre = [0.5 * (columns - 1), 0.5 * (rows - 1)]
        cubic = float(self.interpolation == "cubic")
        place = [self.dx, self.dy, math.sin(angle), math.cos(angle), side, 1.0 / self.scale]
        return np.array([*place, *centre, cubic])


def _maxima(image: FloatArray) -> tuple[FloatArray, IntArray]:
    """An image, its maxima over 2x2, 4x4 .. pixels, end to end; rows: start, height, width."""
    levels, shapes, start = [], [], 0
    while True:
        levels.append(image.ravel())
        shapes.append((start, *image.shape))
        start += image.size
        if image.size == 1:
            return np.concatenate(levels), np.array(shapes, dtype=np.int64)
        rows, columns = image.shape
        even = np.pad(image, ((0, rows % 2), (0, columns % 2)))
        image = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).max(axis=(1, 3))


@compiled
def _largest(levels: FloatArray, shapes: IntArray, x: float, y: float, reach: float) -> float:
    """Largest magnitude of the pixels that interpolation reads within ``reach`` of a place."""
    low_x, high_x = x - reach, x + reach + 2.0 * _MARGIN
    low_y, high_y = y - reach, y + reach + 2.0 * _MARGIN
    # clipped: no index overflows for an unbounded reach
    low_x, high_x = max(low_x, 0.0), min(high_x, shapes[0, 2] - 1.0)
    low_y, high_y = max(low_y, 0.0), min(high_y, shapes[0, 1] - 1.0)
    if low_x > high_x or low_y > high_y:
        return 0.0
    level = 0
    while level < shapes.shape[0] - 1 and max(high_x - low_x, high_y - low_y) > 2.0 * 2.0**level:
        level += 1
    start, columns = shapes[level, 0], shapes[level, 2]
    largest = 0.0
    for j in range(int(low_y) >> level, (int(high_y) >> level) + 1):
        for i in range(int(low_x) >> level, (int(high_x) >> level) + 1):
            largest = max(largest, levels[start + j * columns + i])
    return largest


@compiled
def _weights(f: float, cubic: bool, weights: FloatArray) -> None:
    """Weights of the pixels -1, 0, 1, 2 about a place ``f`` beyond pixel 0; they add up to 1."""
    g = 1.0 - f
    if cubic:
        weights[0] = -0.5 * f * g * g
        weights[1] = 1.0 - 2.5 * f * f + 1.5 * f * f * f
        weights[2] = 1.0 - 2.5 * g * g + 1.5 * g * g * g
        weights[3] = -0.5 * g * f * f
    else:
        weights[0], weights[1], weights[2], weights[3] = 0.0, g, f, 0.0


@compiled
def _brightness(
    image: FloatArray, x: float, y: float, cubic: bool, wx: FloatArray, wy: FloatArray
) -> float:
    """Interpolated image at a place in its pixels, 0 outside."""
    rows, columns = image.shape
    if not (-2.0 < x < columns + 1.0 and -2.0 < y < rows + 1.0):
        return 0.0
    i0, j0 = math.floor(x), math.floor(y)
    _weights(x - i0, cubic, wx)
    _weights(y - j0, cubic, wy)
    value = 0.0
    for j in range(4):
        row = j0 - 1 + j
        if 0 <= row < rows and wy[j] != 0.0:
            for i in range(4):
                column = i0 - 1 + i
                if 0 <= column < columns:
                    value += wy[j] * wx[i] * image[row, column]
    return value


@compiled
def _to_image(
    east: float, north: float, lens: FloatArray, source: FloatArray
) -> tuple[float, float]:
    """Where on the source's image a ray lands, in its pixels."""
    if lens.size > 0:
        a_east, a_north = lens_ray(east, north, lens)
        east -= a_east
        north -= a_north
    east -= source[0]
    north -= source[1]
    up = east * source[2] + north * source[3]
    left = east * source[3] - north * source[2]
    return source[6] + source[4] * left * source[5], source[7] + up * source[5]


@compiled
def _trace(
    lens: FloatArray,
    source: FloatArray,
    image: FloatArray,
    levels: FloatArray,
    shapes: IntArray,
    centre: FloatArray,
    half: float,
    frame: FloatArray,
    resolution: float,
    smallest: float,
    tolerance: float,
    ripple: float,
) -> tuple[FloatArray, int, float, float]:
    """Subdivide from the cell of half-side ``half`` about ``centre``; as :func:`rays.trace` does.

    A cell that covers more than one source pixel is cut unless all it can hold is allowed to be
    wrong; a smaller one where its brightness varies too much for the 2x2 rule.
    """
    per_arcsec = source[5]
    cubic = source[8] == 1.0
    peak = per_arcsec * per_arcsec  # the image's pixels are fractions of the flux
    wx, wy, u, v, light = np.empty(4), np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    rays = np.empty((3, 16384))
    count, total, finest = 0, 0.0, 2.0 * half
    stack = np.empty((256, 3))
    stack[0, 0], stack[0, 1], stack[0, 2] = centre[0], centre[1], half
    depth = 1
    while depth > 0:
        depth -= 1
        east, north, h = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        side = 2.0 * h
        reach = h * math.sqrt(2.0)
        if lens.size > 0:
            reach = stretch(math.sqrt(east * east + north * north), reach, lens)
        x, y = _to_image(east, north, lens, source)
        bound = _OVERSHOOT * _largest(levels, shapes, x, y, reach * per_arcsec)
        bound *= peak * side * side
        if bound == 0.0:
            continue
        inside = (
            east + h > frame[0]
            and east - h < frame[1]
            and north + h > frame[2]
            and north - h < frame[3]
        )
        if count + 4 > rays.shape[1]:
            grown = np.empty((3, 2 * rays.shape[1]))
            grown[:, :count] = rays[:, :count]
            rays = grown
        allowed = tolerance * max(1.0, total)
        step = _GAUSS * side
        low, high = math.inf, -math.inf
        for i in range(4):
            e = east + (step if i % 2 else -step)
            n = north + (step if i // 2 else -step)
            u[i], v[i] = _to_image(e, n, lens, source)
            light[i] = peak * _brightness(image, u[i], v[i], cubic, wx, wy)
            low, high = min(low, light[i]), max(high, light[i])
        flux = 0.25 * side * side * (light[0] + light[1] + light[2] + light[3])
        divide = False
        if h > smallest and bound > 0.1 * allowed:
            extent2 = 0.0
            for i, j in ((0, 1), (2, 3), (0, 2), (1, 3)):
                extent2 = max(extent2, (u[i] - u[j]) ** 2 + (v[i] - v[j]) ** 2)
            if 3.0 * extent2 > 1.0:
                divide = bound > allowed
            else:
                divide = _RULE_ERROR * (high - low) * side * side > allowed
            if inside and side > resolution:
                divide = divide or ripple_of(side, resolution) * bound > ripple * side * side
        if divide:
            for i in range(4):
                stack[depth, 0] = east + 0.5 * (h if i % 2 else -h)
                stack[depth, 1] = north + 0.5 * (h if i // 2 else -h)
                stack[depth, 2] = 0.5 * h
                depth += 1
            continue
        total += flux
        finest = min(finest, side)
        if inside:
            for i in range(4):
                rays[0, count] = east + (step if i % 2 else -step)
                rays[1, count] = north + (step if i // 2 else -step)
                rays[2, count] = 0.25 * side * side * light[i]
                count += 1
    return rays, count, total, finest


def trace_pixels(
    lens: Lens | None,
    source: PixelSource,
    *,
    frame: tuple[float, float, float, float],
    pixel_scale: float,
    resolution: float,
    supersample: int,
    tolerance: float = PIXEL_ERROR,
) -> Rays:
    """Rays that carry the lensed light of a pixelised source of unit flux.

    The parameters are those of :func:`rays.trace`.
    """
    rows, columns = source.image.shape
    outer = source.scale * (0.5 * math.hypot(rows, columns) + 2.0 * _MARGIN)
    lens_numbers, centre, half = root_cell(lens, source.dx, source.dy, outer, pixel_scale)
    # The area over which the light is spread, 1 / sum I^2, and the PSF's.
    area = source.scale**2 / float(np.square(source.image).sum())
    blurred = 0.5 / (area + math.pi * (FWHM_PER_CELL * resolution) ** 2)
    rays, count, total, finest = _trace(
        lens_numbers,
        source.numbers(),
        source.image,
        source._levels,
        source._shapes,
        centre,
        half,
        np.array(frame, dtype=float),
        resolution,
        pixel_scale / supersample * (1.0 + 1e-9),
        tolerance,
        RIPPLE * blurred,
    )
    return Rays(rays[0, :count], rays[1, :count], rays[2, :count], total, finest)
