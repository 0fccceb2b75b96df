"""What a stamp looks like in a few numbers: sky, noise, edges, galaxy and flaws, in each band."""

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

LIT = 5.0
"""Light in units of its noise from which on its centre is known."""

CORNERS, EDGES, NOISE = "corners", "edges", "noise"
OFF_CENTRE, SPIKES, NO_DATA, VALUES = (
    "light's distance from the centre", "spikes", "pixels without data", "distinct values",
)  # fmt: skip
SKY = (CORNERS, EDGES, NOISE)
FLAWS = (OFF_CENTRE, SPIKES, NO_DATA, VALUES)

LOST_STAMP, LOST_CTRL = "lost_stamp", "lost_ctrl"
"""Columns (pair, band) of sets without pairs: part of an image's pixels that are no numbers."""


@dataclass(frozen=True)
class Looks:
    """``values`` (image, band, feature) of :func:`looks`, and the region of each image."""

    values: Floats
    region: NDArray[np.uint64]


def look_names(size: int) -> list[str]:
    """Names of the features, in order: rings, corners, edges, noise, flaws."""
    return [*(f"ring {a:g}-{b:g} px" for a, b in _rings(size)), *SKY, *FLAWS]


def looks(images: NDArray[np.floating], good: NDArray[np.bool_]) -> Floats:
    """What a stamp looks like in a few numbers, (image, band, feature), in its own unit.

    Means of rings about the centre and of the corners beyond them; mean of the edges minus that of the
    outermost ring; noise of the corners, from neighbours' differences; :func:`flaws`. Missing where there
    are no data.

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
    out = np.full((n, bands, len(look_names(size))), np.nan)
    for b in range(bands):
        image = flat(np.where(good[:, b], images[:, b], 0.0))
        count = flat(good[:, b]).astype(float) @ parts.T
        means = np.where(count > 0, (image @ parts.T) / np.maximum(count, 1.0), np.nan)
        means[:, -1] -= means[:, -3]
        pairs = far & good[:, b]
        noise = scatter(
            np.diff(images[:, b].astype(float), axis=-1), pairs[..., 1:] & pairs[..., :-1]
        )
        noise = np.where(noise > 0, noise / np.sqrt(2.0), np.nan)
        out[:, b] = np.column_stack(
            [means, noise, flaws(images[:, b], good[:, b], means[:, -2], noise)]
        )
    return out


def flaws(
    images: NDArray[np.floating], good: NDArray[np.bool_], sky: Floats, noise: Floats
) -> Floats:
    """What goes wrong with images of one class, (image, 4).

    How far the centre of the innermost light is from the stamp's, in px; the brightest pixel outside of
    it, over the fainter two of its four neighbours, in units of the noise: cosmic rays, hot pixels; part
    of the pixels without data; part of the others' values that differ from each other: images kept in coarse
    steps have few.

    Parameters
    ----------
    images, good : ndarray (image, y, x)
    sky, noise : ndarray (image,)
        Level and noise of the corners.
    """
    size = images.shape[-1]
    axis = np.arange(size) - stamp_centre(size)
    inner = np.hypot(axis[:, None], axis[None, :]) < RING
    light = np.where(inner & good, images - sky[:, None, None], 0.0)
    whole = good[:, inner].all(axis=1)
    total = light.sum(axis=(1, 2))
    moment = np.hypot(light.sum(axis=1) @ axis, light.sum(axis=2) @ axis)
    known = whole & (total > LIT * np.sqrt(inner.sum()) * noise)
    far = np.divide(moment, total, out=np.full(len(images), np.nan), where=known)

    up, down, left, right = (
        (slice(None), slice(y, y + size - 2), slice(x, x + size - 2))
        for y, x in ((0, 1), (2, 1), (1, 0), (1, 2))
    )
    middle = (slice(None), slice(1, -1), slice(1, -1))
    seen = good[middle] & good[up] & good[down] & good[left] & good[right]
    seen &= ~inner[1:-1, 1:-1]
    # The sum of the fainter two of four.
    one = np.minimum(images[up], images[down]) + np.minimum(images[left], images[right])
    fainter = np.minimum(one, np.minimum(images[up] + images[down], images[left] + images[right]))
    over = np.where(seen, images[middle] - 0.5 * fainter, -np.inf).max(axis=(1, 2))
    spike = np.divide(over, noise, out=np.full(len(images), np.nan), where=np.isfinite(over))

    count = good.sum(axis=(1, 2))
    ordered = np.sort(flat(np.where(good, images, np.nan)), axis=1)
    distinct = (np.diff(ordered, axis=1) > 0).sum(axis=1) + 1.0
    values = np.divide(distinct, count, out=np.full(len(images), np.nan), where=count > 0)
    missing = np.where(count > 0, 1.0 - count / size**2, np.nan)
    return np.column_stack([far, spike, missing, values])


def _rings(size: int) -> list[tuple[float, float]]:
    return list(pairwise([*np.arange(0.0, size / 2 - RING / 2, RING).tolist(), size / 2]))
