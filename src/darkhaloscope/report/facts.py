"""Tables of the page: numbers made text, so that the template only lays them out."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from darkhaloscope.audit.integrity import CHECKS
from darkhaloscope.report.load import Findings, unit_of
from darkhaloscope.report.style import estimate, number, percent, stratum
from darkhaloscope.report.words import CAUSE_UNITS, COUNTED, GATES, OUTCOMES
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
                *(
                    (number(gate["value"], 3), "–")
                    if name in COUNTED
                    else estimate(gate["value"], *gate["interval"])
                ),
                f"{gate['limit']:g}",
                str(gate["outcome"]),
                OUTCOMES.get(gate["outcome"], str(gate["outcome"])),
                name in found.required,
            )
        )
    return sorted(lines, key=lambda g: not g.required)


def cause_lines(found: Findings) -> list[tuple[str, str, str, str]]:
    """Name, size with its unit, interval and evidence of each cause."""
    lines = []
    for cause in found.verdict["causes"]:
        name = str(cause["name"])
        unit = "rows" if name in CHECKS else CAUSE_UNITS.get(name, "")
        size, ends = estimate(cause["size"], *cause["interval"])
        if name in CHECKS:  # counted
            size, ends = number(cause["size"]), "–"
        lines.append((name, f"{size} {unit}".rstrip(), ends, str(cause["evidence"])))
    return lines


def counts(found: Findings) -> dict[str, str]:
    """Rows by class, failures, regions and audited rows of the whole data set."""
    table = found["footprint"]
    total = {
        c: int(table[c].sum()) if len(table) else 0
        for c in ("pairs", "injections", "controls", "failed")
    }
    audited = f"{int(found.verdict['pairs']):,}"
    if not found.paired:
        lens, other = (_of_class(found, kind) for kind in ("injection", "control"))
        shown = {"lens images": lens, "non-lens images": other, "failed": total["failed"]}
        return {**{k: f"{n:,}" for k, n in shown.items()}, "audited of each class": audited}
    # Where a set says nothing of regions each row stands for one.
    regions = {"square degrees" if found.folded else "regions": f"{len(table):,}"}
    return {
        "rows": f"{total['pairs']:,}",
        "injections": f"{total['injections']:,}",
        "controls": f"{total['controls']:,}",
        "failed": f"{total['failed']:,}",
        **({} if {"region_id", "brick", "ra"} <= found.lacks else regions),
        "audited pairs": audited,
    }


def _of_class(found: Findings, kind: str) -> int:
    """Rows of a class in the whole data set."""
    table = found["quality_sets"]
    line = table[(table["set"] == "all") & (table["class"] == kind) & (table["split"] == "all")]
    return int(line["before"].sum())


def _known_splits(found: Findings, table: pd.DataFrame) -> pd.DataFrame:
    """A table without the lines of single splits, where the set does not say which row is in which."""
    return table[table["split"] == "all"] if "region_split" in found.lacks else table


QUALITY_HEAD = ["column", "band", "unit", "n", "missing", "zeros", "min", "P1", "P5", "P10", "median",
                "P95", "max", "mean"]  # fmt: skip
_DIGITS = {"ra": 7, "dec": 7}
_IDS = ("slot", "partner", "target_id", "host_id")
_PLACE = {
    variable.name: k + (len(ALL_VARIABLES) if variable.name in _IDS else 0)
    for k, variable in enumerate(ALL_VARIABLES)
}
_DESCRIBED = ["min", "p1", "p5", "p10", "median", "p95", "max", "mean"]


def provenance(found: Findings) -> list[tuple[str, str]]:
    """Where an audited set came from, and when and by what it was audited; what is known of it."""
    made, out = found.made, []
    if found.source:
        rows = {k: v for k, v in counts(found).items() if k == "rows" or k.endswith("images")}
        out = [
            ("source", found.source),
            ("mapping", str(found.verdict.get("mapping") or "own names")),
            *rows.items(),
        ]
    if made.get("finished"):
        out.append(("audited", f"{made['finished']} by darkhaloscope {made.get('version', '')}"))
    return out


def quality(found: Findings) -> list[tuple[str, str, Table]]:
    """(class, split, table) of every numeric column, ``all`` first."""
    table = _known_splits(found, found["quality"])
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
        out.append((_plural(found, str(kind)), str(split), Table(QUALITY_HEAD, rows, 3)))
    return out


def _plural(found: Findings, kind: str) -> str:
    """What the rows of a class are called."""
    if found.paired:
        return f"{kind}s"
    return "lens images" if kind == "injection" else "non-lens images"


def reasons(found: Findings) -> Table:
    """Rows by class, split and reason; by what of these the set says."""
    rows, unsaid = [], "region_split" in found.lacks
    for r in found["reasons"].to_dict("records"):
        split = [] if unsaid else [str(r["split"])]
        kind = str(r["class"]) if found.paired else "an image of each class"
        rows.append(
            [kind, *split, str(r["reason"]).replace("_", " "), f"{int(r['rows']):,}",
             percent(float(r["fraction"]))]
        )  # fmt: skip
    if unsaid:
        return Table(["class", "reason", "rows", "of class"], rows, 2)
    return Table(["class", "split", "reason", "rows", "of class and split"], rows, 3)


def psf_sources(found: Findings) -> Table:
    """Where each band's PSF width came from: one row a band; none where the set does not say."""
    table = found["psf_sources"]
    if "psf_source" in found.lacks:
        return Table([], [])
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
         f"{int(r['regions']):,}", *estimate(r["auc"], r["auc_lo"], r["auc_hi"]),
         number(r["auc_rerendered"], 3), *estimate(r["excess"], r["excess_lo"], r["excess_hi"], 2),
         number(r["own_auc"], 3),
         number(r["within_pair"], 3), str(r["note"] or "")]
        for r in found[table].to_dict("records")
    ]  # fmt: skip
    if not found.paired:  # no pair to rank within
        at = head.index("within pair")
        head, rows = head[:at] + head[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
    return Table(head, rows, 2)


def quality_sets(found: Findings) -> Table:
    """Rows before and after each quality set."""
    rows = [
        [str(r["set"]), str(r["version"]), _plural(found, str(r["class"])), str(r["split"]),
         f"{int(r['before']):,}",
         f"{int(r['after']):,}", percent(float(r["fraction"]))]
        for r in _known_splits(found, found["quality_sets"]).to_dict("records")
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
         *estimate(r["value"], r["lo"], r["hi"])]
        for r in found["closure_summary"].to_dict("records")
        if r["pairs"]
    ]  # fmt: skip
    return Table(["quantity", "band", "pairs", "mean", "interval"], rows, 2)


