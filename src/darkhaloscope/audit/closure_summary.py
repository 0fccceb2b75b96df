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
from darkhaloscope.audit.noise import FAINTEST
from darkhaloscope.audit.spec import AuditSpec

MIN_EFFECTIVE = 20.0
SUMMARY_COLUMNS = ["quantity", "band", "value", "lo", "hi", "pairs", "granted"]
LOUDEST = 3.0
"""S/N in units of the least that counts in noise beyond which an arc has no more say in a mean."""

DISPLACEMENTS = ("shift", "shift_x", "shift_y", "shift_with_target", "shift_with_lens")
"""Mean length, components, and how far arcs are displaced along the target's recorded sub-pixel part and
along the lens's offset: slope times the offsets' rms, in pixels."""

TESTED = ("flux", *DISPLACEMENTS, "width", "core_pedestal", "outer_pedestal", "leftover")
"""Effects, 0 being perfect, that are asked for in every band: one family of tests."""

QUANTITIES = (*TESTED, "difference")

RAISED = ("shift", "core_pedestal", "leftover", "difference")
"""Effects that noise can only raise; of a constant the core is sought in which it is largest."""

OFFSETS = ("target", "lens")


def summarise(
    pairs: pd.DataFrame, spec: AuditSpec, confidence: float, noisy: bool = False
) -> pd.DataFrame:
    """Effects per band and over all bands (each pair's mean over its bands).

    In noise pairs are weighted by the square of their S/N. ``granted`` is what the fit's own relative error
    can leave of a constant where there is light, sky sigma a pixel.
    """
    rows = []
    for band in ("all", *spec.bands):
        part = pairs if band == "all" else pairs[pairs.band == band]
        level = CONFIDENCE if band == "all" else confidence
        effects = pd.DataFrame(
            {
                "hash": part["hash"],
                "flux": part.flux_ratio - 1.0,
                "weight": np.minimum(part.signal, LOUDEST * FAINTEST) ** 2 if noisy else 1.0,
                "shift": part["shift"],
                "shift_x": part.dx,
                "shift_y": part.dy,
                "width": part.width_ratio - 1.0,
                "leftover": part.leftover,
                "difference": part.difference,
                **{f"{of}_offset_{v}": part[f"{of}_offset_{v}"] for of in OFFSETS for v in "xy"},
            }
        )
        for where in ("core", "outer"):
            effects[f"{where}_w"] = part[f"{where}_weight"]
            effects[f"{where}_sum"] = part[f"{where}_pedestal"].fillna(0) * part[f"{where}_weight"]
            effects[f"{where}_err"] = part[f"{where}_granted"].fillna(0) * part[f"{where}_weight"]
        means = effects.groupby("hash", sort=True).mean()
        weight = means["weight"].to_numpy(float)
        for quantity in QUANTITIES:
            granted = 0.0
            if quantity.startswith("shift_with_"):
                offset = quantity.removeprefix("shift_with_")
                e = _along(means, offset, weight, spec.seed, level)
            elif quantity.endswith("_pedestal"):
                where = quantity.removesuffix("_pedestal")
                w = means[f"{where}_w"].to_numpy(float)
                values = ratio(means[f"{where}_sum"].to_numpy(float), w)
                e = weighted_mean(values, w, spec.seed, 5, level)
                if effective_number(w) < MIN_EFFECTIVE:
                    e = Estimate(e.value, float("nan"), float("nan"), e.n)
                granted = float(means[f"{where}_err"].sum() / max(w.sum(), 1e-300))
            else:
                e = weighted_mean(means[quantity].to_numpy(float), weight, spec.seed, 5, level)
            rows.append((quantity, band, e.value, e.lo, e.hi, e.n, granted))
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _along(
    means: pd.DataFrame, offset: str, weight: Floats, seed: int, confidence: float
) -> Estimate:
    """Displacement along a recorded offset: the regression through 0, times the offsets' rms (px)."""
    x, y = (means[f"{offset}_offset_{v}"].fillna(0.0).to_numpy(float) for v in "xy")
    square = x**2 + y**2
    along = means["shift_x"].to_numpy(float) * x + means["shift_y"].to_numpy(float) * y
    e = weighted_mean(ratio(along, square), weight * square, seed, 5, confidence)
    if effective_number(weight * square) < MIN_EFFECTIVE:
        return Estimate(e.value, float("nan"), float("nan"), e.n)
    rms = float(np.sqrt(square[square > 0].mean()))
    return Estimate(e.value * rms, e.lo * rms, e.hi * rms, e.n)


def widened(summary: pd.DataFrame, noise: pd.DataFrame) -> pd.DataFrame:
    """The summary with its intervals wider by what noise, or rounding, alone makes of right arcs.

    That is the far end of the interval which it shows. It raises lengths, what is sought and what is left
    over, more so where noise is greater in an arc than beside it, by nobody knows how much: both ends move by
    it. What it scatters to both sides is an error of its own: half widths add as squares.
    """
    names = ["quantity", "band"]
    both = summary[names].merge(noise, how="left", on=names, sort=False)
    lo, hi = both["lo"].to_numpy(float), both["hi"].to_numpy(float)
    reach = np.nan_to_num(np.maximum(np.abs(lo), np.abs(hi)))
    half = 0.5 * (summary["hi"] - summary["lo"]).to_numpy(float)
    raised = summary["quantity"].isin(RAISED).to_numpy()
    wide = np.where(raised, half + reach, np.hypot(half, reach))
    return summary.assign(lo=summary["value"] - wide, hi=summary["value"] + wide)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """``top / bottom``, NaN where ``bottom`` is not above 0; shape (n,)."""
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
