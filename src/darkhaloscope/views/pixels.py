"""Pixels as a loader hands them on: the same for stamps and controls, from the image alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.compiled import compiled
from darkhaloscope.config import CoreMask
from darkhaloscope.config.base import Section
from darkhaloscope.fix import core_weight
from darkhaloscope.geometry import radius_map, stamp_centre

Floats = NDArray[Any]

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a Gaussian in units of its median absolute deviation."""

_INNER, _OUTER = 20.0, 32.0


class View(Section):
    """How images are read, whatever their class; nothing by default."""

    input_mask: CoreMask | None = None
    """Multiply the image by what this core mask leaves of each pixel."""
    normalize: bool = False
    """Take from each band the median of its outer annulus, divide by 1.4826 its MAD."""
    match_controls: bool = False
    """Take, for every injection, another galaxy whose core is as bright as the stamp's."""


def view_pixels(
    images: Floats, good: NDArray[np.bool_], weight: Floats | None, view: View
) -> Floats:
    """Images as a view shows them: masked first, so that the scale is that of what is seen.

    Parameters
    ----------
    images : ndarray (..., band, y, x)
        nMgy.
    good : ndarray of bool, same shape
        Pixels with data.
    weight : ndarray (..., 1, y, x) or None
        What the input mask leaves of each pixel; needed where the view has one.
    view : View
    """
    out = images
    if view.input_mask is not None:
        if weight is None:
            raise ValueError("the view masks the input, and no weight is given")
        out = out * weight
    return normalize(out, good) if view.normalize else out


def mask_weight(mask: CoreMask, size: int, target_x: Floats, target_y: Floats) -> Floats:
    """What an input mask leaves of each pixel, 0 to 1, (pair, 1, y, x): the weight of :func:`view_pixels`.

    Parameters
    ----------
    mask : CoreMask
    size : int
        Pixels on a side of a stamp.
    target_x, target_y : ndarray (pair,)
        The targets in stamp pixels, as a data set has them, injections and controls alike.
    """
    places = zip(target_x.tolist(), target_y.tolist(), strict=True)
    return np.stack([core_weight(mask, size, x, y) for x, y in places])[:, None]


def outer_annulus(size: int) -> tuple[float, float]:
    """Radii in pixels of the annulus that says a stamp's scale: 20 to 32, or the outer quarter of the
    radius on stamps too small for it (N <= 40)."""
    edge = size / 2
    return (0.75 * edge, edge) if edge <= _INNER else (_INNER, min(_OUTER, edge))


def annulus_scale(images: Floats, good: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Median and 1.4826 MAD of the outer annulus, (..., band, 1, 1) float64.

    0 and 1 where a band has no pixel out there; a spread of 1 where all are equal. Pixels that are not
    finite count as none.
    """
    size = images.shape[-1]
    centre = stamp_centre(size)
    radius = radius_map(size, centre, centre)
    inner, outer = outer_annulus(size)
    ring = np.flatnonzero((radius >= inner) & (radius < outer))
    shape = (*images.shape[:-2], 1, 1)
    flat = (-1, size * size)
    middle, spread = _ring_scale(images.reshape(flat), good.reshape(flat), ring)
    spread *= MAD_TO_SIGMA
    spread[spread == 0] = 1.0
    return middle.reshape(shape), spread.reshape(shape)


@compiled
def _ring_scale(
    images: Floats, good: NDArray[np.bool_], ring: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Median, and median absolute deviation, of some pixels of each image."""
    middle, spread = np.zeros(len(images)), np.zeros(len(images))
    held = np.empty(len(ring))
    for i in range(len(images)):
        count = 0
        for pixel in ring:
            if good[i, pixel] and np.isfinite(images[i, pixel]):
                held[count] = images[i, pixel]
                count += 1
        if count:
            middle[i] = np.median(held[:count])
            for k in range(count):
                held[k] = abs(held[k] - middle[i])
            spread[i] = np.median(held[:count])
    return middle, spread


def normalize(images: Floats, good: NDArray[np.bool_]) -> Floats:
    """Each image of each band in units of its own outer annulus; (..., band, y, x)."""
    middle, spread = annulus_scale(images, good)
    return np.asarray((images - middle) / spread)
