"""Rows that say little, made whole: what stands for a missing variable, and what is then not tested."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.audit.noise import TO_SIGMA
from darkhaloscope.audit.quality import OUTCOME_COLUMNS
from darkhaloscope.audit.spec import REDRAW
from darkhaloscope.errors import Reason
from darkhaloscope.geometry import radius_map, stamp_centre
from darkhaloscope.variables import BAND, LENS_MODELS, NO_PSF, VARIABLES, numpy_dtype

CELL = 0.25
"""Degrees: cells of the sky that stand for regions where rows have positions only."""


NEEDED = (
    "brick", "slot", "host_id", "region_id", "region_split", "lens_model", "theta_e", "cutout_ok",
    "coverage", "reason", "ra", "dec",
)  # fmt: skip
"""Variables that get a stand-in, because no audit can do without them."""

ZERO = ("gamma1", "gamma2", "lens_dx", "lens_dy")
"""Small numbers that are 0 where a set says nothing, and said to be."""


def lacking(first: xr.Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Variables that a set does not hold, and sentences about what that switches off."""
    lacks = tuple(v.name for v in VARIABLES if not v.sharded and v.name not in first)
    notes = []
    redraw = [v for v in REDRAW if v in lacks]
    if redraw:
        notes.append(
            f"closure and excess AUC: an arc cannot be drawn again without {', '.join(redraw)}"
        )
    assumed = [v for v in ZERO if v in lacks]
    if assumed and not redraw:
        notes.append(f"closure: {', '.join(assumed)} are taken for 0, the set does not say them")
    if {"region_id", "brick", "ra"} <= set(lacks):
        notes.append(
            "regions: the set says none; each row counts as one, so intervals are too narrow"
        )
    if "region_split" in lacks:
        notes.append("splits: the set has no region_split, nothing can leak from one into another")
    if not set(OUTCOME_COLUMNS) & set(first.data_vars):
        notes.append(f"column coverage: the set has none of {', '.join(OUTCOME_COLUMNS)}")
    if "lens_model" in lacks and "theta_e" not in lacks:
        notes.append("controls: rows without a theta_e above 0; the set has no lens_model")
    if "theta_e" in lacks:
        notes.append("strata and profiles by theta_e: the set has no theta_e")
    if "sky_sigma" in lacks:
        notes.append("sky_sigma: measured from the outer pixels of ctrl")
    return lacks, tuple(notes)


def complete(
    found: xr.Dataset, n: int, size: int, bands: tuple[str, ...], start: int
) -> xr.Dataset:
    """Every variable but the pixels, with a stand-in for each that is missing.

    Parameters
    ----------
    found : Dataset
        What the set says of ``n`` rows, the first of which is row ``start``.
    """
    made = xr.Dataset(dict(found.data_vars), coords={"band": np.array(bands, dtype=object)})
    number = np.arange(start, start + n, dtype=np.int64)
    if "region_id" not in found:
        made["region_id"] = ("pair", _regions(found, number))
    if "brick" not in found:
        made["brick"] = ("pair", made["region_id"].values.astype(object))
    if "slot" not in found:
        made["slot"] = ("pair", number)
    if "host_id" not in found:
        made["host_id"] = ("pair", _hosts(found, number))
    if "lens_model" not in found:
        # What is no radius (0, NaN, -99) is no lens.
        lens = found["theta_e"].values > 0 if "theta_e" in found else np.ones(n, bool)
        model = LENS_MODELS.index("SIE" if "lens_q" in found else "SIS")
        made["lens_model"] = ("pair", np.where(lens, model, 0).astype(np.uint8))
        if "theta_e" in found:
            made["theta_e"] = ("pair", np.where(lens, found["theta_e"].values, 0).astype("f4"))
    ok = found["cutout_ok"].values if "cutout_ok" in found else np.ones(n, bool)
    made["cutout_ok"] = ("pair", ok)
    if "reason" not in found:
        made["reason"] = ("pair", np.where(ok, Reason.OK, Reason.CORRUPT_FILE).astype(np.uint8))
    for name in ("target_x", "target_y"):
        if name not in found:
            made[name] = ("pair", np.full(n, stamp_centre(size), np.float32))
    injected = made["lens_model"].values > 0
    for name in ZERO:
        if name not in found:
            made[name] = ("pair", np.where(injected, 0.0, np.nan).astype(np.float32))
    if "coverage" not in found:
        made["coverage"] = (BAND, np.ones((n, len(bands)), np.float32))
    if "psf_source" not in found:
        known = 0 if "psfsize" in found else NO_PSF
        made["psf_source"] = (BAND, np.full((n, len(bands)), known, np.uint8))
    if "fix" not in found:
        made["fix"] = ("pair", np.full(n, "none", dtype=object))
    for variable in VARIABLES:
        if not variable.sharded and variable.name not in made:
            shape = (n, len(bands)) if variable.dims == BAND else (n,)
            made[variable.name] = (
                variable.dims,
                np.full(shape, variable.fill, numpy_dtype(variable)),
            )
    return made


def _regions(found: xr.Dataset, number: NDArray[np.int64]) -> NDArray[np.object_]:
    if "brick" in found:
        return found["brick"].values.astype(object)
    if "ra" in found and "dec" in found:
        x, y = (np.floor(found[c].values / CELL) for c in ("ra", "dec"))
        return np.array([f"cell {a:.0f} {b:.0f}" for a, b in zip(x, y, strict=True)], dtype=object)
    return np.array([f"row {i}" for i in number.tolist()], dtype=object)


def _hosts(found: xr.Dataset, number: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number a galaxy: the target's id, its place to 0.4 arcsec, or its row."""
    if "target_id" in found:
        return np.asarray(found["target_id"].values, dtype=np.int64)
    if "ra" in found and "dec" in found:
        ra, dec = (np.round(found[c].values.astype(float) * 1e4) for c in ("ra", "dec"))
        return np.asarray(np.nan_to_num(ra) * 4_000_000 + np.nan_to_num(dec), dtype=np.int64)
    return number


def sky_of(ctrl: NDArray[np.float32], nodata: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Sky sigma (row, band): 1.4826 times the median deviation of pixels far from the centre."""
    size = ctrl.shape[-1]
    far = radius_map(size, stamp_centre(size), stamp_centre(size)) > 0.4 * size
    values = np.where(nodata, np.nan, ctrl)[..., far]
    values[np.isnan(values).all(axis=-1)] = 0.0
    middle = np.nanmedian(values, axis=-1, keepdims=True)
    spread = np.nanmedian(np.abs(values - middle), axis=-1)
    return np.where(spread > 0, TO_SIGMA * spread, np.nan).astype(np.float32)
