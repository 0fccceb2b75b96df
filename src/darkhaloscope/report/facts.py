"""Tables of the page: numbers made text, so that the template only lays them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from darkhaloscope.audit.growth import TREND
from darkhaloscope.audit.leak_map import BOOSTED
from darkhaloscope.report.load import Findings, unit_of
from darkhaloscope.report.style import number, percent, stratum
from darkhaloscope.report.words import COUNTED, GATES, OUTCOMES
from darkhaloscope.variables import ALL_VARIABLES

MOST_TESTS = 20


@dataclass(frozen=True)
class Table:
    """Text by row and column; ``left`` columns are words, the others numbers."""

    head: list[str]
    rows: list[list[str]]
    left: int = 1


@dataclass(frozen=True)
class GateLine:
    """One gate as text; ``outcome`` is the word that colours it."""

    name: str
    what: str
    value: str
    interval: str
    limit: str
    outcome: str
    outcome_text: str
    required: bool


def gate_lines(found: Findings) -> list[GateLine]:
    """Every gate of the verdict, those that the experiment requires first."""
    lines = []
    for gate in found.verdict["gates"]:
        name = str(gate["name"])
        what, unit = GATES.get(name, (name, ""))
        lines.append(
            GateLine(
                name,
                f"{what} [{unit}]" if unit else what,
                number(gate["value"], 3),
                "–" if name in COUNTED else interval(gate["interval"]),
                f"{gate['limit']:g}",
                str(gate["outcome"]),
                OUTCOMES.get(gate["outcome"], str(gate["outcome"])),
                name in found.required,
            )
        )
    return sorted(lines, key=lambda g: not g.required)


def interval(ends: Any) -> str:
    """``[lo, hi]``, or an en dash where there is none."""
    if any(e is None or not np.isfinite(e) for e in ends):
        return "–"
    return f"[{number(ends[0], 3)}, {number(ends[1], 3)}]"


def cause_lines(found: Findings) -> list[tuple[str, str, str, str]]:
    """Name, size, interval and evidence of each cause."""
    return [
        (str(c["name"]), number(c["size"], 3), interval(c["interval"]), str(c["evidence"]))
        for c in found.verdict["causes"]
    ]


def counts(found: Findings) -> dict[str, str]:
    """Rows, injections, controls, failures, regions and audited pairs of the whole data set."""
    table = found["footprint"]
    total = {
        c: int(table[c].sum()) if len(table) else 0
        for c in ("pairs", "injections", "controls", "failed")
    }
    return {
        "rows": f"{total['pairs']:,}",
        "injections": f"{total['injections']:,}",
        "controls": f"{total['controls']:,}",
        "failed": f"{total['failed']:,}",
        "square degrees" if found.folded else "regions": f"{len(table):,}",
        "audited pairs": f"{int(found.verdict['pairs']):,}",
    }


QUALITY_HEAD = ["column", "band", "unit", "n", "missing", "zeros", "min", "P1", "P5", "P10", "median",
                "P95", "max", "mean"]  # fmt: skip
_DIGITS = {"ra": 7, "dec": 7}
_IDS = ("slot", "partner", "target_id", "host_id")
_PLACE = {
    variable.name: k + (len(ALL_VARIABLES) if variable.name in _IDS else 0)
    for k, variable in enumerate(ALL_VARIABLES)
}
_DESCRIBED = ["min", "p1", "p5", "p10", "median", "p95", "max", "mean"]


def quality(found: Findings) -> list[tuple[str, str, Table]]:
    """(class, split, table) of every numeric column, ``all`` first."""
    table = found["quality"]
    out = []
    keys = table[["class", "split"]].drop_duplicates()
    ordered = sorted(keys.itertuples(index=False, name=None), key=lambda k: (k[1] != "all",))
    for kind, split in ordered:
        part = table[(table["class"] == kind) & (table["split"] == split)]
        rows = [
            [
                str(line["column"]),
                str(line["band"]),
                unit_of(str(line["column"])),
                *(f"{int(line[c]):,}" for c in ("n", "missing", "zeros")),
                *(number(line[c], _DIGITS.get(line["column"], 4)) for c in _DESCRIBED),
            ]
            for line in sorted(
                part.to_dict("records"),
                key=lambda r: _PLACE.get(r["column"], 2 * len(ALL_VARIABLES)),
            )
        ]
        out.append((str(kind), str(split), Table(QUALITY_HEAD, rows, 3)))
    return out


def reasons(found: Findings) -> Table:
    """Rows by class, split and reason."""
    rows = [
        [str(r["class"]), str(r["split"]), str(r["reason"]).replace("_", " "), f"{int(r['rows']):,}",
         percent(float(r["fraction"]))]
        for r in found["reasons"].to_dict("records")
    ]  # fmt: skip
    return Table(["class", "split", "reason", "rows", "of class and split"], rows, 3)


def psf_sources(found: Findings) -> Table:
    """Where each band's PSF width came from: one row a band."""
    table = found["psf_sources"]
    kinds = [str(s) for s in pd.unique(table["source"])]
    rows = []
    for band in found.bands:
        part = table[table["band"] == band].set_index("source")
        rows.append(
            [band, f"{int(part['injections'].sum()):,}",
             *(f"{int(part['injections'][k]):,} ({percent(float(part['fraction'][k]))})" for k in kinds)]
        )  # fmt: skip
    return Table(["band", "injections", *kinds], rows)


