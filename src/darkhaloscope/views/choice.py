"""Which rows a reading takes of a split, from the columns alone, and how much each counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.errors import Reason, UserError
from darkhaloscope.variables import NEGATIVE_KINDS, SPLITS
from darkhaloscope.views.cuts import BAD_PIXEL_FRAC, quality_set
from darkhaloscope.views.reading import Reading

CTRL, STAMP = 0, 1
"""The two images of a row: ``ctrl``, and ``ctrl + arc (+ extra)``."""

_MATCHED = NEGATIVE_KINDS.index("core_matched")
COLUMNS = (
    "lens_model", "region_split", "cutout_ok", "reason", "arc_snr", "bad_pixel_frac", "coverage",
    "psf_fwhm_used", "psf_source",
)  # fmt: skip


class Chosen(NamedTuple):
    """Rows of the data set, by class, in stored order."""

    positive: NDArray[np.int64]
    """Injections; their stamps are the positives."""
    negative: NDArray[np.int64]
    """Rows of the negatives; the very same where a positive's own ctrl is its negative."""
    negative_image: int
    """:data:`CTRL`, or :data:`STAMP` where a fix added light to a control."""
    positive_weight: NDArray[np.float32]
    negative_weight: NDArray[np.float32]
    arc_snr: NDArray[np.float32]
    """Of the positives."""


def choose(columns: xr.Dataset, reading: Reading, split: str) -> Chosen:
    """The rows of one split that a reading takes.

    Parameters
    ----------
    columns : Dataset
        Provenance as stored (closed lists as codes), lazy or not; pixels are not read.
    reading : Reading
    split : str
        ``train``, ``val`` or ``test``; a row in the guard between splits is read by nobody.

    Raises
    ------
    UserError
        There is no such split; the data set lacks a column or has no rows of a class; or a cut leaves
        nothing of a class.
    """
    if split not in SPLITS[:3]:
        raise UserError(f"there is no split {split!r} to read; use {', '.join(SPLITS[:3])}")
    if missing := [name for name in COLUMNS if name not in columns]:
        raise UserError(f"the data set has no column {missing[0]}, which says what its rows are")
    columns = columns[[*COLUMNS, *({"negative_kind"} & set(columns.data_vars))]].load()
    injected = columns["lens_model"].values > 0
    matched = np.zeros(len(injected), dtype=bool)
    if "negative_kind" in columns:
        matched = columns["negative_kind"].values == _MATCHED
    kinds = {
        "ctrl": injected,
        "controls": ~injected & ~matched,
        "matched": matched,
    }
    there = columns["region_split"].values == SPLITS.index(split)
    bad = columns["bad_pixel_frac"].values > BAD_PIXEL_FRAC  # missing is not bad
    kept, pool = _kept(columns, reading, bad)
    faint = injected & (columns["arc_snr"].values <= reading.faint.at_most)
    if reading.faint.rows == "drop":
        kept = kept & ~faint
    weight = np.where(pool, reading.bad_pixels.weight, 1.0).astype(np.float32)
    if reading.faint.rows == "weight":
        weight[faint] *= np.float32(reading.faint.weight)
    for name, kind in (("injections", injected), (reading.negatives, kinds[reading.negatives])):
        _check(name, kind, there, kept, split, reading)
    positive = np.flatnonzero(injected & there & kept)
    negative = np.flatnonzero(kinds[reading.negatives] & there & kept)
    return Chosen(
        positive,
        negative,
        STAMP if reading.negatives == "matched" else CTRL,
        weight[positive],
        weight[negative],
        columns["arc_snr"].values[positive].astype(np.float32),
    )


def _kept(
    columns: xr.Dataset, reading: Reading, bad: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows that are taken, and those of them that are the pool of hard examples."""
    whole = columns["reason"].values == Reason.OK  # a row that a cut marked has pixels, and is out
    kept = whole & ~bad & quality_set(columns, reading.quality)
    if reading.bad_pixels.rows == "drop":
        return kept, np.zeros_like(kept)
    # The set as it were without its limit on bad pixels.
    without = columns.assign(bad_pixel_frac=columns["bad_pixel_frac"] * 0)
    pool = whole & bad & quality_set(without, reading.quality)
    return kept | pool, pool


def _check(
    name: str,
    kind: NDArray[np.bool_],
    there: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    split: str,
    reading: Reading,
) -> None:
    if not kind.any():
        hint = {
            "controls": "; make some with plan.control_fraction, or read negatives: ctrl",
            "matched": "; make them with fix.core_matched_negatives, or read negatives: ctrl",
        }.get(name, "")
        what = {"matched": "core-matched negatives"}.get(name, name)
        raise UserError(f"the data set has no {what}{hint}")
    before, after = int((kind & there).sum()), int((kind & there & kept).sum())
    if after == 0:
        raise UserError(
            f"no {name} of split {split} are left: {before} before the cuts, 0 after "
            f"(quality {reading.quality}, faint {reading.faint.rows}, bad_pixels {reading.bad_pixels.rows}); "
            + ("take a cut back" if before else "the data set has too few regions for this split")
        )
