"""From measured effects to named causes.

A cause outside its limit is a bug; one that is measurable but inside its limit is listed as no bug.
Where one effect has several possible causes, the name is that of the family, and the evidence says
which member fits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.intervals import Estimate, equivalence

SAME_RATIO = 0.02
"""How near a width ratio must come to a convention's own to be said to fit it."""

MOSTLY, PARTLY = 0.5, 0.2
"""Shares of the whole difference that must stay unexplained to stand alone, or to be added."""

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


def closure_causes(found: Closure, limits: Limits) -> list[Cause]:
    """Named causes in what closure found, the heaviest first.

    Where scale, shift, width and constants leave most of the difference unexplained, their fitted
    values mean nothing, and only that is said.
    """
    named = [
        *_flux(found, limits),
        *_shift(found, limits),
        *_width(found, limits),
        *_pedestals(found, limits),
    ]
    named.sort(key=lambda c: (c.kind == "none", -c.weight))
    unexplained = _leftover(found, limits, named)
    if unexplained is None:
        return named
    share = found.estimate("leftover").value / found.estimate("difference").value
    if share > MOSTLY:
        return [unexplained]
    return [*named, unexplained] if share > PARTLY else named


def worst_band(found: Closure, quantity: str, bands: list[str]) -> tuple[str, Estimate]:
    """The band whose effect is largest, with its estimate."""
    estimates = [(band, found.estimate(quantity, band)) for band in bands]
    known = [e for e in estimates if np.isfinite(e[1].value)]
    if not known:
        return "", Estimate(np.nan, np.nan, np.nan, 0)
    return max(known, key=lambda e: abs(e[1].value))


def _bands(found: Closure) -> list[str]:
    return [str(b) for b in pd.unique(found.pairs["band"])] if len(found.pairs) else []


def _outside(found: Closure, quantity: str, limit: float) -> list[tuple[str, Estimate]]:
    """Bands in which the effect is certainly larger than its limit."""
    out = []
    for band in _bands(found):
        e = found.estimate(quantity, band)
        if equivalence(e.lo, e.hi, limit) == "fail":
            out.append((band, e))
    return out


def _inside(name: str, e: Estimate, limit: float, unit: str) -> list[Cause]:
    """An effect that is there, but inside its limit."""
    certain = np.isfinite(e.lo) and (e.lo > 0 or e.hi < 0)
    if not certain or not LISTED * limit < abs(e.value) <= limit:
        return []
    evidence = f"{e.value:+.2g}{unit}, inside its limit of {limit:g}{unit}: no bug"
    return [Cause(name, e.value, (e.lo, e.hi), evidence, "none", abs(e.value) / limit)]


def _per_band(items: list[tuple[str, Estimate]], offset: float = 0.0) -> str:
    return ", ".join(f"{b} {e.value + offset:.4g} [{e.lo + offset:.4g}, {e.hi + offset:.4g}]"
                     for b, e in items)  # fmt: skip


def _where(items: list[tuple[str, Estimate]], found: Closure) -> str:
    names = [b for b, _ in items]
    return "all bands" if len(names) == len(_bands(found)) > 1 else "band " + ", ".join(names)


def _flux(found: Closure, limits: Limits) -> list[Cause]:
    pooled = found.estimate("flux")
    outside = _outside(found, "flux", limits.flux)
    if not outside:
        return _inside("flux_scale", pooled, limits.flux, "")
    e = pooled if len(outside) == len(_bands(found)) else outside[0][1]
    size, interval = 1.0 + e.value, (1.0 + e.lo, 1.0 + e.hi)
    where = _where(outside, found)
    text = f"flux ratio stored / promised: {_per_band(outside, 1.0)}; {e.n} pairs"
    return [
        Cause("flux_scale", size, interval, text, "bug", abs(e.value) / limits.flux,
              f"the arcs hold {size:.3f} times the promised flux in {where}")
    ]  # fmt: skip


def _shift(found: Closure, limits: Limits) -> list[Cause]:
    outside = _outside(found, "shift", limits.centroid)
    e = found.estimate("shift")
    if not outside:
        return _inside("shift", e, limits.centroid, " px")
    if len(outside) < len(_bands(found)):
        e = outside[0][1]
        part = found.pairs[found.pairs.band == outside[0][0]]
    else:
        part = found.pairs
    x, y = float(part.dx.mean()), float(part.dy.mean())
    spread = float(np.hypot(part.dx - x, part.dy - y).mean())
    where = _where(outside, found)
    if spread < 0.3 * e.value:
        shape = f"a constant vector (dx, dy) = ({x:+.3f}, {y:+.3f}) px"
    else:
        rounded = np.hypot(part.dx + part.target_offset_x, part.dy + part.target_offset_y).mean()
        fits = rounded < 0.3 * e.value
        shape = (
            "minus the target's recorded sub-pixel part: the target was rounded"
            if fits
            else f"no common vector (mean ({x:+.3f}, {y:+.3f}) px, scatter {spread:.3f} px)"
        )
    text = f"length {e.value:.3f} px [{e.lo:.3f}, {e.hi:.3f}] in {where}; {shape}; {e.n} pairs"
    return [
        Cause("shift", e.value, (e.lo, e.hi), text, "bug", e.value / limits.centroid,
              f"the arcs are displaced by {e.value:.2f} px ({shape}) in {where}")
    ]  # fmt: skip


