"""What a section of the page says of its pictures: what is drawn, and what was measured.

A sentence says how a picture is read, or a number of the tables; never what a data set ought to hold as if
it did. What was not measured is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from darkhaloscope.audit.growth import RECORDED, TREND
from darkhaloscope.audit.leak_map import BLOCK, BOOSTED
from darkhaloscope.audit.selection import ALL
from darkhaloscope.report.load import Findings
from darkhaloscope.report.style import estimate, number, percent

NOTHING_DRAWN = "no arc could be drawn again to compare it with"


def profiles(found: Findings) -> str:
    """Radial profiles."""
    by = "" if "theta_e" in found.lacks else ", by Einstein radius"
    moves = "" if "theta_e" in found.lacks else "A bump that moves outward with θ_E is lensing; a "
    return (
        f"Mean of stamp − ctrl in rings about the target{by} ({_summed(found)}). {moves or 'A '}floor at "
        "large radius is a pedestal. Shaded are 95 % intervals over regions. The scale is linear near "
        "zero and logarithmic beyond."
    )


def annulus(found: Findings) -> str:
    """Offsets far out."""
    rest = found["closure_annulus"].dropna(subset=["residual"])
    says = (
        f"Mean of stamp − ctrl in the outer annuli ({_summed(found)}). Wide arcs and PSF wings do reach "
        "there, so an offset alone is no fault."
    )
    if rest.empty:
        return says
    worst = rest.iloc[int(np.argmax(np.abs(rest["residual"].to_numpy(float))))]
    limit = found.limit("residual_pedestal")
    return (
        f"{says} The last picture is measured minus re-rendered ({closed(found)}), in sky σ a pixel: "
        f"{_value(worst, 'residual')} where it is largest, in {worst.band}; dashed are the limits of "
        f"±{limit:g}."
    )


def core(found: Findings) -> str:
    """The reader of the core."""
    table = _of_all(found)
    rows = f"{int(found.verdict['pairs']):,} audited {_rows(found)}"
    if table.empty:
        return f"A linear reader sees the central 10×10 pixels only ({rows})."
    line = table.iloc[0]
    rests = f"{int(line.pairs):,} {_rows(found)}, {int(line.hosts):,} hosts, {int(line.regions):,} regions"
    says = (
        f"A linear reader sees the central 10×10 pixels only ({rests}; in brackets how many there are in "
        f"a stratum). Over all its AUC is {_value(line, 'auc', 'auc_lo', 'auc_hi')}"
    )
    if not np.isfinite(line.auc_rerendered):
        return f"{says}; {NOTHING_DRAWN}."
    return (
        f"{says}, and {number(line.auc_rerendered, 3)} with re-rendered arcs: an excess of "
        f"{_value(line, 'excess', 'excess_lo', 'excess_hi')}. Filled points are observed, open ones "
        "re-rendered arcs on the same ctrl. Arcs that are seen are no fault; an excess beyond the dashed "
        f"tolerance of {found.limit('excess_auc'):g} is."
    )


def core_shape(found: Findings) -> str:
    """How much of an arc lies in the core."""
    return (
        f"{_stored(found)}. Small rings fill the core because they are small. Light in the core that goes "
        "with neither θ_E, nor the arc's light, nor its S/N is none of an arc's."
    )


def growth(found: Findings) -> str:
    """Light, area and magnification."""
    table = found["growth"]
    parts = [
        f"{r['quantity']} {_value(r, digits=2)}{_again(r['rerendered'])}"
        for r in table[table["stratum"] == TREND].to_dict("records")
    ]
    trend = f" Rank correlation with θ_E: {', '.join(parts)}." if parts else ""
    table = found["magnification"]
    line = table[(table["of"] == RECORDED) & (table["stratum"] == "all")]
    below = ""
    if len(line):
        n, pairs = int(line["below_one"].iloc[0]), int(line["pairs"].iloc[0])
        below = f"; of {pairs:,} recorded {n:,} are"
    return (
        f"{_stored(found)}. Area is (Σ a)² / Σ a², which needs no threshold.{trend} No lens of positive "
        f"mass gives a magnification below 1{below}."
    )


def leak_map(found: Findings) -> str:
    """Readers of rings and blocks."""
    table = found["leak_map"]
    blocks = table[table["reader"] == BLOCK].dropna(subset=["excess"])
    says = f"A linear reader of each ring and each block, in all bands ({stamps(found)})."
    if len(blocks):
        worst = blocks.iloc[int(np.argmax(np.abs(blocks["excess"].to_numpy(float))))]
        says += (
            " Arcs are light too, and show in the first two pictures. The last is what is seen less what "
            f"the re-rendered arcs give, white where that is nothing: {number(worst.excess, 2)} where it "
            f"is largest, at {worst.part}."
        )
    return f"{says} {boosted(found)}".rstrip()


def boosted(found: Findings) -> str:
    """What the non-linear reader sees, in a sentence."""
    table = found["leak_map"]
    line = table[table["reader"] == BOOSTED]
    if line.empty:
        return ""
    r = line.iloc[0]
    says = (
        "Gradient boosting on profiles, scatter, quadrants and edges reads an AUC of "
        f"{number(r.auc, 3)}"
    )
    if not np.isfinite(r.auc_rerendered):
        return f"{says}; {NOTHING_DRAWN}."
    excess, ends = estimate(r.excess, r.excess_lo, r.excess_hi, 2)
    between = ", too few regions for an interval" if ends == "–" else f" {ends}"
    return f"{says} (re-rendered {number(r.auc_rerendered, 3)}, excess {excess}{between})."


def selection(found: Findings) -> str:
    """What metadata tell."""
    table = found["selection"]
    if table.empty:
        return ""
    r = table.iloc[0]
    rests = f"{int(r.injections):,} injections, {int(r.controls):,} controls, {int(r.regions):,} regions"
    says = (
        f"Gradient boosting on what is known before an arc is drawn ({rests}; regions held out), then "
        "each column alone. 0.5 is a coin's AUC."
    )
    whole = table[table["column"] == ALL]
    return (
        f"{says} All columns together give {_value(whole.iloc[0], 'auc')}." if len(whole) else says
    )


def alignment(found: Findings) -> str:
    """Displacements, peaks and quadrants."""
    parts = [displaced(found)]
    shifts = found["shift_sensitivity"].dropna(subset=["mean"])
    if len(shifts) == 9:
        moved = (shifts["dx"] != 0) | (shifts["dy"] != 0)
        still, other = shifts["mean"][~moved], shifts["mean"][moved]
        parts.append(
            "The first picture is the core's mean difference if ctrl were moved by a pixel: "
            f"{number(still.iloc[0], 3)} sky σ a pixel as it lies, {number(other.min(), 3)} to "
            f"{number(other.max(), 3)} if moved."
        )
    peaks = found["closure_pairs"].dropna(subset=["peak_radius"])
    peaks = peaks[peaks["band"] == found.reference]
    if len(peaks) > 2:
        stored, again = (
            rank_correlation(peaks["theta_e"], peaks[c])
            for c in ("peak_radius", "peak_radius_rerendered")
        )
        parts.append(
            f"The radius of the peaks has a rank correlation of {number(stored, 2)} with θ_E in "
            f"{found.reference}{_again(again)}."
        )
    quadrants = found["quadrants"].dropna(subset=["value", "rerendered"])
    if len(quadrants):
        gap = (quadrants["value"] - quadrants["rerendered"]).astype(float).abs().max()
        parts.append(
            "Mean shares of the light in quadrants differ from those of the re-rendered arcs by "
            f"{number(gap, 2)} at most."
        )
    parts.append(_elsewhere(found.gate("arc_localisation")))
    return " ".join(part for part in parts if part)


def _elsewhere(gate: dict[str, Any]) -> str:
    """How many arcs are not where they should be, beside how many noise alone puts off."""
    if gate.get("value") is None:
        return ""
    says = f"{percent(float(gate['value']))} of the arcs lie elsewhere than re-rendered"
    noise = gate.get("by_noise")
    return f"{says}." if noise is None else f"{says}; noise alone puts {percent(noise)} elsewhere."


def displaced(found: Findings) -> str:
    """How far stamps lie from their ctrl, in a sentence."""
    table = found["alignment"].dropna(subset=["dx"])
    if table.empty:
        return "No displacement could be measured outside the arcs."
    dx, dy, same = (float(table[c].median()) for c in ("dx", "dy", "correlation"))
    spread = float(
        np.median(np.hypot(table["dx"].to_numpy(float) - dx, table["dy"].to_numpy(float) - dy))
    )
    return (
        f"Outside the arcs, stamps lie ({number(dx, 2)}, {number(dy, 2)}) px from their ctrl (median of "
        f"{len(table):,} pairs, half of them within {number(spread, 2)} px of it; "
        f"correlation {number(same, 3)})."
    )


def zero_dose(found: Findings) -> str:
    """Stored against re-rendered core light."""
    lines = [
        f"{r['band']}: intercept {_value(r, 'intercept', 'intercept_lo', 'intercept_hi')} sky σ a pixel, "
        f"slope {_value(r, 'slope', 'slope_lo', 'slope_hi')}"
        for r in found["zero_dose"].to_dict("records")
    ]
    fitted = f" Fitted, {'; '.join(lines)}." if lines else ""
    return (
        "Each point is a pair and band: mean core light as stored against as re-rendered, and their "
        "difference. The line has slope 1. Dashed are the limits of a constant; at large dose a share of "
        f"it, for rounding, is granted (grey).{fitted}"
    )


def closure(found: Findings) -> str:
    """Effects of single pairs, with the means."""
    table = found["closure_summary"]
    table = table[(table["band"] == "all") & (table["pairs"] > 0)]
    wanted = {"flux": "flux ratio − 1", "shift": "displacement [px]", "width": "width ratio − 1"}
    means = [
        f"{wanted[r['quantity']]} {_value(r)}"
        for r in table.to_dict("records")
        if r["quantity"] in wanted
    ]
    over = f" Means over all: {'; '.join(means)}." if means else ""
    return (
        f"{closed(found)}, each band by itself. The limits (dashed) are for the mean of all pairs, not for "
        f"each point.{over}"
    )


def residual(found: Findings) -> str:
    """What closure leaves."""
    gate = found.gate("residual_pedestal")
    largest = (
        f" The largest constant is {number(gate['value'], 3)} sky σ a pixel (limit {gate['limit']:g})."
        if gate.get("value") is not None
        else ""
    )
    return (
        "First the mean profiles themselves. Then the mean residual after scale, displacement and width "
        "are fitted, in sky σ a pixel, with its interval; grey is the error granted to rendering and "
        "rounding. A plateau outside the dashed limits is a pedestal: of the core if it ends there, else "
        f"of the stamp.{largest}"
    )


def tests(found: Findings, with_p: int) -> str:
    """What the numbers of the table of tests are."""
    if not with_p:
        return "No test has a p-value: what each lacks is among what was not tested."
    return (
        f"{with_p:,} tests have a p-value. Each asks whether an effect is larger than its tolerance; Holm's "
        "correction keeps the chance of any false alarm at one in a thousand. n counts the regions that "
        "a test rests on; for differences between splits and PSF sources, the pairs of the smaller group."
    )


def footprint(found: Findings, mapped: bool) -> str:
    """The map of regions."""
    if not mapped:
        return "How many rows are not ok, and why."
    return (
        f"Each marker is {'a square degree' if found.folded else 'a region'}; East is left. Grey circles "
        "lost no row, other shapes say the most frequent reason and their colour how much of the region "
        "failed."
    )


def closed(found: Findings) -> str:
    """How many pairs closure compared."""
    return f"{found['closure_pairs']['hash'].nunique():,} re-rendered pairs"


def stamps(found: Findings) -> str:
    """How many whole stamps the leak map rests on."""
    table = found["leak_map"]
    if table.empty:
        return "no whole stamps"
    return _rests(table.iloc[0], _rows(found))


def rank_correlation(one: pd.Series, other: pd.Series) -> float:
    """Spearman's; missing where either is constant."""
    a, b = (v.astype(float).rank() for v in (one, other))
    if a.nunique() < 2 or b.nunique() < 2:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _rows(found: Findings) -> str:
    return "pairs" if found.paired else "rows of each class"


def _stored(found: Findings) -> str:
    beside = " beside re-rendered ones" if found.redraws else ""
    return f"Stored arcs{beside} in the reference band ({stamps(found)})"


def _summed(found: Findings) -> str:
    table = found["profiles"]
    whole = table[table["stratum"] == "all"]
    if whole.empty:
        return "no injections"
    return _rests(whole.iloc[0], "injections")


def _rests(line: Any, what: str) -> str:
    """How many rows and regions a line of a table rests on."""
    return f"{int(line['pairs']):,} {what}, {int(line['regions']):,} regions"


def _of_all(found: Findings) -> pd.DataFrame:
    table = found["auc_by_stratum"]
    return table[table["family"] == "all"].dropna(subset=["auc"])


def _again(value: float) -> str:
    """What the re-rendered arcs have, in brackets, where that is known."""
    return f" (re-rendered {number(value, 2)})" if np.isfinite(value) else ""


def _value(line: Any, name: str = "value", lo: str = "lo", hi: str = "hi", digits: int = 3) -> str:
    """A number of a table's line with its interval, where it has one."""
    value, ends = estimate(line[name], line[lo], line[hi], digits)
    return value if ends == "–" else f"{value} {ends}"
