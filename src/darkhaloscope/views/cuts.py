"""Quality cuts as named, versioned sets of rows, from the columns alone, and what each removes.

A set is one definition for both classes: where a column exists on injections only, controls are held to
what stands for it, so that a cut does not itself tell the classes apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.variables import NO_PSF, PSF_SOURCES, SPLITS

Rows = NDArray[np.bool_]

QUALITY_VERSION = 1
"""Raised when a set comes to mean something else; it stands beside the set's name wherever one is told."""

BAD_PIXEL_FRAC = 0.2
"""``clean``: at most so many bad pixels."""

_ALWAYS = ("lens_model", "region_split", "cutout_ok")
_OF_CLEAN = (*_ALWAYS, "arc_snr", "bad_pixel_frac", "coverage", "psf_fwhm_used", "psf_source")

READS = {
    "all": _ALWAYS,
    "clean": _OF_CLEAN,
    "clean_all_bands": _OF_CLEAN,
    "no_psf_fallback": (*_ALWAYS, "coverage", "psf_source"),
}
"""Columns that each set is defined by."""

REMOVED_COLUMNS = ["set", "version", "class", "split", "before", "after", "fraction"]


def _usable(columns: xr.Dataset) -> Rows:
    """Rows with pixels, an arc's S/N where there should be an arc, and few bad pixels."""
    injected = columns["lens_model"].values > 0
    bad = columns["bad_pixel_frac"].values
    # A release without mask bits says nothing of bad pixels: missing is not bad.
    return np.asarray(
        columns["cutout_ok"].values.astype(bool)
        & (~injected | np.isfinite(columns["arc_snr"].values))
        & ~(bad > BAD_PIXEL_FRAC)
    )


def _width_known(columns: xr.Dataset) -> Rows:
    """(pair, band): a PSF width was used, or would have been where no arc was drawn."""
    injected = columns["lens_model"].values > 0
    drawn = columns["psf_fwhm_used"].values > 0
    return np.where(injected[:, None], drawn, columns["psf_source"].values != NO_PSF)


def _clean(columns: xr.Dataset) -> Rows:
    covered = columns["coverage"].values > 0
    return _usable(columns) & (_width_known(columns) | ~covered).all(axis=1)


def _clean_all_bands(columns: xr.Dataset) -> Rows:
    covered = columns["coverage"].values > 0
    return _usable(columns) & (_width_known(columns) & covered).all(axis=1)


def _no_psf_fallback(columns: xr.Dataset) -> Rows:
    covered = columns["coverage"].values > 0
    from_map = columns["psf_source"].values == PSF_SOURCES.index("map")
    ok = columns["cutout_ok"].values.astype(bool)
    return np.asarray(ok & (from_map | ~covered).all(axis=1))


def _all(columns: xr.Dataset) -> Rows:
    return columns["cutout_ok"].values.astype(bool)


QUALITY_SETS: dict[str, Callable[[xr.Dataset], Rows]] = {
    "all": _all,
    "clean": _clean,
    "clean_all_bands": _clean_all_bands,
    "no_psf_fallback": _no_psf_fallback,
}
"""``all``: has its pixels. ``clean``: and its S/N, at most 0.2 of bad pixels, a PSF width in every band
with coverage. ``clean_all_bands``: and coverage in every band. ``no_psf_fallback``: has its pixels, and in
every band with coverage the width is the map's own."""


def quality_set(columns: xr.Dataset, name: str) -> Rows:
    """Rows of a named set, (pair,) bool.

    Parameters
    ----------
    columns : Dataset
        Provenance as stored (closed lists as codes), lazy or not; pixels are not read.
    name : str
        One of :data:`QUALITY_SETS`.

    Raises
    ------
    KeyError
        There is no such set.
    """
    return QUALITY_SETS[name](columns)


def arc_snr_at_least(columns: xr.Dataset, least: float) -> tuple[Rows, pd.DataFrame]:
    """Rows whose arc has an S/N of at least ``least``, and what the cut removes.

    Controls have no arc and stay: a cut on injections alone changes what the two classes have in
    common, and the table says by how much.

    Returns
    -------
    rows : (pair,) bool
    table : DataFrame
        :data:`REMOVED_COLUMNS`, as :func:`removed`.
    """
    injected = columns["lens_model"].values > 0
    ok = columns["cutout_ok"].values.astype(bool)
    rows = np.asarray(ok & (~injected | (columns["arc_snr"].values >= least)))
    return rows, _counted(columns, f"arc_snr >= {least:g}", rows)


def removed(columns: xr.Dataset) -> pd.DataFrame:
    """Rows before and after each quality set, by class and split: :data:`REMOVED_COLUMNS`.

    A set that is defined by a column that is not there (a foreign data set's) has no rows in it.
    """
    there = [name for name in _OF_CLEAN if name in columns]
    columns = columns[there].load()  # once, not once a set
    told = [name for name in QUALITY_SETS if set(READS[name]) <= set(there)]
    tables = [_counted(columns, name, quality_set(columns, name)) for name in told]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=REMOVED_COLUMNS)


def _counted(columns: xr.Dataset, name: str, rows: Rows) -> pd.DataFrame:
    injected = columns["lens_model"].values > 0
    split = columns["region_split"].values
    lines = []
    for label, of_class in (("injection", injected), ("control", ~injected)):
        groups = [("all", of_class)]
        groups += [(name, of_class & (split == code)) for code, name in enumerate(SPLITS)]
        for part, members in groups:
            before, after = int(members.sum()), int((members & rows).sum())
            if before:
                lines.append((name, QUALITY_VERSION, label, part, before, after, after / before))
    return pd.DataFrame(lines, columns=REMOVED_COLUMNS)