def zero_dose(found: Findings) -> Table:
    """Intercept and slope of each band."""
    rows = [
        [str(r["band"]), f"{int(r['pairs']):,}", number(r["effective_pairs"], 3),
         *estimate(r["intercept"], r["intercept_lo"], r["intercept_hi"]),
         *estimate(r["slope"], r["slope_lo"], r["slope_hi"])]
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
         *estimate(r["value"], r["lo"], r["hi"]), number(r["rerendered"], 3)]
        for r in found["core"].to_dict("records")
    ]  # fmt: skip
    return Table(["θ_E", "quantity", "pairs", "stored", "interval", "re-rendered"], rows, 2)


def slopes(found: Findings) -> Table:
    """Straight lines through the core's light."""
    rows = [
        [ON[str(r["on"])], f"{int(r['pairs']):,}", f"{int(r['regions']):,}",
         *estimate(r["slope"], r["lo"], r["hi"]), number(r["r2"], 2), number(r["slope_rerendered"], 3),
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
         *estimate(r["value"], r["lo"], r["hi"]), number(r["rerendered"], 3)]
        for r in found["growth"].to_dict("records")
    ]  # fmt: skip
    return Table(["θ_E", "quantity", "pairs", "stored", "interval", "re-rendered"], rows, 2)


GROWN = {"flux": "light [nMgy]", "area": "area [arcsec²]"}


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


def selection(found: Findings) -> Table:
    """AUC of all metadata together and of each column alone."""
    rows = [
        [str(r["column"]).replace("_", " "), *estimate(r["auc"], r["lo"], r["hi"]),
         number(r["p"], 2)]
        for r in found["selection"].to_dict("records")
    ]  # fmt: skip
    return Table(["column", "AUC", "interval", "p, uncorrected"], rows)


def independence(found: Findings) -> Table:
    """Rank correlation of drawn parameters with the sky."""
    rows = [
        [str(r["parameter"]), str(r["sky"]).replace("_", " "),
         *estimate(r["correlation"], r["lo"], r["hi"], 2), f"{int(r['rows']):,}", f"{int(r['regions']):,}"]
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


def tests(found: Findings) -> Table:
    """The tests with the smallest p-values, with what each found."""
    rows = [
        [str(r["test"]).replace("_", " "), str(r["where"]), *estimate(r["value"], r["lo"], r["hi"]),
         f"{r['limit']:g}", f"{int(r['n']):,}", number(r["p"], 2), number(r["p_holm"], 2)]
        for r in with_p(found).head(MOST_TESTS).to_dict("records")
    ]  # fmt: skip
    head = ["test", "where", "effect", "interval", "tolerance", "n", "p", "p after Holm"]
    return Table(head, rows, 2)


def with_p(found: Findings) -> pd.DataFrame:
    """Tests that have a p-value, the smallest first."""
    return found["tests"].dropna(subset=["p"]).sort_values("p", kind="stable")


def named_tests(found: Findings) -> str:
    """What the table of tests is called: how many it shows of how many."""
    n = len(with_p(found))
    which = f"the {MOST_TESTS} of {n} with the least p" if n > MOST_TESTS else f"all {n}"
    return f"{which}, corrected together (Holm)"
