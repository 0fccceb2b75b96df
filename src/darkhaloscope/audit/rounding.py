"""Arcs that are differences of stored images: what the rounding of both did to them.

A pixel of 50 nMgy in float16 is known to 0.03, several sky sigma, one of 1000 in float32 to 6e-5, and counts
to one. No stored number says that a set was rounded so; its pixels do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.intervals import Floats

TYPES = (np.float16, np.float32)
"""The coarsest first."""

EXACT = 2.0**-9
"""Part of an arc's pixel by which it may miss the rounded stamp: it is stored to 10 bits itself."""


Rounding = type[np.floating] | float
"""A float type, or the step that all numbers are multiples of."""

ON_STEP = 0.02
"""Part of a step by which its multiples may be off, beside the rounding of float32."""

EPS = 4.0 * float(np.finfo(np.float32).eps)

MOST_STEPS = 0.1 / EPS
"""A number of more steps may be any: float32 does not know it to a tenth of one."""


def stored_as(ctrl: Floats, arc: Floats) -> Rounding | None:
    """How stamp and ctrl were both stored, ``ctrl`` and ``arc`` in the stored unit: the coarsest there is.

    None where arcs are finer than any such type or step holds beside their ctrl: they were stored by
    themselves.
    """
    lit = arc != 0
    if not lit.any():
        return None
    stamp = ctrl + arc
    step = _step(ctrl, stamp)
    for kind in TYPES:
        with np.errstate(over="ignore"):
            if not (ctrl.astype(kind) == ctrl).all():
                continue
            gap = np.abs(stamp.astype(kind).astype(float) - stamp)
        if (gap <= EXACT * np.abs(arc))[lit].all():
            return step if step > np.median(steps(ctrl, arc, kind)) else kind
    return step if step > 0 else None


def _step(ctrl: Floats, stamp: Floats) -> float:
    """What all pixels are multiples of, as counts times a factor are; 0 where there is no such number."""
    values = np.unique(np.abs(ctrl[ctrl != 0]))
    if len(values) < 2:
        return 0.0
    # The faintest are known best, and of the many the nearest are one step apart.
    faint = values[: len(values) // 2 + 1]
    gaps = np.diff(faint, prepend=0.0)
    step = float(gaps[gaps > EPS * faint].min(initial=np.inf))
    most = max(float(values[-1]), float(np.abs(stamp).max()))
    if not most / step < MOST_STEPS:
        return 0.0
    for reach in (1e2, 1e4, np.inf):
        near = values[values < reach * step]
        count = np.round(near / step)
        step = float((near * count).sum() / (count**2).sum()) if count.any() else step
    for image in (ctrl, stamp):
        off = np.abs(image - step * np.round(image / step))
        if (off > ON_STEP * step + EPS * np.abs(image)).any():
            return 0.0
    return step


def steps(ctrl: Floats, arc: Floats, kind: Rounding) -> Floats:
    """Distance of neighbouring numbers of ``kind`` at each pixel, the coarser of stamp and ctrl."""
    if isinstance(kind, float):
        return np.full(np.shape(ctrl), kind)
    most = np.maximum(np.abs(ctrl), np.abs(ctrl + arc)).astype(kind)
    return np.asarray(np.spacing(most), dtype=float)


def rounded(
    ctrl: Floats, arc: NDArray[np.floating], kind: Rounding, hidden: Floats | float = 0.0
) -> Floats:
    """The arc that is left of ``arc`` where stamp and ctrl are stored as ``kind``.

    ``hidden`` is what the rounding of ctrl took from each of its pixels, in steps (-0.5 to 0.5): with it
    light that is fainter than a step is scattered, and not lost.
    """
    sky = ctrl + hidden * steps(ctrl, np.zeros_like(ctrl), kind)
    stamp = sky + arc
    if isinstance(kind, float):
        return np.asarray(kind * np.round(stamp / kind) - ctrl)
    return np.asarray(stamp.astype(kind).astype(float) - ctrl)
