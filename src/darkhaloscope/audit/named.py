"""Closure's effects by their names, the heaviest first.

Where one effect has several possible causes, the name is that of the family, and the evidence says
which member fits.
"""

from __future__ import annotations

import numpy as np

from darkhaloscope.audit.causes import (
    Cause,
    Limits,
    bands_of,
    outside_of,
    per_band,
    where_of,
    within,
    worst_band,
)
from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.families import flux_causes, shift_causes, width_causes
from darkhaloscope.audit.intervals import Estimate, binomial_interval
from darkhaloscope.audit.stray import OFTEN

MOSTLY, PARTLY = 0.5, 0.2
"""Shares of the whole difference that must stay unexplained to stand alone, or to be added."""


def closure_causes(found: Closure, limits: Limits) -> list[Cause]:
    """Named causes in what closure found, the heaviest first.

    Where scale, shift, width and constants leave most of the difference unexplained, their fitted
    values mean nothing, and only that is said.
    """
    named = [
        *flux_causes(found, limits),
        *shift_causes(found, limits),
        *width_causes(found, limits),
        *_pedestals(found, limits),
    ]
    named.sort(key=lambda c: (c.kind == "none", -c.weight))
    strays = _strays(found)
    unexplained = _leftover(found, limits, named)
    if unexplained is None:
        return [*strays, *named]
    share = found.estimate("leftover").value / found.estimate("difference").value
    if share > MOSTLY:
        return [*strays, unexplained]
    return [*strays, *named, unexplained] if share > PARTLY else [*strays, *named]


def _strays(found: Closure) -> list[Cause]:
    """Pixels without an arc that differ, in the band where they are most; all bands are said."""
    if not found.strays:
        return []
    band, worst = max(found.strays, key=lambda stray: int(stray[1].mask.sum()))
    text = "; ".join(f"{band}: {stray.says}" for band, stray in found.strays)
    n = found.n_pairs
    interval = binomial_interval(round(worst.share * n), n)
    says = f"{worst.says} (band {band})"
    return [Cause("stray_pixels", worst.share, interval, text, "bug", worst.share / OFTEN, says)]


def _pedestals(found: Closure, limits: Limits) -> list[Cause]:
    """A constant everywhere, or in the core only, and how far out it reaches."""
    core = dict(outside_of(found, "core_pedestal", limits.pedestal))
    outer = dict(outside_of(found, "outer_pedestal", limits.pedestal))
    everywhere: list[tuple[str, Estimate]] = []
    inside: list[tuple[str, Estimate]] = []
    ring: list[tuple[str, Estimate]] = []
    for band in bands_of(found):
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
            _, e = worst_band(found, f"{where}_pedestal", bands_of(found))
            causes += within(name, e, limits.pedestal, " sky sigma")
    return causes


def _pedestal(
    name: str, items: list[tuple[str, Estimate]], found: Closure, limits: Limits, place: str
) -> Cause:
    band, e = max(items, key=lambda i: abs(i[1].value))
    where = where_of(items, found)
    text = f"sky sigma a pixel, stored minus promised, {place}: {per_band(items)}; {e.n} pairs"
    says = (
        f"{abs(e.value):.3g} sky sigma a pixel (band {band}) {'more' if e.value > 0 else 'less'} "
        f"than promised {place}, in {where}"
    )
    return Cause(name, e.value, (e.lo, e.hi), text, "bug", abs(e.value) / limits.pedestal, says)


def _leftover(found: Closure, limits: Limits, named: list[Cause]) -> Cause | None:
    """What scale, shift, width and constants leave of the difference, if that is too much."""
    outside = outside_of(found, "leftover", limits.leftover)
    if not outside:
        return None
    band, e = max(outside, key=lambda i: i[1].value)
    at = float(found.pairs.loc[found.pairs.band == band, "worst_radius"].median())
    text = (
        f"{e.value:.1%} of the arcs' light is not where scale, shift, PSF width and constants can put "
        f"it, most at r = {at:.1f} px: {per_band(outside)}; {e.n} pairs"
    )
    fitted = ", ".join(f"{c.name} {c.size:.3g}" for c in named if c.kind == "bug")
    if fitted:
        text += f"; fitted beside it: {fitted}"
    says = (
        f"{e.value:.1%} of the arcs' light is not as promised, most at r = {at:.1f} px "
        f"(band {band}), and no named cause explains it"
    )
    weight = e.value / limits.leftover
    return Cause("unexplained_residual", e.value, (e.lo, e.hi), text, "bug", weight, says)