def column_coverage(found: Findings) -> Table:
    """Outcome columns that should be there and are not, and the other way round."""
    rows = [
        [str(r["column"]), str(r["band"]),
         *(f"{int(r[c]):,}" for c in ("injections", "missing", "controls", "present"))]
        for r in found["column_coverage"].to_dict("records")
    ]  # fmt: skip
    return Table(
        ["column", "band", "injections with coverage", "missing on", "controls", "present on"],
        rows,
        2,
    )


def strata(found: Findings, table: str = "auc_by_stratum") -> Table:
    """The core AUC in every stratum, or in every subset by quality."""
    head = ["by", "stratum", "pairs", "hosts", "worth hosts", "regions", "AUC", "interval",
            "re-rendered", "excess", "interval", "own model", "within pair", "note"]  # fmt: skip
    names = {
        "theta_e": "θ_E",
        "theta_e_coarse": "θ_E, coarse",
        "core_snr": "S/N in the core",
        "theta_e_over_psf": "θ_E / PSF",
        "depth": "5σ depth [mag]",
        "bad_pixel_frac": "bad pixels",
        "wise_brightmask_frac": "WISE masks",
    }
    rows = [
        [names.get(str(r["family"]), str(r["family"])), stratum(str(r["stratum"])),
         *(f"{int(r[c]):,}" for c in ("pairs", "hosts")), number(r["effective_hosts"], 3),
         f"{int(r['regions']):,}", number(r["auc"], 3), interval((r["auc_lo"], r["auc_hi"])),
         number(r["auc_rerendered"], 3),
         number(r["excess"], 2), interval((r["excess_lo"], r["excess_hi"])), number(r["own_auc"], 3),
         number(r["within_pair"], 3), str(r["note"] or "")]
        for r in found[table].to_dict("records")
    ]  # fmt: skip
    return Table(head, rows, 2)


def quality_sets(found: Findings) -> Table:
    """Rows before and after each quality set."""
    rows = [
        [str(r["set"]), str(r["version"]), str(r["class"]), str(r["split"]), f"{int(r['before']):,}",
         f"{int(r['after']):,}", percent(float(r["fraction"]))]
        for r in found["quality_sets"].to_dict("records")
    ]  # fmt: skip
    return Table(["set", "version", "class", "split", "before", "after", "kept"], rows, 4)


