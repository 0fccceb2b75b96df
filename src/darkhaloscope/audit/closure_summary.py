"""Closure's effects, averaged over pairs with their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from darkhaloscope.audit.intervals import (
    CONFIDENCE,
    Estimate,
    Floats,
    effective_number,
    weighted_mean,
)
from darkhaloscope.audit.spec import AuditSpec

MIN_EFFECTIVE = 20.0
SUMMARY_COLUMNS = ["quantity", "band", "value", "lo", "hi", "pairs"]
QUANTITIES = (
    "flux", "shift", "shift_x", "shift_y", "width", "core_pedestal", "outer_pedestal", "leftover",
    "difference",
)  # fmt: skip


def summarise(pairs: pd.DataFrame, spec: AuditSpec, confidence: float) -> pd.DataFrame:
    """Effects per band and over all bands (each pair's mean over its bands)."""
    rows = []
    for band in ("all", *spec.bands):
        part = pairs if band == "all" else pairs[pairs.band == band]
        level = CONFIDENCE if band == "all" else confidence
        effects = pd.DataFrame(
            {
                "hash": part["hash"],
                "flux": part.flux_ratio - 1.0,
                "shift": part["shift"],
                "shift_x": part.dx,
                "shift_y": part.dy,
                "width": part.width_ratio - 1.0,
                "leftover": part.leftover,
                "difference": part.difference,
            }
        )
        for where in ("core", "outer"):
            effects[f"{where}_w"] = part[f"{where}_weight"]
            effects[f"{where}_sum"] = part[f"{where}_pedestal"].fillna(0) * part[f"{where}_weight"]
        means = effects.groupby("hash", sort=True).mean()
        for quantity in QUANTITIES:
            if quantity.endswith("_pedestal"):
                where = quantity.removesuffix("_pedestal")
                w = means[f"{where}_w"].to_numpy(float)
                values = ratio(means[f"{where}_sum"].to_numpy(float), w)
                e = weighted_mean(values, w, spec.seed, 5, level)
                if effective_number(w) < MIN_EFFECTIVE:
                    e = Estimate(e.value, float("nan"), float("nan"), e.n)
            else:
                values = means[quantity].to_numpy(float)
                e = weighted_mean(values, np.ones(len(values)), spec.seed, 5, level)
            rows.append((quantity, band, e.value, e.lo, e.hi, e.n))
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def widened(summary: pd.DataFrame, noise: pd.DataFrame) -> pd.DataFrame:
    """The summary with its intervals wider by what noise alone makes of right arcs.

    Both ends move by the far end of the interval that noise shows: it biases lengths and what is left
    over, and scatters the rest.
    """
    names = ["quantity", "band"]
    both = summary[names].merge(noise, how="left", on=names, sort=False)
    lo, hi = both["lo"].to_numpy(float), both["hi"].to_numpy(float)
    reach = np.nan_to_num(np.maximum(np.abs(lo), np.abs(hi)))
    return summary.assign(lo=summary["lo"] - reach, hi=summary["hi"] + reach)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """``top / bottom``, NaN where ``bottom`` is not above 0; shape (n,)."""
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
