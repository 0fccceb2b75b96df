"""What goes with an arc's light in the core: its Einstein radius, its whole light, its S/N.

A core that is brighter whatever the arc does has no slope on any of them; one that is physics has those of
the re-rendered arcs, which stand beside.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.intervals import CONFIDENCE, DESCRIBED_REGIONS, Floats
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.spec import AuditSpec

SLOPE_COLUMNS = [
    "on", "slope", "lo", "hi", "r2", "slope_rerendered", "r2_rerendered", "pairs", "regions",
]  # fmt: skip
POINT_COLUMNS = ["theta_e", "flux", "snr", "core", "core_rerendered"]
ON = ("theta_e", "flux", "snr")
DRAWN_POINTS = 1500
"""Pairs that are kept for the picture."""

FEWEST = 10


def core_slopes(
    stats: Arrays, rerendered: Arrays, spec: AuditSpec
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Straight lines through the mean core light of the audit rows, and points to draw.

    The core is ``stamp - ctrl`` in the central 10x10 pixels of the reference band, nMgy a pixel; ``flux``
    is ``total_injected_flux`` in that band (nMgy), ``snr`` is ``arc_snr``.

    Returns
    -------
    DataFrame
        :data:`SLOPE_COLUMNS`: least squares, with an interval from the scatter of regions (sandwich
        variance of clusters, Liang & Zeger 1986; t with regions - 1 degrees of freedom), and R^2. What a
        set does not say has no line; below five regions there is no interval.
    DataFrame
        :data:`POINT_COLUMNS` of at most 1,500 pairs, those with the lowest hashes.
    """
    if not spec.paired:
        return pd.DataFrame(columns=SLOPE_COLUMNS), pd.DataFrame(columns=POINT_COLUMNS)
    band = spec.reference_index
    drawn = match(stats["row_hash"], rerendered["hash"])
    again = np.full(len(drawn), np.nan)
    again[drawn >= 0] = rerendered["core"][drawn[drawn >= 0], band].mean(axis=(1, 2), dtype=float)
    core = stats["row_core_arc"][:, band].mean(axis=(1, 2), dtype=float)
    columns = {
        "theta_e": stats["row_theta_e"].astype(float),
        "flux": stats["row_total_injected_flux"][:, band].astype(float),
        "snr": stats["row_arc_snr"].astype(float),
    }
    covered = stats["row_coverage"][:, band] > 0
    lines = []
    for name in ON:
        x = columns[name]
        use = covered & np.isfinite(x) & np.isfinite(core)
        if use.sum() < FEWEST or np.ptp(x[use]) == 0:
            continue
        slope, lo, hi, r2, n = _line(x[use], core[use], stats["row_region"][use])
        both = use & np.isfinite(again)
        there = (np.nan, np.nan)
        if both.sum() >= FEWEST:
            found = _line(x[both], again[both], stats["row_region"][both])
            there = found[0], found[3]
        lines.append((name, slope, lo, hi, r2, *there, int(use.sum()), n))
    points = pd.DataFrame({**columns, "core": core, "core_rerendered": again})[covered]
    order = np.argsort(stats["row_hash"][covered], kind="stable")[:DRAWN_POINTS]
    return pd.DataFrame(lines, columns=SLOPE_COLUMNS), points.iloc[order].reset_index(drop=True)


def _line(
    x: Floats, y: Floats, region: NDArray[np.uint64]
) -> tuple[float, float, float, float, int]:
    """Slope with its interval, R^2, and the number of regions."""
    dx, dy = x - x.mean(), y - y.mean()
    square = float((dx**2).sum())
    slope = float((dx * dy).sum()) / square
    total = float((dy**2).sum())
    rest = dy - slope * dx
    r2 = 1.0 - float((rest**2).sum()) / total if total > 0 else float("nan")
    keys, group = np.unique(region, return_inverse=True)
    n = len(keys)
    if n < DESCRIBED_REGIONS:
        return slope, float("nan"), float("nan"), r2, n
    scores = np.bincount(group.reshape(-1), dx * rest)
    error = float(np.sqrt((scores**2).sum() * n / (n - 1))) / square
    reach = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * error
    return slope, slope - reach, slope + reach, r2, n
