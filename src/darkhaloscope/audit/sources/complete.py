"""Rows that say little, made whole: what stands for a missing variable, and what is then not tested."""

from __future__ import annotations

from typing import NamedTuple

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

NO_NAME = frozenset({"", "-1", "-1.0", "nan", "none", "<na>"})
"""Texts, in lower case and without spaces around them, that stand where a name is missing."""

NO_NUMBER = (-1, int(np.iinfo(np.int64).min))
"""Our fill value, and what NaN becomes as an int64."""

OWN = -(1 << 62)
"""Rows that say no number are counted down from here, far from those of any survey."""

Mask = NDArray[np.bool_]

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
    elif {"region_id", "brick"} <= set(lacks) and "region_split" not in lacks:
        notes.append(
            "regions in more than one split: the set says no regions; hosts and skies alone are held "
            "against its splits"
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


class Known(NamedTuple):
    """By which columns of a set rows are told apart, and which rows (pair,) say so."""

    column: str
    said: Mask


def known_by(found: xr.Dataset) -> dict[str, Known]:
    """What says the host, region, brick and slot of a row; those that no column says are not there."""
    text = {c: Known(c, _named(found[c].values)) for c in ("region_id", "brick") if c in found}
    number = {
        c: Known(c, ~np.isin(found[c].values, NO_NUMBER))
        for c in ("host_id", "target_id", "slot")
        if c in found
    }
    place = {"place": Known("ra and dec", _placed(found))} if {"ra", "dec"} <= set(found) else {}
    every = text | number | place
    ways = {
        "host": ("host_id", "target_id", "place"),
        "region": ("region_id", "brick", "place"),
        "brick": ("brick",),
        "slot": ("slot",),
    }
    return {
        what: every[next(column for column in columns if column in every)]
        for what, columns in ways.items()
        if set(columns) & set(every)
    }


def unsaid(*parts: tuple[xr.Dataset, int]) -> tuple[str, ...]:
    """Sentences on rows that do not say what other rows of their set say of themselves.

    ``parts`` are what a set, or each of its classes, says, and how many rows that are.
    """
    known = [(known_by(found), n) for found, n in parts]
    columns = {what: of.column for said, _ in reversed(known) for what, of in said.items()}
    if columns.get("region") == columns.get("brick"):
        columns.pop("brick", None)  # said once
    missing = {
        what: sum(int((~said[what].said).sum()) if what in said else n for said, n in known)
        for what in columns
    }
    return tuple(
        f"{what}: {n} rows say none in {columns[what]}; each counts as one of its own"
        for what, n in missing.items()
        if n
    )


def complete(
    found: xr.Dataset, number: NDArray[np.int64], size: int, bands: tuple[str, ...]
) -> xr.Dataset:
    """Every variable but the pixels, with a stand-in for each that is missing.

    A row that does not say its host, region, brick or slot gets one that no other row has: rows that say
    nothing are not alike in it.

    Parameters
    ----------
    found : Dataset
        What the set says of some rows.
    number : ndarray of int64
        The places of these rows in the set.
    """
    n = len(number)
    made = xr.Dataset(dict(found.data_vars), coords={"band": np.array(bands, dtype=object)})
    by = known_by(found)
    made["region_id"] = ("pair", _regions(found, number, by.get("region")))
    made["brick"] = (
        "pair",
        _own_name(found["brick"].values, number, by["brick"].said)
        if "brick" in found
        else made["region_id"].values.astype(object),
    )
    made["slot"] = (
        "pair",
        _own_number(found["slot"].values, number, by["slot"].said) if "slot" in found else number,
    )
    made["host_id"] = ("pair", _hosts(found, number, by.get("host")))
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


def _named(values: NDArray[np.object_]) -> Mask:
    """Texts that are names."""
    return np.array([str(v).strip().lower() not in NO_NAME for v in values.tolist()], dtype=bool)


def _placed(found: xr.Dataset) -> Mask:
    """Rows whose place is one on the sky."""
    ra, dec = found["ra"].values, found["dec"].values
    return np.asarray((np.abs(ra) <= 360) & (np.abs(dec) <= 90))


def _own_name(
    names: NDArray[np.object_], number: NDArray[np.int64], said: Mask
) -> NDArray[np.object_]:
    own = np.array([f"row {i} of none" for i in number.tolist()], dtype=object)
    return np.where(said, names.astype(object), own)


def _own_number(
    values: NDArray[np.int64], number: NDArray[np.int64], said: Mask
) -> NDArray[np.int64]:
    return np.where(said, values, OWN - number)


def _regions(
    found: xr.Dataset, number: NDArray[np.int64], known: Known | None
) -> NDArray[np.object_]:
    if known is None:
        return np.array([f"row {i}" for i in number.tolist()], dtype=object)
    if known.column in found:
        return _own_name(found[known.column].values, number, known.said)
    x, y = (np.floor(found[c].values / CELL) for c in ("ra", "dec"))
    cells = np.array([f"cell {a:.0f} {b:.0f}" for a, b in zip(x, y, strict=True)], dtype=object)
    return _own_name(cells, number, known.said)


def _hosts(found: xr.Dataset, number: NDArray[np.int64], known: Known | None) -> NDArray[np.int64]:
    """One number a galaxy: what the set calls it, its target's id, or its place to 0.4 arcsec."""
    if known is None:
        return OWN - number
    if known.column in found:
        return _own_number(found[known.column].values.astype(np.int64), number, known.said)
    ra, dec = (
        np.round(np.where(known.said, found[c].values, 0.0).astype(float) * 1e4)
        for c in ("ra", "dec")
    )
    return _own_number((ra * 4_000_000 + dec).astype(np.int64), number, known.said)


def sky_of(ctrl: NDArray[np.float32], nodata: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Sky sigma (row, band): 1.4826 times the median deviation of pixels far from the centre."""
    size = ctrl.shape[-1]
    far = radius_map(size, stamp_centre(size), stamp_centre(size)) > 0.4 * size
    values = np.where(nodata, np.nan, ctrl)[..., far]
    values[np.isnan(values).all(axis=-1)] = 0.0
    middle = np.nanmedian(values, axis=-1, keepdims=True)
    spread = np.nanmedian(np.abs(values - middle), axis=-1)
    return np.where(spread > 0, TO_SIGMA * spread, np.nan).astype(np.float32)