QUANTITIES = {
    "flux": "flux ratio − 1", "shift": "displacement [px]", "shift_x": "displacement in x [px]",
    "shift_y": "displacement in y [px]",
    "shift_with_target": "displacement along the target's sub-pixel part [px]",
    "shift_with_lens": "displacement along the lens's offset [px]", "width": "PSF width ratio − 1",
    "core_pedestal": "constant in the core [sky σ]", "outer_pedestal": "constant far out [sky σ]",
    "leftover": "unexplained light",
}  # fmt: skip


def closure_summary(found: Findings) -> Table:
    """Mean effects of closure by quantity and band."""
    rows = [
        [QUANTITIES.get(str(r["quantity"]), str(r["quantity"])), str(r["band"]), f"{int(r['pairs']):,}",
         number(r["value"], 3), interval((r["lo"], r["hi"]))]
        for r in found["closure_summary"].to_dict("records")
    ]  # fmt: skip
    return Table(["quantity", "band", "pairs", "mean", "interval"], rows, 2)


def zero_dose(found: Findings) -> Table:
    """Intercept and slope of each band."""
    rows = [
        [str(r["band"]), f"{int(r['pairs']):,}", number(r["effective_pairs"], 3), number(r["intercept"], 3),
         interval((r["intercept_lo"], r["intercept_hi"])), number(r["slope"], 5),
         interval((r["slope_lo"], r["slope_hi"]))]
        for r in found["zero_dose"].to_dict("records")
    ]  # fmt: skip
    return Table(
        ["band", "pairs", "effective pairs", "intercept [sky σ]", "interval", "slope", "interval"],
        rows,
    )


def core(found: Findings) -> Table:
    """Core fraction, core excess, centre-to-peak ratio by Einstein radius."""
    rows = [
        [stratum(str(r["stratum"])), str(r["quantity"]).replace("_", " "), f"{int(r['pairs']):,}",
         number(r["value"], 3), interval((r["lo"], r["hi"])), number(r["rerendered"], 3)]
        for r in found["core"].to_dict("records")
    ]  # fmt: skip
    return Table(["θ_E", "quantity", "pairs", "stored", "interval", "re-rendered"], rows, 2)


def slopes(found: Findings) -> Table:
    """Straight lines through the core's light."""
    rows = [
        [ON[str(r["on"])], f"{int(r['pairs']):,}", f"{int(r['regions']):,}", number(r["slope"], 3),
         interval((r["lo"], r["hi"])), number(r["r2"], 2), number(r["slope_rerendered"], 3),
         number(r["r2_rerendered"], 2)]
        for r in found["core_slopes"].to_dict("records")
    ]  # fmt: skip
    head = ["core light [nMgy / pixel] on", "pairs", "regions", "slope", "interval", "R²",
            "slope re-rendered", "R² re-rendered"]  # fmt: skip
    return Table(head, rows)


ON = {"theta_e": "θ_E [arcsec]", "flux": "light of the arc [nMgy]", "snr": "S/N"}


def growth(found: Findings) -> Table:
    """Light and area by Einstein radius, and their rank correlation with it."""
    rows = [
        [stratum(str(r["stratum"])), GROWN[str(r["quantity"])], f"{int(r['pairs']):,}",
         number(r["value"], 3), interval((r["lo"], r["hi"])), number(r["rerendered"], 3)]
        for r in found["growth"].to_dict("records")
    ]  # fmt: skip
    return Table(["θ_E", "quantity", "pairs", "stored", "interval", "re-rendered"], rows, 2)


GROWN = {"flux": "light [nMgy]", "area": "area [arcsec²]"}


def trends(found: Findings) -> str:
    """Rank correlations with the Einstein radius, in a clause."""
    table = found["growth"]
    parts = [
        f"{r['quantity']} {number(r['value'], 2)} {interval((r['lo'], r['hi']))} (re-rendered "
        f"{number(r['rerendered'], 2)})"
        for r in table[table["stratum"] == TREND].to_dict("records")
    ]
    return f"rank correlation with θ_E: {', '.join(parts)}." if parts else "no trend is known."


