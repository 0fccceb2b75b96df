"""What an experiment does against leaks, applied to the arc after the PSF, and recorded per row.

A fix is written in each row as a short canonical text (``none``, or
``core_mask(radius_px=5,taper_px=0)``), so that an audit can apply the same fix to an arc that it draws
again from the row alone.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.config import CoreMask, FixSection
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import radius_map

NONE = "none"

_CORE_MASK = re.compile(r"core_mask\(radius_px=([0-9.e+-]+),taper_px=([0-9.e+-]+)\)")


def fix_text(fix: FixSection) -> str:
    """The fix as it is recorded in a row."""
    if fix.core_mask is None:
        return NONE
    return f"core_mask(radius_px={fix.core_mask.radius_px:g},taper_px={fix.core_mask.taper_px:g})"


def apply_fix(
    arc: NDArray[np.float64], text: str, target_x: float, target_y: float
) -> NDArray[np.float64]:
    """Apply a recorded fix to an arc.

    Parameters
    ----------
    arc : ndarray, (..., y, x)
        Light per pixel, any unit.
    text : str
        As :func:`fix_text` wrote it.
    target_x, target_y : float
        The target in stamp pixels.

    Raises
    ------
    UserError
        The text is none that this version knows.
    """
    if text == NONE:
        return arc
    match = _CORE_MASK.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        mask = CoreMask(radius_px=float(match[1]), taper_px=float(match[2]))
    except ValueError:  # pydantic's ValidationError is one
        raise UserError(
            f"the fix {text!r} is unknown to this version; it knows none and core_mask(…)"
        ) from None
    return arc * core_weight(mask, arc.shape[-1], target_x, target_y)


def core_weight(mask: CoreMask, size: int, target_x: float, target_y: float) -> NDArray[np.float64]:
    """What a core mask leaves of each pixel, 0 to 1, shape (y, x).

    Hard: 0 where r < radius. Taper: ``(1 + tanh((r - radius) / taper)) / 2``.
    """
    radius = radius_map(size, target_x, target_y)
    if mask.taper_px == 0:
        return (radius >= mask.radius_px).astype(float)
    return 0.5 * (1.0 + np.tanh((radius - mask.radius_px) / mask.taper_px))
