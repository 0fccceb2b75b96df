"""Pixels where no arc is promised, and stamp and ctrl differ: dead corners, edges, filled holes.

A reader needs one of them. What arcs leave that are drawn otherwise is smooth, as their PSF is; these end
from one pixel to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_propagation, uniform_filter

from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.noise import TO_SIGMA

OFF, OF_ARC, OF_NOISE = 0.1, 0.05, 5.0
"""Sky sigma, part of the promised light, and noise by which a pixel must differ."""

SMOOTH = 0.25
"""Part of what a stray pixel differs by that its neighbours must stay below."""

OFTEN, SELDOM = 0.2, 0.02
"""Part of the images in which a stray pixel differs at least, and its neighbours at most."""

FEWEST = 20
CONSTANT = 3.0
"""Mean in units of the scatter from which a difference is a constant."""

STEP, ALIKE = 0.003, 0.9
"""Sky sigma from which a pattern counts, and how much the two halves of the stamps must agree on it."""

LARGEST = 0.5
"""Part of a stamp beyond which pixels are no exception."""


@dataclass(frozen=True)
class Stray:
    """``mask`` (y, x) of stray pixels, and the ``share`` of images in which they differ, on average.

    ``step``: sky sigma by which neighbours differ in a fixed pattern all over the stamp, which has no mask;
    else 0.
    """

    mask: NDArray[np.bool_]
    share: float
    step: float = 0.0

    @property
    def says(self) -> str:
        """How many, and between which columns and rows."""
        if self.step:
            return f"neighbouring pixels differ by {self.step:.2g} sky sigma, in one pattern in all stamps"
        y, x = np.nonzero(self.mask)
        return (
            f"{len(x)} of {self.mask.size} pixels (x {x.min()} to {x.max()}, y {y.min()} to {y.max()}) "
            f"differ between stamp and ctrl in {self.share:.0%} of the images though no arc is there, "
            "and their neighbours do not"
        )


def stray_pixels(arc: Floats, again: Floats, good: NDArray[np.bool_]) -> Stray | None:
    """Pixels that differ by themselves, or None where there are none.

    Parameters
    ----------
    arc, again : ndarray (image, y, x)
        Stored and promised arcs in sky sigma.
    good : ndarray of bool (image, y, x)
        Pixels with data.
    """
    known = good.sum(axis=0)
    asked = known >= FEWEST
    if not asked.any():
        return None
    gap = np.where(good, arc - again, 0.0)
    # The usual difference of a pixel is that of noise.
    usual = TO_SIGMA * np.median(np.abs(gap), axis=(1, 2))[:, None, None]
    off = good & (np.abs(gap) > OFF + OF_ARC * np.abs(again) + OF_NOISE * usual)
    share = np.divide(off.sum(axis=0), known, out=np.zeros(known.shape), where=asked)
    # Its last pixels may fall short by chance.
    mask = binary_propagation(share > OFTEN, mask=share > 0.5 * OFTEN)
    around = binary_dilation(mask, np.ones((3, 3), dtype=bool)) & ~mask & asked
    apart = mask.any() and mask.sum() <= LARGEST * mask.size
    if not apart or (share[around] > SELDOM).any() or _reach(gap, usual, good, around):
        return _pattern(gap, good & (np.abs(again) < OFF), asked)
    centre = mask.shape[0] // 2
    inside = gap[:, mask]
    if mask[centre, centre] and abs(inside.mean()) > CONSTANT * inside.std():
        return None  # a constant in the core has a name of its own
    return Stray(mask, float(share[mask].mean()))


def _reach(gap: Floats, usual: Floats, good: NDArray[np.bool_], around: NDArray[np.bool_]) -> bool:
    """Whether the pixels around differ too, if by less than is asked: what is smooth does not end there."""
    far = np.abs(gap) > SMOOTH * OFF + OF_NOISE * usual
    known = np.maximum(good.sum(axis=0), 1)
    return bool(((far & good).sum(axis=0) / known > OFTEN)[around].any())


def _pattern(gap: Floats, dark: NDArray[np.bool_], asked: NDArray[np.bool_]) -> Stray | None:
    """Steps from each pixel to its neighbours that are the same in all stamps, where most pixels have some.

    What is smooth (a gradient, wings) has none, a box has them at its edge alone, and noise has them in no
    two stamps alike: it must be the same in the stamps' two halves.
    """
    halves = []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        n = dark[part].sum(axis=0)
        mean = np.divide(
            (gap[part] * dark[part]).sum(axis=0), n, out=np.zeros(n.shape), where=n > 0
        )
        halves.append(mean - uniform_filter(mean, 3, mode="mirror"))
    inner = np.zeros_like(asked)
    inner[1:-1, 1:-1] = asked[1:-1, 1:-1]
    one, other = (half[inner] for half in halves)
    if len(one) < FEWEST or not (one.any() and other.any()):
        return None
    step = float(np.median(np.minimum(np.abs(one), np.abs(other))))
    if step < STEP or float(np.corrcoef(one, other)[0, 1]) < ALIKE:
        return None
    return Stray(np.zeros_like(asked), 1.0, 2.0 * step)