def magnification(found: Findings) -> Table:
    """Percentiles of recorded and re-rendered magnifications."""
    numbers = ("min", "p5", "p16", "median", "p84", "p95", "max")
    rows = [
        [stratum(str(r["stratum"])), str(r["of"]), f"{int(r['pairs']):,}", f"{int(r['below_one']):,}",
         *(number(r[c], 3) for c in numbers)]
        for r in found["magnification"].to_dict("records")
    ]  # fmt: skip
    head = ["θ_E", "of", "pairs", "below 1", "min", "P5", "P16", "median", "P84", "P95", "max"]
    return Table(head, rows, 2)


def boosted(found: Findings) -> str:
    """What the non-linear reader sees, in a sentence."""
    table = found["leak_map"]
    line = table[table["reader"] == BOOSTED]
    if line.empty:
        return ""
    r = line.iloc[0]
    ends = (r.excess_lo, r.excess_hi)
    between = (
        f" {interval(ends)}" if np.isfinite(ends).all() else ", too few regions for an interval"
    )
    return (
        f"Gradient boosting on profiles, scatter, quadrants and edges reads an AUC of {number(r.auc, 3)} "
        f"(re-rendered {number(r.auc_rerendered, 3)}, excess {number(r.excess, 2)}{between})."
    )


def classes(found: Findings) -> str:
    """Rows and regions behind the metadata test."""
    table = found["selection"]
    if table.empty:
        return "not done"
    r = table.iloc[0]
    return f"{int(r.injections):,} injections, {int(r.controls):,} controls, {int(r.regions):,} regions"


def selection(found: Findings) -> Table:
    """AUC of all metadata together and of each column alone."""
    rows = [
        [str(r["column"]).replace("_", " "), number(r["auc"], 3), interval((r["lo"], r["hi"])),
         number(r["p"], 2)]
        for r in found["selection"].to_dict("records")
    ]  # fmt: skip
    return Table(["column", "AUC", "interval", "p, uncorrected"], rows)


def independence(found: Findings) -> Table:
    """Rank correlation of drawn parameters with the sky."""
    rows = [
        [str(r["parameter"]), str(r["sky"]).replace("_", " "), number(r["correlation"], 2),
         interval((r["lo"], r["hi"])), f"{int(r['rows']):,}", f"{int(r['regions']):,}"]
        for r in found["independence"].to_dict("records")
    ]  # fmt: skip
    return Table(["parameter", "sky", "correlation", "interval", "rows", "regions"], rows, 2)


def psf_outliers(found: Findings) -> Table:
    """PSF widths far from their band's median."""
    rows = [
        [str(r["band"]), str(r["brick"]), str(r["slot"]), number(r["psfsize"], 3), number(r["z"], 2),
         number(r["median"], 3), f"{int(r['outliers_low']):,}", f"{int(r['outliers_high']):,}"]
        for r in found["psf_outliers"].to_dict("records")
    ]  # fmt: skip
    head = ["band", "brick", "slot", "psfsize [arcsec]", "z", "median", "below", "above"]
    return Table(head, rows, 3)


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


def tests(found: Findings) -> Table:
    """Every test with a p-value, the smallest first."""
    table = found["tests"].sort_values("p", kind="stable").head(MOST_TESTS)
    rows = [
        [str(r["test"]).replace("_", " "), str(r["where"]), number(r["value"], 3), f"{r['limit']:g}",
         f"{int(r['n']):,}", number(r["p"], 2), number(r["p_holm"], 2)]
        for r in table.to_dict("records")
    ]  # fmt: skip
    return Table(["test", "where", "effect", "tolerance", "n", "p", "p after Holm"], rows, 2)
