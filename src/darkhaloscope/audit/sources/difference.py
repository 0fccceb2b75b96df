"""An arc that is the difference of two stored images: how far its sum may be off.

Two images that were rounded, or that have noise of their own, do not differ by the arc alone. Checks that
hold to the last digit where arcs are stored must grant that much.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.noise import TO_SIGMA
from darkhaloscope.geometry import radius_map, stamp_centre

Steps = NDArray[np.float64]
"""Sum over a stamp of the steps in which its pixels are stored, (row, band)."""

GRANTED = 10.0
"""Standard errors of a sum of white noise that are granted: neighbours may be alike."""


def steps(images: NDArray[np.float32], stored: np.dtype[Any], unit: float = 1.0) -> Steps:
    """Sum of the steps of pixels (row, band, y, x) that were stored as ``stored``.

    ``unit`` is what one of a stored integer stands for.
    """
    if stored.kind != "f":
        return np.full(images.shape[:2], abs(unit) * float(np.prod(images.shape[2:])))
    # They were read as float32, whatever they were before.
    step = max(float(np.finfo(stored).eps), float(np.finfo(np.float32).eps))
    return np.asarray(step * np.nansum(np.abs(images), axis=(2, 3), dtype=float))


def difference_error(
    arc: NDArray[np.float32], nodata: NDArray[np.bool_], rounding: Steps
) -> NDArray[np.float64]:
    """How far the sum of each difference (row, band, y, x) may be off by noise and rounding; (row, band).

    The noise is that of neighbours' differences far from the centre, so that a constant, or the wings
    of an arc, are none.
    """
    size = arc.shape[-1]
    far = radius_map(size, stamp_centre(size), stamp_centre(size)) > 0.4 * size
    both = far[:, 1:] & far[:, :-1]
    change = np.where(nodata[..., 1:] | nodata[..., :-1], 0.0, np.diff(arc, axis=-1))[..., both]
    level = TO_SIGMA * np.median(np.abs(change), axis=-1) / np.sqrt(2.0)
    return np.asarray(GRANTED * level * size + rounding)
