"""A named reason why pixels are not what they promise, and what such names are made of.

A cause outside its limit is a bug; one that is measurable but inside its limit is listed as no bug.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.closure_summary import TESTED
from darkhaloscope.audit.intervals import CONFIDENCE, Estimate, Outcome, certain, equivalence

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
    """Bands in which arcs were compared, in the order of the data set."""
    return [str(b) for b in pd.unique(found.pairs["band"])] if len(found.pairs) else []


def outcome_of(e: Estimate, limit: float, bands: int, pairs: int = 0) -> Outcome:
    """What closure's estimate in one of ``bands`` says to its limit.

    ``pass`` takes ``pairs`` and an interval inside the limit; ``fail`` an effect that is certain at the
    family's risk, from fewer pairs too.
    """
    confidence = 1.0 - (1.0 - CONFIDENCE) / bands
    if certain(e, limit, len(TESTED) * bands, confidence):
        return "fail"
    inside = e.n >= pairs and equivalence(e.lo, e.hi, limit) == "pass"
    return "pass" if inside else "not_enough"


def outside_of(found: Closure, quantity: str, limit: float) -> list[tuple[str, Estimate]]:
    """Bands in which the effect is certainly larger than its limit."""
    return _outside(found, (quantity,), limit)


def displaced_in(found: Closure, limit: float) -> list[tuple[str, Estimate]]:
    """Bands in which arcs are certainly displaced, with the longest of what tells it."""
    return _outside(found, found.displacements, limit)


def _outside(
    found: Closure, quantities: tuple[str, ...], limit: float
) -> list[tuple[str, Estimate]]:
    bands = bands_of(found)
    out = []
    for band in bands:
        estimates = [found.estimate(q, band) for q in quantities]
        failed = [e for e in estimates if outcome_of(e, limit, len(bands)) == "fail"]
        if failed:
            out.append((band, max(failed, key=lambda e: abs(e.value))))
    return out


def within(name: str, e: Estimate, limit: float, unit: str) -> list[Cause]:
    """An effect that is there, but inside its limit."""
    certain = np.isfinite(e.lo) and (e.lo > 0 or e.hi < 0)
    if not certain or not LISTED * limit < abs(e.value) <= limit:
        return []
    evidence = f"{e.value:+.2g}{unit}, inside its limit of {limit:g}{unit}: no bug"
    return [Cause(name, e.value, (e.lo, e.hi), evidence, "none", abs(e.value) / limit)]


def per_band(items: list[tuple[str, Estimate]], offset: float = 0.0) -> str:
    """Each band's value with its interval, in words; ``offset`` makes a ratio of an effect."""
    texts = []
    for band, e in items:
        numbers = (e.value + offset, e.lo + offset, e.hi + offset)
        form = _form(max(abs(v) for v in numbers), e.hi - e.lo)
        value, lo, hi = (format(v, form) for v in numbers)
        texts.append(f"{band} {value} [{lo}, {hi}]")
    return ", ".join(texts)


def _form(largest: float, width: float) -> str:
    """A format for a number and its interval alike: two digits of its width, four of the largest."""
    if not (np.isfinite(largest) and width > 0 and 1e-4 <= largest < 1e6):
        return ".4g"
    places = max(3 - math.floor(math.log10(largest)), 1 - math.floor(math.log10(width)), 0)
    return f".{min(places, 9)}f"


def where_of(items: list[tuple[str, Estimate]], found: Closure) -> str:
    """Which bands, in words: all of those that were compared, or their names."""
    names = [b for b, _ in items]
    return "all bands" if len(names) == len(bands_of(found)) > 1 else "band " + ", ".join(names)


def shown(value: float, form: str) -> str:
    """``value`` in a format such as ``+.3%``; what is 0 so has no sign."""
    text = format(value, form)
    return text if set(text) - set("+-.0%") else text.lstrip("+-")