def _width(found: Closure, limits: Limits) -> list[Cause]:
    outside = _outside(found, "width", limits.blur)
    pooled = found.estimate("width")
    if not outside:
        return _inside("blur", pooled, limits.blur, "")
    everywhere = len(outside) == len(_bands(found))
    e = pooled if everywhere else outside[0][1]
    ratio = 1.0 + e.value
    way = "wider" if e.value > 0 else "narrower"
    where = _where(outside, found)
    part = found.pairs if everywhere else found.pairs[found.pairs.band == outside[0][0]]
    convention = float(part.width_ratio_as_moffat_fwhm.mean())
    text = f"PSF width drawn / predicted: {_per_band(outside, 1.0)}; {e.n} pairs"
    says = f"the arcs' PSF is {ratio:.3f} times as wide as predicted ({way}) in {where}"
    if len({np.sign(estimate.value) for _, estimate in outside}) > 1:
        each = ", ".join(
            f"{1.0 + estimate.value:.3f} times in {band}" for band, estimate in outside
        )
        says = f"the arcs' PSF is as wide as predicted {each}: each band otherwise"
    if np.isfinite(convention):
        if abs(ratio / convention - 1.0) < SAME_RATIO:
            hint = f"psf_as_moffat_fwhm fits (it predicts {convention:.3f})"
            says += f"; {hint}"
        else:
            hint = f"psf_as_moffat_fwhm does not fit (it predicts {convention:.3f})"
        text += f"; {hint}; a larger source, another beta and a pixel taken twice also blur"
    return [
        Cause(
            "blur", ratio, (1.0 + e.lo, 1.0 + e.hi), text, "bug", abs(e.value) / limits.blur, says
        )
    ]


def _pedestals(found: Closure, limits: Limits) -> list[Cause]:
    """A constant everywhere, or in the core only, and how far out it reaches."""
    core = dict(_outside(found, "core_pedestal", limits.pedestal))
    outer = dict(_outside(found, "outer_pedestal", limits.pedestal))
    everywhere: list[tuple[str, Estimate]] = []
    inside: list[tuple[str, Estimate]] = []
    ring: list[tuple[str, Estimate]] = []
    for band in _bands(found):
        c, o = (found.estimate(f"{w}_pedestal", band) for w in ("core", "outer"))
        if band in outer:
            same = not np.isfinite(c.lo) or abs(c.value - o.value) <= max(
                limits.pedestal, 0.25 * abs(o.value)
            )
            # Light far out with nothing in the core is no sky offset.
            far = band not in core and np.isfinite(c.lo) and abs(c.value) < 0.5 * abs(o.value)
            (ring if far else everywhere).append((band, o))
            if not same and not far:
                gap = Estimate(c.value - o.value, c.lo - o.value, c.hi - o.value, c.n)
                inside.append((band, gap))
        elif band in core:
            inside.append((band, c))
    causes: list[Cause] = []
    if everywhere:
        causes.append(_pedestal("pedestal", everywhere, found, limits, "over the whole stamp"))
    if inside:
        radius = found.profile.groupby("band").core_radius.first()
        far = float(np.median([radius[band] for band, _ in inside]))
        place = f"in the core, out to r = {far:.1f} px"
        causes.append(_pedestal("core_pedestal", inside, found, limits, place))
    if ring:
        causes.append(
            _pedestal("unexplained_residual", ring, found, limits, "in the outer annulus only")
        )
    if not causes:
        for where, name in (("core", "core_pedestal"), ("outer", "pedestal")):
            _, e = worst_band(found, f"{where}_pedestal", _bands(found))
            causes += _inside(name, e, limits.pedestal, " sky sigma")
    return causes


def _pedestal(
    name: str, items: list[tuple[str, Estimate]], found: Closure, limits: Limits, place: str
) -> Cause:
    band, e = max(items, key=lambda i: abs(i[1].value))
    where = _where(items, found)
    text = f"sky sigma a pixel, stored minus promised, {place}: {_per_band(items)}; {e.n} pairs"
    says = (
        f"{abs(e.value):.3g} sky sigma a pixel (band {band}) {'more' if e.value > 0 else 'less'} "
        f"than promised {place}, in {where}"
    )
    return Cause(name, e.value, (e.lo, e.hi), text, "bug", abs(e.value) / limits.pedestal, says)


def _leftover(found: Closure, limits: Limits, named: list[Cause]) -> Cause | None:
    """What scale, shift, width and constants leave of the difference, if that is too much."""
    outside = _outside(found, "leftover", limits.leftover)
    if not outside:
        return None
    band, e = max(outside, key=lambda i: i[1].value)
    rings = found.profile[found.profile.band == band]
    at = rings.iloc[int(np.argmax(np.abs(rings.measured - rings.rerendered)))]
    text = (
        f"{e.value:.1%} of the arcs' light is not where scale, shift, PSF width and constants can put "
        f"it, most at r = {at.r:g} px: {_per_band(outside)}; {e.n} pairs"
    )
    fitted = ", ".join(f"{c.name} {c.size:.3g}" for c in named if c.kind == "bug")
    if fitted:
        text += f"; fitted beside it: {fitted}"
    says = (
        f"{e.value:.1%} of the arcs' light is not as promised, most at r = {at.r:g} px "
        f"(band {band}), and no named cause explains it"
    )
    weight = e.value / limits.leftover
    return Cause("unexplained_residual", e.value, (e.lo, e.hi), text, "bug", weight, says)
