"""How arcs grow with the Einstein radius: light, area, and the magnifications that came out.

A larger ring covers more sky, and for the same source it holds more light. Neither need hold for every
pair, since sources differ, so stored arcs stand beside the re-rendered ones of the same rows.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.intervals import Floats, known_mean, weighted_mean
from darkhaloscope.audit.leak_map import Stamps
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.spec import AuditSpec, interval_labels

GROWTH_COLUMNS = ["stratum", "quantity", "value", "lo", "hi", "rerendered", "pairs"]
MAGNIFICATION_COLUMNS = [
    "stratum", "of", "pairs", "below_one", "min", "p5", "p16", "median", "p84", "p95", "max",
]  # fmt: skip
TREND = "trend"
"""Stratum of the rank correlation with theta_e over all pairs."""

FLUX, AREA = "flux", "area"
RECORDED, RERENDERED = "recorded", "re-rendered"
PERCENTILES = (0.0, 5.0, 16.0, 50.0, 84.0, 95.0, 100.0)
FEWEST = 10
"""Pairs below which a rank correlation has no interval."""


def growth_table(stamps: Stamps, stats: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """Flux (nMgy) and area (arcsec^2) of arcs by theta_e, in the reference band, and their trend.

    The area is (sum a)^2 / sum a^2 pixels: no threshold, so that a brighter arc is not a larger one.
    ``trend`` is the rank correlation with theta_e (Spearman 1904), with the interval of Fisher's z.
    Empty where a set does not say theta_e, or has no pairs.
    """
    if not spec.paired or "theta_e" in spec.lacks or not len(stamps.row):
        return pd.DataFrame(columns=GROWTH_COLUMNS)
    theta_e = stats["row_theta_e"][stamps.row].astype(float)
    sigma = stats["row_sky_sigma"][stamps.row, spec.reference_index].astype(float)
    seen = _sizes(stamps.seen, stamps, sigma, spec)
    again = None if stamps.promised is None else _sizes(stamps.promised, stamps, sigma, spec)
    stratum = spec.stratum(theta_e)
    lines: list[tuple[str, str, float, float, float, float, int]] = []
    for quantity, values in seen.items():
        for k, label in enumerate(interval_labels(spec.theta_e_edges)):
            members = np.flatnonzero(stratum == k)
            if not len(members):
                continue
            e = weighted_mean(values[members], np.ones(len(members)), spec.seed, stream=24)
            promised = np.nan if again is None else known_mean(again[quantity][members])
            lines.append((label, quantity, e.value, e.lo, e.hi, promised, e.n))
        trend, lo, hi, n = _rank_correlation(theta_e, values)
        promised = np.nan if again is None else _rank_correlation(theta_e, again[quantity])[0]
        lines.append((TREND, quantity, trend, lo, hi, promised, n))
    return pd.DataFrame(lines, columns=GROWTH_COLUMNS)


def magnification_table(stats: Arrays, rerendered: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """Distribution of recorded and of re-rendered magnifications, overall and by theta_e.

    ``below_one`` counts arcs with less light than their source.
    """
    drawn = match(stats["row_hash"], rerendered["hash"])
    again = np.full(len(drawn), np.nan)
    again[drawn >= 0] = rerendered["magnification"][drawn[drawn >= 0]]
    of = {RECORDED: stats["row_magnification"].astype(float), RERENDERED: again}
    stratum = stats["row_stratum"].astype(np.int64)
    groups: list[tuple[str, NDArray[np.bool_]]] = [("all", np.ones(len(stratum), dtype=bool))]
    if "theta_e" not in spec.lacks:
        labels = interval_labels(spec.theta_e_edges)
        groups += [(label, stratum == k) for k, label in enumerate(labels)]
    lines = []
    for label, members in groups:
        for name, values in of.items():
            known = values[members & np.isfinite(values)]
            if len(known):
                low = int((known < 1.0).sum())
                lines.append((label, name, len(known), low, *np.percentile(known, PERCENTILES)))
    return pd.DataFrame(lines, columns=MAGNIFICATION_COLUMNS)


def other_magnifications(stats: Arrays, rerendered: Arrays, limit: float) -> list[str]:
    """A sentence where recorded magnifications differ from those drawn again, by ``limit`` relative.

    Ours is the light of an arc over that of its source. Others record that of a point, or of the stamp
    alone, so that it is no bug by itself; where a set holds ``arc_flux_total`` its rows are checked to the
    last digit (:mod:`.integrity`).
    """
    drawn = match(stats["row_hash"], rerendered["hash"])
    recorded = stats["row_magnification"][drawn >= 0].astype(float)
    again = rerendered["magnification"][drawn[drawn >= 0]]
    known = np.isfinite(recorded) & np.isfinite(again) & (again > 0)
    ratio = recorded[known] / again[known]
    off = int((np.abs(ratio - 1.0) > limit).sum())
    if not off:
        return []
    middle, low, high = (float(np.percentile(ratio, p)) for p in (50, 5, 95))
    return [
        f"magnification: {off} of {len(ratio)} recorded ones differ by more than {limit:.2g} from the light "
        "of the arc over that of the source, drawn again "
        f"(ratio {middle:.3g}, 5-95 %: {low:.3g} to {high:.3g}): another quantity, or wrong"
    ]


def _sizes(images: Floats, stamps: Stamps, sigma: Floats, spec: AuditSpec) -> dict[str, Floats]:
    band = spec.reference_index
    light = (images[:, band] - stamps.ctrl[:, band]) * stamps.good[:, band]
    total, square = light.sum(axis=(1, 2)), (light**2).sum(axis=(1, 2))
    pixels = np.divide(total**2, square, out=np.full(len(light), np.nan), where=square > 0)
    return {FLUX: total * sigma, AREA: pixels * spec.pixel_scale**2}


def _rank_correlation(x: Floats, y: Floats) -> tuple[float, float, float, int]:
    """Spearman's correlation with an interval from Fisher's z (variance 1.06 / (n - 3), Fieller 1957)."""
    use = np.isfinite(x) & np.isfinite(y)
    n = int(use.sum())
    if n < FEWEST or np.ptp(x[use]) == 0 or np.ptp(y[use]) == 0:
        return np.nan, np.nan, np.nan, n
    from scipy.stats import spearmanr  # slow to import, and workers never need it

    value = float(spearmanr(x[use], y[use]).statistic)
    z, reach = np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9)), 1.96 * np.sqrt(1.06 / (n - 3))
    return value, float(np.tanh(z - reach)), float(np.tanh(z + reach)), n
