"""Audit rows by the quality of their sky: named quality sets, resolution, depth, masks.

They describe: the same scores read in other rows. The verdict rests on the strata of the core gate.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.spec import PSF_RATIO_EDGES, AuditSpec, interval_labels
from darkhaloscope.variables import MAG_ZERO_POINT
from darkhaloscope.views import QUALITY_SETS, quality_set

DEPTH_EDGES = (23.0, 23.5, 24.0)
"""AB magnitude of a point source at 5 sigma, reference band."""

MASK_EDGES = (0.01, 0.2)
"""Fraction of a stamp's pixels; the second is what ``clean`` asks for."""

OF_QUALITY = (
    "lens_model", "arc_snr", "bad_pixel_frac", "coverage", "psf_fwhm_used", "psf_source",
)  # fmt: skip

Subset = tuple[str, str, float, float, NDArray[np.int64]]


def subsets(stats: Arrays, use: NDArray[np.int64], spec: AuditSpec) -> Iterator[Subset]:
    """(family, name, lo, hi, members of ``use``) of each subset that has members.

    Parameters
    ----------
    stats : dict of ndarray
        Merged statistics.
    use : ndarray of int
        Audit rows that were scored.
    """
    rows = xr.Dataset(
        {
            name: (("pair", "band")[: stats[f"row_{name}"].ndim], stats[f"row_{name}"][use])
            for name in OF_QUALITY
        }
    )
    rows["cutout_ok"] = ("pair", np.ones(len(use), dtype=bool))  # audit rows have their pixels
    for name in QUALITY_SETS:
        members = np.flatnonzero(quality_set(rows, name))
        if len(members):
            yield "quality set", name, np.nan, np.nan, members
    band = spec.reference_index
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = stats["row_theta_e"][use] / stats["row_psf_fwhm_used"][use, band]
        five_sigma = 5.0 / np.sqrt(stats["row_psfdepth"][use, band].astype(float))
        depth = MAG_ZERO_POINT - 2.5 * np.log10(five_sigma)
    values: tuple[tuple[str, Floats, tuple[float, ...]], ...] = (
        ("theta_e_over_psf", ratio, PSF_RATIO_EDGES),
        ("depth", depth, DEPTH_EDGES),
        ("bad_pixel_frac", stats["row_bad_pixel_frac"][use], MASK_EDGES),
        ("wise_brightmask_frac", stats["row_wise_brightmask_frac"][use], MASK_EDGES),
    )
    for family, value, edges in values:
        bounds = (-np.inf, *edges, np.inf)
        index = np.digitize(value, edges)
        for k, name in enumerate(interval_labels(edges)):
            members = np.flatnonzero((index == k) & np.isfinite(value))
            if len(members):
                yield family, name, bounds[k], bounds[k + 1], members
