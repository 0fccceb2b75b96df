"""From images to what a network is given: masked, on one scale, 0 where there is no data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.views.pixels import View, normalize, view_pixels
from darkhaloscope.views.reading import Reading

Images = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Scale(NamedTuple):
    """Mean and standard deviation of each channel, nMgy, of both classes of the train split alike."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def network_input(
    images: Images,
    nodata: Mask,
    reading: Reading,
    *,
    weight: NDArray[np.float64] | None = None,
    scale: Scale | None = None,
) -> Images:
    """Images as a reading shows them to a network, (image, channel, y, x) float32.

    Every image is treated alike, whatever its class. Pixels without data are 0 in the end: the sky's
    level, with ``normalize: annulus``; the mean, with ``global``.

    Parameters
    ----------
    images : ndarray (image, channel, y, x)
        nMgy.
    nodata : ndarray of bool, same shape
        Pixels without data.
    reading : Reading
    weight : ndarray (image, 1, y, x), optional
        What the input mask leaves of each pixel (``views.mask_weight``); needed where the reading has one.
    scale : Scale, optional
        Needed with ``normalize: global``.
    """
    masked = view_pixels(images, ~nodata, weight, View(input_mask=reading.input_mask))
    if reading.normalize == "annulus":
        out = normalize(masked, ~nodata)
    elif reading.normalize == "global":
        if scale is None:
            raise ValueError("normalize: global needs the scale of the train split")
        mean, std = (np.array(v, np.float32)[:, None, None] for v in scale)
        out = (masked - mean) / std
    else:
        out = masked
    return np.where(nodata, np.float32(0), out).astype(np.float32, copy=False)


def dihedral(images: NDArray[np.generic], k: int) -> NDArray[np.generic]:
    """Images turned by the k-th of the eight symmetries of a square about (N - 1) / 2; a view.

    k = 4 m + r: mirrored in x where m is 1, then turned r quarters from x toward y. No pixel is
    interpolated, and the centre of the stamp stays where it is.
    """
    if k >= 4:
        images = images[..., ::-1]
    return np.rot90(images, -(k % 4), axes=(-2, -1))


def dihedral_point(x: float, y: float, size: int, k: int) -> tuple[float, float]:
    """Where a point of a stamp of ``size`` pixels goes when :func:`dihedral` turns the stamp."""
    centre = (size - 1) / 2
    x, y = x - centre, y - centre
    if k >= 4:
        x = -x
    for _ in range(k % 4):
        x, y = -y, x
    return x + centre, y + centre
