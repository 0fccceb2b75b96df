"""Arcs that are differences of stored images: what the rounding of both did to them.

A pixel of 50 nMgy in float16 is known to 0.03, several sky sigma, and one of 1000 in float32 to 6e-5. No
stored number says that a set was rounded so; its pixels do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.intervals import Floats

TYPES = (np.float16, np.float32)
"""The coarsest first."""

EXACT = 2.0**-9
"""Part of an arc's pixel by which it may miss the rounded stamp: it is stored to 10 bits itself."""


def stored_as(ctrl: Floats, arc: Floats) -> type[np.floating] | None:
    """The float type in which stamp and ctrl were both stored, ``ctrl`` and ``arc`` in the stored unit.

    None where arcs are finer than any such type holds beside their ctrl: they were stored by themselves.
    """
    lit = arc != 0
    if not lit.any():
        return None
    stamp = ctrl + arc
    for kind in TYPES:
        with np.errstate(over="ignore"):
            if not (ctrl.astype(kind) == ctrl).all():
                continue
            gap = np.abs(stamp.astype(kind).astype(float) - stamp)
        if (gap <= EXACT * np.abs(arc))[lit].all():
            return kind
    return None


def steps(ctrl: Floats, arc: Floats, kind: type[np.floating]) -> Floats:
    """Distance of neighbouring numbers of ``kind`` at each pixel, the coarser of stamp and ctrl."""
    most = np.maximum(np.abs(ctrl), np.abs(ctrl + arc)).astype(kind)
    return np.asarray(np.spacing(most), dtype=float)


def rounded(ctrl: Floats, arc: NDArray[np.floating], kind: type[np.floating]) -> Floats:
    """The arc that is left of ``arc`` where stamp and ctrl are stored as ``kind``."""
    return np.asarray((ctrl + arc).astype(kind).astype(float) - ctrl)
