"""What a stamp looks like in a few numbers: sky, noise, edges and galaxy, in each band."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.noise import flat, scatter
from darkhaloscope.geometry import radius_map, stamp_centre

RING = 6.0
"""Width of a ring in pixels: features are few, since each is a test of its own."""

EDGE = 2
"""Pixels along each side that are the edge."""

CORNERS, EDGES, NOISE = "corners", "edges", "noise"


@dataclass(frozen=True)
class Looks:
    """``values`` (image, band, feature) of :func:`looks`, and the region of each image."""

    values: Floats
    region: NDArray[np.uint64]


def look_names(size: int) -> list[str]:
    """Names of the features, in order: rings, corners, edges, noise."""
    return [f"ring {a:g}-{b:g} px" for a, b in _rings(size)] + [CORNERS, EDGES, NOISE]


def looks(images: NDArray[np.floating], good: NDArray[np.bool_]) -> Floats:
    """What a stamp looks like in a few numbers, (image, band, feature), in its own unit.

    Means of rings about the centre and of the corners beyond them; mean of the edges minus that of the
    outermost ring; noise of the corners, from neighbours' differences. Missing where there are no data.

    Parameters
    ----------
    images, good : ndarray (image, band, y, x)
    """
    n, bands, size = images.shape[:3]
    radius = radius_map(size, stamp_centre(size), stamp_centre(size))
    axis = np.arange(size)
    edge = (axis < EDGE) | (axis >= size - EDGE)
    far = radius >= size / 2
    masks = [(radius >= a) & (radius < b) for a, b in _rings(size)]
    masks += [far, edge[:, None] | edge[None, :]]
    parts = flat(np.stack(masks)).astype(float)
    out = np.full((n, bands, len(masks) + 1), np.nan)
    for b in range(bands):
        image = flat(np.where(good[:, b], images[:, b], 0.0))
        count = flat(good[:, b]).astype(float) @ parts.T
        out[:, b, :-1] = np.where(count > 0, (image @ parts.T) / np.maximum(count, 1.0), np.nan)
        pairs = far & good[:, b]
        noise = scatter(
            np.diff(images[:, b].astype(float), axis=-1), pairs[..., 1:] & pairs[..., :-1]
        )
        out[:, b, -1] = np.where(noise > 0, noise / np.sqrt(2.0), np.nan)
    out[..., -2] -= out[..., -4]
    return out


def _rings(size: int) -> list[tuple[float, float]]:
    return list(pairwise([*np.arange(0.0, size / 2 - RING / 2, RING).tolist(), size / 2]))
