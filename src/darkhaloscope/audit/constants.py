"""Light that is the same in every pair: a constant over the stamp, and another in its core.

Residuals are stacked over pairs in stamp coordinates, weighted towards pixels without an arc, so that
what is common stands out. The core's constant reaches as far as the stack stays above half of its
level around the centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.noise import deviation
from darkhaloscope.geometry import core_slice, radius_map, stamp_centre

NOTICED = 5e-4
"""Core level in sky sigma from which its reach is traced; half of the limit on a pedestal."""

ABOVE_NOISE = 5.0
"""Core level in units of a stacked pixel's scatter from which its reach is traced in noise."""

UNUSUAL = 10.0
"""Robust standard deviations from the median from which the core of an image is no usual one."""

CENTRE = 3.0
SMALLEST = 9
"""Fewer pixels than this are no core."""


@dataclass(frozen=True)
class Constants:
    """``far`` over the whole stamp, ``core`` more inside ``mask`` (y, x), which has ``radius`` pixels.

    The mask is the central 10x10 box (radius 5) where no core constant was noticed, else what the
    constant covers, and the radius that of a disc of the same area.
    """

    far: float
    core: float
    mask: NDArray[np.bool_]
    radius: float

    @property
    def image(self) -> Floats:
        """What they add to a stamp, (y, x)."""
        return np.asarray(self.far + self.core * self.mask, dtype=float)


def core_box(size: int) -> NDArray[np.bool_]:
    """The central 10x10 pixels of a stamp."""
    box = np.zeros((size, size), dtype=bool)
    box[core_slice(size), core_slice(size)] = True
    return box


def find_constants(
    rest: Floats, weight: Floats, outer: NDArray[np.bool_], noisy: bool = False
) -> Constants:
    """Constants in a stack of residuals.

    Parameters
    ----------
    rest, weight : ndarray (image, y, x)
        Residuals in sky sigma, and how much each pixel counts.
    outer : ndarray of bool (image, y, x)
        The outer annulus of each image.
    noisy : bool
        Whether the images hold noise: a core is then traced only where each of its pixels stands out
        of the stack's own scatter, since what is traced in noise is always a constant.
    """
    size = rest.shape[-1]
    weight = weight * _usual(rest, weight)[:, None, None]
    far_weight = float((weight * outer).sum())
    far = float((rest * weight * outer).sum()) / far_weight if far_weight > 0 else 0.0
    total = weight.sum(axis=0)
    stack = (rest * weight).sum(axis=0) / np.where(total > 0, total, 1.0) - far
    radius = radius_map(size, stamp_centre(size), stamp_centre(size))
    level = float(np.median(stack[radius < CENTRE]))
    mask, reach = core_box(size), 5.0
    noticed = NOTICED
    if noisy:
        away = stack[radius >= CENTRE]
        noticed = max(noticed, ABOVE_NOISE * deviation(away))
    if abs(level) > noticed:
        parts, _ = label(stack * np.sign(level) > 0.5 * abs(level))
        central = np.bincount(parts[radius < CENTRE])
        covered = parts == int(np.argmax(central[1:])) + 1 if len(central) > 1 else mask
        wide = np.sqrt(covered.sum() / np.pi)
        if covered.sum() >= SMALLEST and wide < 0.4 * size:
            mask, reach = covered, float(wide)
    inside = float(total[mask].sum())
    core = float((stack * total)[mask].sum()) / inside if inside > 0 else 0.0
    return Constants(far, core, mask, reach)


def _usual(rest: Floats, weight: Floats) -> NDArray[np.bool_]:
    """Which images have a core like that of most: a few that are wrong are no constant of all.

    Taken from every image, their mean would spoil the fit of all others.
    """
    mask = core_box(rest.shape[-1])
    total = (weight * mask).sum(axis=(1, 2))
    known = total > 0
    if not known.any():
        return ~known
    level = (rest * weight * mask).sum(axis=(1, 2)) / np.where(known, total, 1.0)
    away = np.abs(level - np.median(level[known]))
    return np.asarray(~known | (away <= max(UNUSUAL * deviation(level[known]), NOTICED)))
