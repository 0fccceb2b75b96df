"""What the store's rounding does to real pixels, and to an audit of the same plan.

The same pairs of :mod:`pairs` are made twice, ``store.precision: exact`` and as the store rounds them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import audit_pairs
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pairs import SIZE, TILES, real_pairs

from darkhaloscope import audit
from darkhaloscope.audit import AuditResult, GateLimits
from darkhaloscope.audit.measure import INNER_ANNULUS

SNR_EDGES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0, np.inf)
"""Edges of the bins of ``arc_snr``, in the reference band."""

BIAS, FLUX = 1e-3, 1e-4
"""Limits: mean of what rounding did to the sky, in sky sigma; relative change of an arc's flux."""

OF_LIMIT = 0.01
"""Share of a gate's limit that a figure of noiseless arcs may move by: their own intervals are of 1e-6."""

LIMITS = GateLimits(regions=TILES**2 - 1, core_auc_pairs=48)
INTERVALS = (
    ("value", "lo", "hi"), ("mean", "lo", "hi"), ("residual", "lo", "hi"), ("offset_sky_sigma", "lo", "hi"),
    ("auc", "auc_lo", "auc_hi"), ("excess", "excess_lo", "excess_hi"),
    ("intercept", "intercept_lo", "intercept_hi"), ("slope", "slope_lo", "slope_hi"),
)  # fmt: skip
"""Columns of an audit's tables: a statistic and the ends of its interval."""

OF_QUANTITY = {
    "shift": LIMITS.closure_centroid, "shift_x": LIMITS.closure_centroid,
    "shift_y": LIMITS.closure_centroid, "flux_ratio": LIMITS.closure_flux,
    "width_ratio": LIMITS.closure_blur, "core_pedestal": LIMITS.residual_pedestal,
    "outer_pedestal": LIMITS.residual_pedestal, "leftover": LIMITS.closure_scatter,
    "difference": LIMITS.closure_residual, "intercept": LIMITS.residual_pedestal,
    "slope": LIMITS.zero_dose_slope, "residual": LIMITS.residual_pedestal,
}  # fmt: skip
"""The gate's limit that a figure of noiseless arcs is judged by."""


def both(count: int) -> tuple[xr.Dataset, xr.Dataset]:
    """The same pairs exact and rounded; each tile of the real window is a region and a host."""
    tile = np.arange(count) % TILES**2
    names = np.array([f"r{number:02d}" for number in tile], dtype=object)
    same = {"region_id": ("pair", names), "host_id": ("pair", tile.astype(np.int64))}
    exact, rounded = (real_pairs(count, precision=how).assign(same) for how in ("exact", "rounded"))
    return exact, rounded


def sky_rows(exact: xr.Dataset, rounded: xr.Dataset) -> list[dict[str, Any]]:
    """By band: mean change of ``ctrl`` in sky sigma, over the stamp and over the outer annulus."""
    sigma = exact["sky_sigma"].values.astype(float)[:, :, None, None]
    moved = (rounded["ctrl"].values.astype(float) - exact["ctrl"].values) / sigma
    ring = _annulus(exact)
    return [
        {
            "band": str(band),
            "bias_sigma": float(moved[:, b].mean()),
            "annulus_bias_sigma": float(moved[:, b][ring].mean()),
            "largest_sigma": float(np.abs(moved[:, b]).max()),
        }
        for b, band in enumerate(exact["band"].values)
    ]


def _annulus(pairs: xr.Dataset) -> NDArray[np.bool_]:
    """Pixels (pair, y, x) of the outer annulus."""
    axis = np.arange(SIZE)
    dx = axis[None, None, :] - pairs["target_x"].values[:, None, None]
    dy = axis[None, :, None] - pairs["target_y"].values[:, None, None]
    radius = np.hypot(dx, dy)
    return (radius >= INNER_ANNULUS[0]) & (radius < INNER_ANNULUS[1])


