"""Negatives that are as bright as arcs: the core gate against them, and controls chosen to be.

The core gate's label 0 is a stamp without its arc, so that brightness alone tells the classes. Here label
0 is as bright: a core-matched negative (``ctrl + extra`` of the same sky), or plain controls that are
chosen on read, where no pixel may be touched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.audit.core_gate import components, group_folds, match, out_of_fold_scores
from darkhaloscope.audit.intervals import Floats, RegionAuc
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.spec import AuditSpec, interval_labels
from darkhaloscope.geometry import core_slice

READINGS = ("pixels", "brightness")
"""What a reader is given: the core's pixels, or the sum over them in each band."""

MATCHED_COLUMNS = [
    "reading", "family", "stratum", "pairs", "regions", "auc", "auc_lo", "auc_hi", "auc_plain",
]  # fmt: skip
"""``auc`` tells stamps from their negatives, ``auc_plain`` the same stamps from their ctrl."""

CALIPER = 0.2
"""Largest difference of matched brightness in any band, in standard deviations of it (Rosenbaum & Rubin
1985, Am. Stat. 39, 33)."""


def matched_negatives(stats: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """What a linear reader sees in the core where brightness alone tells nothing.

    Parameters
    ----------
    stats : dict of ndarray
        Merged statistics with ``negative_`` arrays.

    Returns
    -------
    DataFrame
        One row a reading and stratum, of the audit rows whose negatives were kept; empty where too few
        hosts and regions hang apart.
    """
    place = match(stats["row_hash"], stats["negative_hash"])
    use = np.flatnonzero((place >= 0) & (stats["row_coverage"] > 0).all(axis=1))
    region, host = stats["row_region"][use], stats["row_host_id"][use]
    if len(use) == 0 or len(np.unique(components(host, region))) < 2:
        return pd.DataFrame(columns=MATCHED_COLUMNS)
    fold = group_folds(host, region, stats["row_hash"][use])
    ctrl = stats["row_core_ctrl"][use].astype(float)
    stamp = ctrl + stats["row_core_arc"][use]
    negative = ctrl + stats["negative_core_extra"][place[use]]
    stratum = spec.stratum(stats["row_theta_e"][use])
    strata = [("all", "all", np.arange(len(use)))]
    for k, label in enumerate(interval_labels(spec.theta_e_edges)):
        if len(members := np.flatnonzero(stratum == k)):
            strata.append(("theta_e", label, members))
    rows = []
    for reading in READINGS:
        images = [_features(image, reading) for image in (stamp, negative, ctrl)]
        against = out_of_fold_scores(images[0], images[1], fold)
        plain = out_of_fold_scores(images[0], images[2], fold)
        for family, label, members in strata:
            seen, before = (
                RegionAuc(pos[members], neg[members], region[members], spec.seed)
                for pos, neg in (against, plain)
            )
            lo, hi = (float(np.clip(v, 0.0, 1.0)) for v in seen.interval())
            rows.append(
                (
                    reading,
                    family,
                    label,
                    len(members),
                    seen.n_regions,
                    seen.value,
                    lo,
                    hi,
                    before.value,
                )
            )
    return pd.DataFrame(rows, columns=MATCHED_COLUMNS)


def _features(core: Floats, reading: str) -> Floats:
    """(pair, feature) of cores (pair, band, y, x)."""
    return core.reshape(len(core), -1) if reading == "pixels" else core.sum(axis=(2, 3))


def core_brightness(ds: xr.Dataset) -> Floats:
    """Light of every row's image in the core gate's 10x10 pixels, (pair, band), nMgy.

    Parameters
    ----------
    ds : Dataset
        ``ctrl`` and ``arc`` (and ``extra``, where it has one), lazy or not: only the cores are read.
    """
    core = core_slice(ds.sizes["x"])
    names = [name for name in ("ctrl", "arc", "extra") if name in ds]
    parts = ds[names].isel(y=core, x=core).sum(("y", "x"), dtype=float).compute()
    return np.asarray(sum(parts[name].values for name in names), dtype=float)


def match_controls(
    brightness: Floats,
    injected: NDArray[np.bool_],
    group: NDArray[Any] | None = None,
    caliper: float = CALIPER,
) -> NDArray[np.int64]:
    """Controls that are as bright in the core as injections, each taken once.

    Brightness is compared as arcsinh magnitudes in each band (softened at the median), in standard
    deviations of the injections; the brightest injection, which has the fewest controls, chooses first, the
    nearest one (largest difference over the bands) that is left.

    Parameters
    ----------
    brightness : (pair, band)
        :func:`core_brightness`; finite.
    injected : (pair,) of bool
        Injections; all others are controls to choose from. Leave out beforehand what is neither, such
        as failed rows and core-matched negatives.
    group : (pair,), optional
        Rows are matched within a group alone: the split, so that none leaks into another.
    caliper : float
        Injections without a control this near stay without.

    Returns
    -------
    ndarray (match, 2)
        Rows of the injections that have a match, ascending, and of their controls.
    """
    softened = np.arcsinh(brightness / np.median(np.abs(brightness), axis=0))
    scale = softened[injected].std(axis=0) if injected.any() else 1.0
    place = softened / np.where(scale > 0, scale, 1.0)
    groups = np.zeros(len(place), dtype=np.int64) if group is None else np.asarray(group)
    found: list[tuple[int, int]] = []
    for name in np.unique(groups):
        lensed = np.flatnonzero(injected & (groups == name))
        plain = np.flatnonzero(~injected & (groups == name))
        if len(lensed) and len(plain):
            chosen = _nearest(place[lensed], place[plain], caliper)
            found += [(int(lensed[i]), int(plain[k])) for i, k in chosen]
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def _nearest(wanted: Floats, have: Floats, caliper: float) -> list[tuple[int, int]]:
    """(row of ``wanted``, row of ``have``): greedy, the brightest first, without replacement."""
    from scipy.spatial import KDTree  # slow to import

    tree, free = KDTree(have), np.ones(len(have), dtype=bool)
    found = []
    for i in np.argsort(-wanted.sum(axis=1), kind="stable").tolist():
        look = 0
        while look < len(have):
            look = min(4 * look or 8, len(have))
            distance, near = tree.query(
                wanted[i], k=[*range(1, look + 1)], p=np.inf, distance_upper_bound=caliper
            )
            within = near[np.isfinite(distance)]
            left = within[free[within]]
            if len(left):
                free[left[0]] = False
                found.append((i, int(left[0])))
            if len(left) or len(within) < look:
                break
    return found
