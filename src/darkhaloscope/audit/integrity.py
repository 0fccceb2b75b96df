"""What no correct row does: light where it cannot be, pixels that are no numbers, columns that lie.

Counted over every row of a block, while its pixels are in memory; one such row is a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.variables import NEGATIVE_KINDS, without_data

CORE_MATCHED = NEGATIVE_KINDS.index("core_matched")

CHECKS: dict[str, str] = {
    "no_data_in_stamp": "pixels are no numbers in the stamp, and are numbers in its ctrl",
    "no_data_in_ctrl": "pixels are no numbers in the ctrl, and are numbers in its stamp",
    "zeros_in_stamp": "a patch of pixels is exactly 0 in the stamp, and holds sky in its ctrl",
    "zeros_in_ctrl": "a patch of pixels is exactly 0 in the ctrl, and is not in its stamp",
    "light_without_data": "injections have arc light on pixels without data, or in a band without coverage",
    "light_on_controls": "controls hold arc light",
    "stray_extra": "rows hold extra light that are no core-matched negatives, or where there are no data",
    "pixels_on_failed_rows": "failed rows hold pixels",
    "pixels_not_finite": "rows hold pixels that are no finite number",
    "flux_column": "injections have a total_injected_flux that is not the sum of their arc",
    "magnification_column": "injections have a magnification that is not arc_flux_total / src_flux",
}
"""Each check, and what its offenders are said to do; what makes others fail stands first."""

ONE_SIDED = tuple(name for name in CHECKS if name.startswith(("no_data_in_", "zeros_in_")))
"""Checks of two images as they were stored, made where they are read; our own data sets store no stamps."""

COLUMN_TOLERANCE = 1e-4
"""Relative: columns are float32, derived in float64 from the stored pixels."""

DIGITS = 5
"""Significant digits from which a column's own rounding is inside its tolerance."""

HALF = np.finfo(np.float16)

Mask = NDArray[np.bool_]


class Written(NamedTuple):
    """In what a column is written: the coarsest of each kind that all its values are a rounding to."""

    digits: int = 0
    """Significant digits; 0 where they are too many to matter."""
    unit: float = 0.0
    """Unit of the last decimal; 0 where none fits."""
    half: bool = False
    """Whether all values are numbers of float16."""


FULL = Written()

DERIVED = ("total_injected_flux", "magnification")
"""Columns that are compared with what they follow from."""