def flux_rows(exact: xr.Dataset, rounded: xr.Dataset) -> list[dict[str, Any]]:
    """By bin of S/N: what rounding did to an arc's flux in a band, and to all light of the outer annulus."""
    before, after = (ds["arc"].values.astype(float) for ds in (exact, rounded))
    moved = np.abs(after.sum((2, 3)) / before.sum((2, 3)) - 1)
    ring = _annulus(exact)[:, None]
    outer = ((pixels * ring).sum((1, 2, 3)) for pixels in (before, after))
    outer_before, outer_after = outer
    snr = exact["arc_snr"].values
    rows = []
    for low, high in itertools.pairwise(SNR_EDGES):
        here = (snr >= low) & (snr < high)
        if here.any():
            rows.append(
                {
                    "snr_from": low,
                    "rows": int(here.sum()),
                    "flux_99": float(np.quantile(moved[here], 0.99)),
                    "within": float((moved[here] < FLUX).mean()),
                    "annulus": float(outer_after[here].sum() / outer_before[here].sum() - 1),
                }
            )
    return rows


def audits(exact: xr.Dataset, rounded: xr.Dataset) -> tuple[AuditResult, AuditResult]:
    """The whole audit of both; arcs are drawn again once, since pixels play no part in that."""
    count = exact.sizes["pair"]
    rows = {"cap": count, "whole_cap": count, "closure": min(count, 100)}
    spec = audit_pairs.spec_of(exact, size=SIZE, **rows)
    made, again = [], None
    for pairs in (exact, rounded):
        stats = audit.measure(pairs, spec)
        again = again or audit.rerender(audit.audit_rows(stats, spec), spec)
        chosen = audit.selection(pairs, spec)
        columns = audit.quality(pairs, spec.reference_band)
        made.append(audit.conclude(stats, again, columns, LIMITS, spec, chosen))
    return made[0], made[1]


def compare(exact: AuditResult, rounded: AuditResult) -> dict[str, Any]:
    """How two audits differ.

    ``statistics`` that have an interval; ``apart``: those whose two intervals have nothing in common, each
    with its move as a share of the gate's limit (infinite where it has none); ``outcomes``: gates with
    another outcome.
    """
    statistics, apart = 0, []
    for where, quantity, before, after in _statistics(exact, rounded):
        statistics += 1
        if before[1] > after[2] or after[1] > before[2]:
            limit = OF_QUANTITY.get(quantity, 0.0)
            share = abs(after[0] - before[0]) / limit if limit else np.inf
            apart.append({"where": where, "quantity": quantity, "of_limit": float(share)})
    gates = zip(exact.verdict["gates"], rounded.verdict["gates"], strict=True)
    return {
        "statistics": statistics,
        "apart": apart,
        "most_of_limit": max((row["of_limit"] for row in apart), default=0.0),
        "outcomes": [a["name"] for a, b in gates if a["outcome"] != b["outcome"]],
        "causes": [len(result.verdict["causes"]) for result in (exact, rounded)],
    }


def _statistics(
    exact: AuditResult, rounded: AuditResult
) -> Iterator[tuple[str, str, NDArray[Any], NDArray[Any]]]:
    """Table, quantity, and (value, low, high) of either audit, of every statistic with an interval."""
    for name, table in exact.tables.items():
        other = rounded.tables[name]
        for columns in INTERVALS:
            if name == "quality" or not set(columns) <= set(table.columns):
                continue
            mine, theirs = (frame[list(columns)].to_numpy(float) for frame in (table, other))
            what = table["quantity"] if "quantity" in table else [columns[0]] * len(table)
            for quantity, before, after in zip(what, mine, theirs, strict=True):
                if np.isfinite(before).all() and np.isfinite(after).all():
                    yield name, str(quantity), before, after


def shifted(pairs: xr.Dataset, steps: float) -> xr.Dataset:
    """Pairs whose ``ctrl`` is too high by some of its rounding steps: what truncation would do with 0.5."""
    sigma = pairs["sky_sigma"].values.astype(float)
    step = np.exp2(np.floor(np.log2(sigma / 16)))[:, :, None, None]
    ctrl = (pairs["ctrl"].values + steps * step).astype(np.float32)
    return pairs.assign(ctrl=(pairs["ctrl"].dims, ctrl))


def absolute(pairs: xr.Dataset) -> xr.Dataset:
    """Pairs whose arcs are rounded to the step of ``ctrl``: what the store does not do."""
    sigma = pairs["sky_sigma"].values.astype(float)
    step = np.exp2(np.floor(np.log2(sigma / 16)))[:, :, None, None]
    arc = (np.rint(pairs["arc"].values / step) * step).astype(np.float32)
    return audit_pairs.summed(pairs.assign(arc=(pairs["arc"].dims, arc)))
