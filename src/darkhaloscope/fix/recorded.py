"""What an experiment does against leaks, and how each row says what was done to it.

A row's fix is a short canonical text: ``none``, or parts joined by semicolons, such as
``core_mask(radius_px=5,taper_px=0);theta_e_min(0.5)``. An audit applies the same mask to an arc that it
draws again from the row alone.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.config import CoreMask, FixSection
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE, core_slice, radius_map

NONE = "none"
MATCHED = "core_matched_negatives"

DEFAULT_RADIUS_PX = 5.0
"""Radius of a circle that is given none."""

_PART = re.compile(r"([a-z_]+)(?:\(([^()]*)\))?")


def fix_text(fix: FixSection) -> str:
    """The fixes as they are recorded in an injection."""
    parts = [] if fix.core_mask is None else [_mask_text(fix.core_mask)]
    if fix.src_reff_max is not None:
        parts.append(f"src_reff_max({_number(fix.src_reff_max)})")
    return _joined([*parts, *_cut_texts(fix)])


def control_text(fix: FixSection, *, matched: bool = False) -> str:
    """The fixes as they are recorded in a control, core-matched or plain: a cut marks all alike."""
    return _joined([*_cut_texts(fix), *([MATCHED] if matched else [])])


def _cut_texts(fix: FixSection) -> list[str]:
    return [f"{name}({_number(getattr(fix, name))})" for name in fix.cuts]


def _joined(parts: list[str]) -> str:
    return ";".join(parts) or NONE


def _mask_text(mask: CoreMask) -> str:
    if mask.shape == "box":
        return "core_mask(shape=box)"
    if mask.radius_arcsec is None:
        said = [f"radius_px={_number(radius_px(mask))}"]
    else:
        said = [f"radius_arcsec={_number(mask.radius_arcsec)}"]
    said.append(f"taper_px={_number(mask.taper_px)}")
    if mask.centre != "target":
        said.append(f"centre={mask.centre}")
    return f"core_mask({','.join(said)})"


def _number(value: float) -> str:
    """The shortest text that gives the same number back."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


@functools.lru_cache(maxsize=64)
def read_fix(text: str) -> FixSection:
    """The fixes that a recorded text names: the inverse of :func:`fix_text`.

    Raises
    ------
    UserError
        The text is none that this version writes.
    """
    if text == NONE:
        return FixSection()
    found: dict[str, Any] = {}
    try:
        for part in text.split(";"):
            match = _PART.fullmatch(part)
            if match is None:
                raise ValueError(part)
            name, inside = match.groups()
            said = inside or ""
            found[name] = dict(_pairs(said)) if "=" in said else said or True
        fix = FixSection.model_validate(found)  # pydantic's ValidationError is a ValueError
        if text not in (fix_text(fix), control_text(fix, matched=fix.core_matched_negatives)):
            raise ValueError(text)
    except ValueError:
        raise UserError(
            f"the fix {text!r} is unknown to this version; it knows none and parts such as "
            "core_mask(radius_px=5,taper_px=0)"
        ) from None
    return fix


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (item.partition("=") for item in text.split(","))]


def apply_fix(
    arc: NDArray[np.float64],
    text: str,
    target_x: float,
    target_y: float,
    size: int | None = None,
    corner: int = 0,
) -> NDArray[np.float64]:
    """Apply the recorded fixes to an arc: of them all only a mask changes its pixels.

    Parameters
    ----------
    arc : ndarray, (..., y, x)
        Light per pixel, any unit: a stamp, or a square of it.
    text : str
        As :func:`fix_text` wrote it.
    target_x, target_y : float
        The target in stamp pixels.
    size : int, optional
        Pixels on a side of the stamp; by default the arc is the whole stamp.
    corner : int
        First pixel of the arc's square on either axis, where it is not the whole stamp.

    Raises
    ------
    UserError
        The text is none that this version writes.
    """
    mask = read_fix(text).core_mask
    if mask is None:
        return arc
    side = arc.shape[-1]
    weight = core_weight(mask, side if size is None else size, target_x, target_y)
    square = slice(corner, corner + side)
    return arc * weight[square, square]


def core_weight(mask: CoreMask, size: int, target_x: float, target_y: float) -> NDArray[np.float64]:
    """What a core mask leaves of each pixel of a stamp, 0 to 1, shape (y, x).

    Hard: 0 where r < radius. Taper: ``(1 + tanh((r - radius) / taper)) / 2``. Box: 0 in the core gate's
    10x10 pixels.
    """
    if mask.shape == "box":
        weight = np.ones((size, size))
        weight[core_slice(size), core_slice(size)] = 0.0
        return weight
    if mask.centre == "pixel_32":
        target_x = target_y = float(size // 2)
    radius, edge = radius_map(size, target_x, target_y), radius_px(mask)
    if mask.taper_px == 0:
        return (radius >= edge).astype(float)
    return 0.5 * (1.0 + np.tanh((radius - edge) / mask.taper_px))


def radius_px(mask: CoreMask) -> float:
    """Radius of a circular mask in pixels."""
    if mask.radius_arcsec is not None:
        return mask.radius_arcsec / PIXEL_SCALE
    return DEFAULT_RADIUS_PX if mask.radius_px is None else mask.radius_px


def excluded_by(fix: FixSection, theta_e: float, psf_fwhm: float) -> Reason | None:
    """The cut that marks a row, the first of those in use; None for a row that stays.

    Parameters
    ----------
    theta_e, psf_fwhm : float
        Arcsec; compared in float32, as they are stored. Of a control the radius that it would have had
        as an injection: a cut that asks the PSF of one class only would let the PSF tell the classes.
        A width of 0 is none, as a missing one: no ratio is known, and none marks the row.
    """
    theta, width = np.float32(theta_e), np.float32(psf_fwhm)
    if fix.theta_e_min is not None and theta < np.float32(fix.theta_e_min):
        return Reason.EXCLUDED_BY_THETA_E_MIN
    least = fix.min_theta_e_over_psf
    if least is not None and width > 0 and float(theta) / float(width) < least:
        return Reason.EXCLUDED_BY_MIN_THETA_E_OVER_PSF
    return None