def offenders(
    ds: xr.Dataset, written: Mapping[str, Written] = MappingProxyType({})
) -> dict[str, Mask]:
    """Rows (pair,) that fail each of :data:`CHECKS`.

    Parameters
    ----------
    ds : xarray.Dataset
        A block in memory, with all variables of the data set. With ``arc_error`` (pair, band), nMgy,
        arcs are differences of stored images, and their sums may be off by so much; with a check's name
        among its variables, that is what it found.
    written : mapping
        By column, in what it is written over all rows of the data set; full where nothing is said.
    """
    injected = ds["lens_model"].values != 0
    ok = ds["cutout_ok"].values.astype(bool)
    ctrl, arc = ds["ctrl"].values, ds["arc"].values
    lit = arc != 0
    blind = without_data(ds["nodata"].values, arc.shape[1])
    blind |= ~(ds["coverage"].values > 0)[:, :, None, None]
    light = lit.any(axis=(1, 2, 3))
    flux = arc.sum(axis=(2, 3), dtype=float)
    granted = ds["arc_error"].values if "arc_error" in ds else np.zeros(arc.shape[:2])
    on_control = (np.abs(flux) > granted).any(axis=1) if "arc_error" in ds else light
    finite = np.isfinite(arc).all(axis=(1, 2, 3)) & np.isfinite(ctrl).all(axis=(1, 2, 3))
    light_of_any, stray = light, np.zeros(len(arc), dtype=bool)
    if "extra" in ds:
        extra = ds["extra"].values
        finite &= np.isfinite(extra).all(axis=(1, 2, 3))
        added = (extra != 0).any(axis=(1, 2, 3))
        light_of_any = light | added
        stray = added & (ds["negative_kind"].values != CORE_MATCHED)
        stray |= ((extra != 0) & blind).any(axis=(1, 2, 3))
    found = {
        "light_without_data": injected & ok & (lit & blind).any(axis=(1, 2, 3)),
        "light_on_controls": ~injected & on_control,
        "stray_extra": stray,
        "pixels_on_failed_rows": ~ok & (light_of_any | (ctrl != 0).any(axis=(1, 2, 3))),
        "pixels_not_finite": ~finite,
    }
    drawn = injected & ok & finite
    # One line of pixels says in most sets that the rest need not be looked at.
    if _as_half(arc[..., arc.shape[-2] // 2, :]) and _as_half(arc):
        granted = granted + 0.5 * _half_steps(arc).sum(axis=(2, 3))
    total, gained = ds["total_injected_flux"].values, ds["magnification"].values[:, None]
    granted = granted + half_unit(total, written.get("total_injected_flux", FULL))
    found["flux_column"] = drawn & _differ(total, flux, granted)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = ds["arc_flux_total"].values.astype(float) / ds["src_flux"].values
    granted = half_unit(gained, written.get("magnification", FULL))
    found["magnification_column"] = drawn & _differ(gained, gain, granted)
    unseen = np.zeros(len(arc), dtype=bool)
    found |= {name: ds[name].values if name in ds else unseen for name in ONE_SIDED}
    return found


def _differ(
    column: NDArray[np.floating],
    truth: NDArray[np.floating],
    granted: NDArray[np.floating] | float = 0.0,
) -> Mask:
    """Rows where a recorded value and its formula are both there and disagree; (pair, band)."""
    there = np.isfinite(column) & np.isfinite(truth)
    gap = np.abs(np.where(there, column - truth, 0.0))
    allowed = COLUMN_TOLERANCE * np.abs(np.where(there, truth, 0.0)) + granted + 1e-9
    return np.asarray((gap > allowed).any(axis=1))


def written_as(column: NDArray[np.floating]) -> Written:
    """In what a column (any shape) is written, found once over all its rows.

    Few rows tell nothing: a single value in six digits can end in zeros. So a block of rows is never asked.
    """
    values = column[np.isfinite(column) & (column != 0)].astype(float)
    if len(values) == 0 or np.all(values == values[0]):
        return FULL
    last = int(np.floor(np.log10(np.abs(values).max())))
    decimals = [10.0 ** (last - digits) for digits in range(DIGITS)]
    return Written(
        next((d for d in range(1, DIGITS) if _rounded(values, partial(_place, digits=d))), 0),
        next((u for u in decimals if _rounded(values, partial(np.full_like, fill_value=u))), 0.0),
        _as_half(values),
    )


def columns_written(ds: xr.Dataset) -> tuple[tuple[str, Written], ...]:
    """In what those columns of a data set are written that are compared with what they follow from."""
    return tuple((name, written_as(ds[name].values)) for name in DERIVED if name in ds)


def _place(values: NDArray[np.floating], digits: int) -> NDArray[np.floating]:
    """Unit of the last of so many significant digits, of values that are not 0."""
    return np.asarray(10.0 ** (np.floor(np.log10(np.abs(values))) - digits + 1))


def _rounded(
    values: NDArray[np.floating], unit_of: Callable[[NDArray[np.floating]], NDArray[np.floating]]
) -> bool:
    """Whether all values are multiples of their units; the first of them mostly say no."""
    for part in (values[:1000], values):
        unit = unit_of(part)
        # Columns are float32: a decimal number is the nearest of those.
        if np.any(np.abs(np.round(part / unit) * unit - part) > 1e-6 * np.abs(part)):
            return False
    return True


def half_unit(column: NDArray[np.floating], written: Written) -> NDArray[np.floating]:
    """Half a unit of the last digit in which each value of a column is written; 0 where it is full."""
    known = np.isfinite(column) & (column != 0)
    values = np.where(known, column, 1.0).astype(float)
    units = np.full_like(values, written.unit)
    if written.digits:
        units = np.maximum(units, _place(values, written.digits))
    if written.half:
        units = np.maximum(units, _half_steps(values))
    return np.where(known, 0.5 * units, 0.0)


def _as_half(values: NDArray[np.floating]) -> bool:
    """Whether all values are numbers of float16, and not all of them 0."""
    known = values[np.isfinite(values)]
    if not known.any() or np.abs(known).max() > HALF.max:
        return False
    return bool((known.astype(np.float16) == known).all())


def _half_steps(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Distance of neighbouring float16 numbers at each value."""
    exponent = np.floor(np.log2(np.maximum(np.abs(np.nan_to_num(values)), float(HALF.tiny))))
    return np.asarray(2.0 ** (exponent - HALF.nmant))
