"""Where the light of an arc is, and where it should be."""

from __future__ import annotations

import numpy as np

from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.noise import flat

IN_SIGHT = 0.02
"""Fraction of the peak above which a pixel counts for an arc's place."""


def places(arc: Floats, again: Floats, radius: Floats, x: Floats, y: Floats) -> dict[str, Floats]:
    """Centroid, brightest pixel and quadrants of each stored arc against the re-rendered one.

    Parameters
    ----------
    arc, again, radius : ndarray (image, y, x)
        ``radius`` in pixels from the target.
    x, y : ndarray (image,)
        The target, in pixels.
    """
    n, size = len(arc), arc.shape[-1]
    sight = np.zeros(arc.shape, dtype=bool)
    for image in (arc, again):
        sight |= image > IN_SIGHT * image.max(axis=(1, 2), keepdims=True)
    axis = np.arange(size, dtype=float)
    right = np.broadcast_to(axis[None, None, :] > x[:, None, None], arc.shape)
    up = np.broadcast_to(axis[None, :, None] > y[:, None, None], arc.shape)
    centre, quadrant, peak = [], [], []
    for image in (arc, again):
        light = np.where(sight, image, 0.0)
        total = light.sum(axis=(1, 2))
        total = np.where(total > 0, total, np.nan)
        centre.append([(light * axis).sum(axis=(1, 2)) / total,
                       (light * axis[:, None]).sum(axis=(1, 2)) / total])  # fmt: skip
        quadrant.append(
            [
                (light * (right == a) * (up == c)).sum(axis=(1, 2)) / total
                for a in (0, 1)
                for c in (0, 1)
            ]
        )
        peak.append(flat(image).argmax(axis=1))
    away = flat(radius)
    index = np.arange(n)
    light = flat(again)
    found, wanted = away[index, peak[0]], away[index, peak[1]]
    # Two images of nearly the same brightness may change ranks by rounding alone.
    elsewhere = light[index, peak[0]] < 0.9 * light[index, peak[1]]
    return {
        "centroid_shift": np.hypot(centre[0][0] - centre[1][0], centre[0][1] - centre[1][1]),
        "peak_radius": found,
        "peak_radius_rerendered": wanted,
        "peak_misplaced": (elsewhere & (np.abs(found - wanted) > 1.5)).astype(float),
        "quadrant_difference": np.max(
            np.abs(np.array(quadrant[0]) - np.array(quadrant[1])), axis=0
        ),
    }
