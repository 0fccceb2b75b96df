"""A named reason why pixels are not what they promise, and what such names are made of.

A cause outside its limit is a bug; one that is measurable but inside its limit is listed as no bug.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.intervals import Estimate, equivalence

LISTED = 0.1
"""Causes below this fraction of their limit are not worth a line."""


@dataclass(frozen=True)
class Limits:
    """Largest effects that are no bug."""

    flux: float = 0.01
    centroid: float = 0.05
    blur: float = 0.02
    pedestal: float = 1e-3
    leftover: float = 0.02


@dataclass(frozen=True)
class Cause:
    """A named reason why pixels are not what their parameters promise.

    ``kind`` is ``bug``, ``shortcut``, or ``none`` for an effect inside its limit; ``weight`` is the
    effect in units of its limit; ``says`` a clause for the verdict's sentence.
    """

    name: str
    size: float
    interval: tuple[float, float]
    evidence: str
    kind: str
    weight: float
    says: str = field(default="", compare=False)


def worst_band(found: Closure, quantity: str, bands: list[str]) -> tuple[str, Estimate]:
    """The band whose effect is largest, with its estimate."""
    estimates = [(band, found.estimate(quantity, band)) for band in bands]
    known = [e for e in estimates if np.isfinite(e[1].value)]
    if not known:
        return "", Estimate(np.nan, np.nan, np.nan, 0)
    return max(known, key=lambda e: abs(e[1].value))


def bands_of(found: Closure) -> list[str]:
    return [str(b) for b in pd.unique(found.pairs["band"])] if len(found.pairs) else []


def outside_of(found: Closure, quantity: str, limit: float) -> list[tuple[str, Estimate]]:
    """Bands in which the effect is certainly larger than its limit."""
    out = []
    for band in bands_of(found):
        e = found.estimate(quantity, band)
        if equivalence(e.lo, e.hi, limit) == "fail":
            out.append((band, e))
    return out


def within(name: str, e: Estimate, limit: float, unit: str) -> list[Cause]:
    """An effect that is there, but inside its limit."""
    certain = np.isfinite(e.lo) and (e.lo > 0 or e.hi < 0)
    if not certain or not LISTED * limit < abs(e.value) <= limit:
        return []
    evidence = f"{e.value:+.2g}{unit}, inside its limit of {limit:g}{unit}: no bug"
    return [Cause(name, e.value, (e.lo, e.hi), evidence, "none", abs(e.value) / limit)]


def per_band(items: list[tuple[str, Estimate]], offset: float = 0.0) -> str:
    return ", ".join(f"{b} {e.value + offset:.4g} [{e.lo + offset:.4g}, {e.hi + offset:.4g}]"
                     for b, e in items)  # fmt: skip


def where_of(items: list[tuple[str, Estimate]], found: Closure) -> str:
    names = [b for b, _ in items]
    return "all bands" if len(names) == len(bands_of(found)) > 1 else "band " + ", ".join(names)
