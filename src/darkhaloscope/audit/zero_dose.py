"""Zero dose: what the core holds where the arc should add nothing.

An AUC cannot be read at zero dose (a noiseless arc of a thousandth of its flux wins nine pairs in
ten), a regression can: the mean core difference of each pair against the mean core of its re-rendered
arc, in sky sigma a pixel, has intercept 0 and slope 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.intervals import Floats, effective_number, resample_weights, t_interval
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.noise import TO_SIGMA
from darkhaloscope.audit.spec import AuditSpec

SCATTER_FLOOR = 1e-4
"""Scatter in sky sigma that every pair is granted at least: a tenth of the limit on the intercept. Below it a
smaller dose is no better evidence, so that no single faint pair carries the fit. What the faint half of
the pairs scatters by, where stamp and ctrl have noise each of its own, is granted to all."""

ERROR_FLOOR = 2e-4
"""Rendering and rounding error of an arc relative to its dose that is always granted."""

MAX_PAIRS = 4000
MIN_EFFECTIVE = 20.0

ZERO_DOSE_COLUMNS = [
    "band", "pairs", "effective_pairs", "intercept", "intercept_lo", "intercept_hi",
    "slope", "slope_lo", "slope_hi", "relative_error",
]  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A weighted straight line with intervals from resampled pairs."""

    intercept: tuple[float, float, float]
    slope: tuple[float, float, float]
    relative_error: float
    effective: float


def dose_line(dose: Floats, difference: Floats, seed: int) -> Line:
    """``difference = intercept + slope dose`` with a scatter of s0^2 + (eps dose)^2.

    s0 is 1.4826 times the median of |residual| of the faint half of the pairs, or its floor. eps is
    estimated from the data (1.4826 times the median of |residual| / dose), so that errors proportional to
    the dose, however large, take weight from the bright pairs instead of moving the intercept.

    Parameters
    ----------
    dose, difference : ndarray (pair,)
        Mean of the re-rendered and of the stored core, sky sigma a pixel.
    """
    eps, floor = ERROR_FLOOR, SCATTER_FLOOR
    faint = dose <= np.median(dose)
    weight = np.ones_like(dose)
    intercept, slope = 0.0, 1.0
    bright = dose > SCATTER_FLOOR / ERROR_FLOOR
    for _ in range(4):
        weight = 1.0 / (floor**2 + (eps * dose) ** 2)
        intercept, slope = _fit(_moments(weight, dose, difference)[None])[0]
        expected = intercept + np.nan_to_num(slope, nan=1.0) * dose
        floor = max(
            SCATTER_FLOOR, TO_SIGMA * float(np.median(np.abs(difference - expected)[faint]))
        )
        if bright.any():
            relative = np.abs(difference - expected)[bright] / dose[bright]
            eps = max(ERROR_FLOOR, TO_SIGMA * float(np.median(relative)))
    counts = resample_weights(len(dose), seed, stream=3, resamples=500)
    terms = np.stack(
        [weight, weight * dose, weight * dose**2, weight * difference, weight * dose * difference]
    )
    replicates = _fit(counts @ terms.T)
    return Line(
        (intercept, *t_interval(intercept, replicates[:, 0], len(dose))),
        (slope, *t_interval(slope, replicates[:, 1], len(dose))),
        eps,
        effective_number(weight),
    )


def _moments(weight: Floats, x: Floats, y: Floats) -> Floats:
    return np.array(
        [v.sum() for v in (weight, weight * x, weight * x**2, weight * y, weight * x * y)]
    )


def _fit(moments: Floats) -> Floats:
    """(intercept, slope) of each row of weighted sums (w, wx, wxx, wy, wxy)."""
    w, wx, wxx, wy, wxy = moments.T
    det = w * wxx - wx**2
    good = det > 1e-12 * w * wxx
    safe = np.where(good, det, 1.0)
    slope = np.where(good, (w * wxy - wx * wy) / safe, np.nan)
    # Without a spread in dose (arcs masked in the core) there is no slope, but still a mean.
    level = np.where(good, (wxx * wy - wx * wxy) / safe, wy / np.where(w > 0, w, np.nan))
    return np.stack([level, slope], axis=-1)


def zero_dose(
    stats: Arrays, rerendered: Arrays, spec: AuditSpec
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The regression of each band, and the points behind it (at most 4,000 pairs).

    Returns
    -------
    DataFrame
        Per band: intercept and slope with intervals from resampled pairs; missing where the
        evidence at low dose is worth fewer than 20 pairs.
    DataFrame
        ``band, dose, difference`` in sky sigma a pixel.
    """
    drawn = match(stats["row_hash"], rerendered["hash"])
    rows, points = [], []
    for b, band in enumerate(spec.bands):
        sigma = stats["row_sky_sigma"][:, b].astype(float)
        there = (drawn >= 0) & (stats["row_coverage"][:, b] > 0) & (sigma > 0)
        use = np.flatnonzero(there)[:MAX_PAIRS]
        good = (stats["row_core_nodata"][use] & np.uint8(1 << b)) == 0
        pixels = np.maximum(good.sum(axis=(1, 2)), 1) * sigma[use]
        dose = (rerendered["core"][drawn[use], b] * good).sum(axis=(1, 2), dtype=float) / pixels
        seen = (stats["row_core_arc"][use, b] * good).sum(axis=(1, 2), dtype=float) / pixels
        finite = np.isfinite(dose) & good.any(axis=(1, 2))
        dose, seen = dose[finite], seen[finite]
        points.append(pd.DataFrame({"band": band, "dose": dose, "difference": seen}))
        if len(dose) < 3:
            rows.append([band, len(dose), 0.0, *[np.nan] * 7])
            continue
        line = dose_line(dose, seen, spec.seed)
        intercept = line.intercept
        if line.effective < MIN_EFFECTIVE:
            intercept = (intercept[0], np.nan, np.nan)
        rows.append([band, len(dose), line.effective, *intercept, *line.slope, line.relative_error])
    return pd.DataFrame(rows, columns=ZERO_DOSE_COLUMNS), pd.concat(points, ignore_index=True)
