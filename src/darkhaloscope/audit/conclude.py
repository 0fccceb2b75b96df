"""From merged statistics to the verdict and the tables behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta as beta_law
from scipy.stats import t as student_t

from darkhaloscope.audit import tables
from darkhaloscope.audit.causes import Cause, closure_causes
from darkhaloscope.audit.closure import Closure, closure
from darkhaloscope.audit.core_gate import CoreGate, core_gate
from darkhaloscope.audit.intervals import CONFIDENCE, Estimate, Outcome, below, equivalence
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.quality import Quality
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.audit.verdict import BUG, SHORTCUT, Gate, GateLimits, exit_code, judge
from darkhaloscope.audit.zero_dose import zero_dose

NOT_TESTED = (
    "metadata: whether columns alone tell injections from controls",
    "leak map: shortcuts outside the central 10x10 pixels, and by a non-linear reader",
    "alignment of stamp and ctrl by phase correlation, sensitivity to shifts, PSF impulse test",
    "differences between splits and between PSF sources",
    "controls: whether they were selected like the injections",
)
"""What this audit does not look at, whatever the data."""

NO_ESTIMATE = Estimate(float("nan"), float("nan"), float("nan"), 0)
CENTROID_OFF = 0.5
QUADRANT_OFF = 0.05
LOW_DOSE = 0.1
"""Re-rendered S/N in the core below which a reader should see next to nothing."""


@dataclass(frozen=True)
class AuditResult:
    """The verdict and the tables behind it.

    ``verdict`` is what ``verdict.json`` holds; ``exit_code`` 0, 1 or 3; ``tables`` are DataFrames
    by name, all of plain columns.
    """

    verdict: dict[str, Any]
    exit_code: int
    tables: dict[str, pd.DataFrame]


def conclude(
    stats: Arrays,
    rerendered: Arrays,
    quality: Quality,
    limits: GateLimits,
    spec: AuditSpec,
) -> AuditResult:
    """Judge a data set.

    Parameters
    ----------
    stats : dict of ndarray
        Merged :func:`~darkhaloscope.audit.measure.measure`.
    rerendered : dict of ndarray
        Joined :func:`~darkhaloscope.audit.rerender.rerender` of its audit rows.
    quality : Quality
    limits : GateLimits
    spec : AuditSpec
    """
    core = core_gate(stats, rerendered, spec)
    closed = closure(stats, rerendered, spec)
    dose, dose_points = zero_dose(stats, rerendered, spec)
    gates = [
        *_closure_gates(closed, limits),
        _split_gate(quality),
        _coverage_gate(quality),
        _localisation_gate(closed, limits),
        _excess_gate(core, limits),
        _rerendered_gate(rerendered, limits),
        *_core_gates(core, limits),
        *_dose_gates(dose, limits),
    ]
    causes = [
        *(found := closure_causes(closed, limits.of_causes)),
        *_other_bugs(closed, quality, gates, any(c.kind == BUG for c in found)),
        *_shortcuts(core, limits),
    ]
    order = {BUG: 0, SHORTCUT: 1}
    causes.sort(key=lambda c: order.get(c.kind, 2))
    verdict = judge(
        gates,
        causes,
        limits,
        len(stats["row_hash"]),
        (*NOT_TESTED, *_left_out(core, closed, rerendered, spec)),
        _agreement(core, closed),
    )
    result = {
        "auc_by_stratum": core.strata,
        "learning_curve": core.learning_curve,
        "zero_dose": dose,
        "zero_dose_points": dose_points,
        "closure_pairs": closed.pairs,
        "closure_summary": closed.summary,
        "closure_profile": closed.profile,
        "closure_annulus": closed.annulus,
        "profiles": tables.profiles(stats, spec),
        "annulus": tables.annulus_offsets(stats, spec),
        "quality": quality.table,
        "column_coverage": quality.coverage,
        "reasons": tables.reasons(stats),
        "psf_sources": tables.psf_sources(stats, spec),
        "footprint": tables.footprint(stats),
    }
    return AuditResult(verdict, exit_code(verdict, limits.required), result)


def _closure_gates(found: Closure, limits: GateLimits) -> list[Gate]:
    """Equivalence of each effect, in the band where it is largest; all bands must pass."""
    wanted = (
        ("closure_flux", ("flux",), limits.closure_flux),
        ("closure_centroid", ("shift",), limits.closure_centroid),
        ("closure_blur", ("width",), limits.closure_blur),
        ("residual_pedestal", ("core_pedestal", "outer_pedestal"), limits.residual_pedestal),
        ("closure_residual", ("leftover",), limits.closure_residual),
    )
    bands = [str(b) for b in pd.unique(found.pairs["band"])] if len(found.pairs) else []
    gates = []
    for name, quantities, limit in wanted:
        estimates = [found.estimate(q, b) for q in quantities for b in bands]
        # A band with few pairs is described; the others decide.
        enough = [e for e in estimates if e.n >= limits.closure_pairs]
        outcomes = [equivalence(e.lo, e.hi, limit) for e in enough]
        outcome: Outcome = "not_enough"
        if "fail" in outcomes:
            outcome = "fail"
        elif outcomes and all(o == "pass" for o in outcomes):
            outcome = "pass"
        # What is shown is the largest effect among those that decided.
        decided = [e for e, o in zip(enough, outcomes, strict=True) if o == outcome]
        worst = max(decided or enough or estimates or [NO_ESTIMATE], key=_size)
        missing = ""
        if outcome == "not_enough":
            have = max((e.n for e in estimates), default=0)
            missing = (
                f"{name} needs {limits.closure_pairs} closure pairs ({have} here)"
                if have < limits.closure_pairs
                else f"{name} needs more closure pairs (or fainter arcs) than {have}: its interval "
                f"[{worst.lo:.3g}, {worst.hi:.3g}] crosses its limit {limit:g}"
            )
        gates.append(Gate(name, worst.value, (worst.lo, worst.hi), limit, outcome, missing))
    return gates


def _size(e: Estimate) -> float:
    return abs(e.value) if np.isfinite(e.value) else -1.0


def _split_gate(quality: Quality) -> Gate:
    leaks = float(quality.regions_in_two_splits + quality.hosts_in_two_splits)
    outcome: Outcome = "not_enough" if quality.rows == 0 else "fail" if leaks else "pass"
    return Gate("split_integrity", leaks, (leaks, leaks), 0.0, outcome, "there are no rows")


def _coverage_gate(quality: Quality) -> Gate:
    table = quality.coverage
    wrong = int(table.missing.sum() + table.present.sum())
    total = int(table.injections.sum() + table.controls.sum())
    value = wrong / total if total else float("nan")
    outcome: Outcome = "fail" if wrong else "pass"
    if int(table.injections.sum()) == 0:
        outcome = "not_enough"
    return Gate(
        "column_coverage",
        value,
        (value, value),
        0.0,
        outcome,
        "there are no injections with coverage",
    )


def _localisation_gate(found: Closure, limits: GateLimits) -> Gate:
    """Fraction of arcs that are elsewhere, with the interval of Clopper & Pearson (1934)."""
    limit = limits.arc_localisation
    table = found.pairs
    n = found.n_pairs
    need = f"arc_localisation needs {limits.closure_pairs} closure pairs ({n} here)"
    if n == 0:
        return Gate("arc_localisation", np.nan, (np.nan, np.nan), limit, "not_enough", need)
    off = (
        (table.centroid_shift > CENTROID_OFF)
        | (table.peak_misplaced > 0)
        | (table.quadrant_difference > QUADRANT_OFF)
    )
    bad = int(off.groupby(table["hash"]).any().sum())
    lo, hi = binomial_interval(bad, n)
    outcome = below(lo, hi, limit) if n >= limits.closure_pairs else "not_enough"
    return Gate("arc_localisation", bad / n, (lo, hi), limit, outcome, need)


def binomial_interval(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a fraction k of n (Clopper & Pearson 1934, Biometrika 26, 404)."""
    tail = 0.5 * (1.0 - confidence)
    lo = 0.0 if k == 0 else float(beta_law.ppf(tail, k, n - k + 1))
    hi = 1.0 if k == n else float(beta_law.ppf(1.0 - tail, k + 1, n - k))
    return lo, hi


def _excess_gate(core: CoreGate, limits: GateLimits) -> Gate:
    value, lo, hi = core.excess
    outcome = below(lo, hi, limits.excess_auc) if core.regions >= limits.regions else "not_enough"
    missing = (
        _regions_missing("excess_auc", core, limits)
        if core.regions < limits.regions
        else f"excess_auc needs more regions than {core.regions}: its interval [{lo:.3f}, {hi:.3f}] "
        f"crosses {limits.excess_auc:g}"
    )
    return Gate("excess_auc", value, (lo, hi), limits.excess_auc, outcome, missing)


def _regions_missing(name: str, core: CoreGate, limits: GateLimits) -> str:
    return f"{limits.regions} regions for the interval of {name} ({core.regions} here)"


def _rerendered_gate(rerendered: Arrays, limits: GateLimits) -> Gate:
    """A row that cannot be drawn again is no evidence; many of them hide anything."""
    n = len(rerendered["message"])
    failed = int((rerendered["message"] != "").sum())
    value = failed / n if n else float("nan")
    outcome: Outcome = "pass" if n and value <= limits.rerendered else "not_enough"
    first = next((str(m) for m in rerendered["message"] if m), "there are none")
    missing = f"{failed} of {n} audit rows could not be drawn again ({first})"
    return Gate("rerendered", value, (value, value), limits.rerendered, outcome, missing)


def _core_gates(core: CoreGate, limits: GateLimits) -> list[Gate]:
    """The core AUC at a fixed number of pairs: it grows with pairs, so fewer can fail but not pass."""
    gates = []
    curve = core.learning_curve
    at = curve[curve.pairs <= limits.core_auc_pairs].tail(1)
    if at.empty:
        at = curve.head(1)
    for name, limit in (
        ("core_auc", limits.core_auc),
        ("core_auc_strict", limits.core_auc_strict),
    ):
        value, lo, hi = (
            float(at[c].iloc[0]) if len(at) else np.nan for c in ("auc", "auc_lo", "auc_hi")
        )
        outcome = below(lo, hi, limit)
        missing = f"{name} needs more regions than {core.regions}"
        if core.tied > 0.5:
            outcome, missing = (
                "not_enough",
                f"{name} is no test: {core.tied:.0%} of pairs tie exactly",
            )
        elif core.regions < limits.regions:
            outcome, missing = "not_enough", _regions_missing(name, core, limits)
        elif outcome == "pass" and core.pairs < limits.core_auc_pairs:
            outcome = "not_enough"
            missing = f"{name} needs {limits.core_auc_pairs} pairs ({core.pairs} here)"
        gates.append(Gate(name, value, (lo, hi), limit, outcome, missing))
    return gates


def _dose_gates(dose: pd.DataFrame, limits: GateLimits) -> list[Gate]:
    gates = []
    for name, column, promised, limit in (
        ("zero_dose_intercept", "intercept", 0.0, limits.residual_pedestal),
        ("zero_dose_slope", "slope", 1.0, limits.zero_dose_slope),
    ):
        lines = dose[dose.pairs >= limits.closure_pairs]
        missing = f"{name} needs {limits.closure_pairs} pairs of low dose in each band"
        if lines.empty:
            gates.append(Gate(name, np.nan, (np.nan, np.nan), limit, "not_enough", missing))
            continue
        outcomes = [
            equivalence(lo - promised, hi - promised, limit)
            for lo, hi in zip(lines[f"{column}_lo"], lines[f"{column}_hi"], strict=True)
        ]
        off = np.nan_to_num(np.abs(lines[column].to_numpy(float) - promised), nan=-1.0)
        worst = lines.iloc[int(np.argmax(off))]
        outcome: Outcome = "pass" if all(o == "pass" for o in outcomes) else "not_enough"
        if "fail" in outcomes:
            outcome = "fail"
        interval = (
            float(worst[f"{column}_lo"]) - promised,
            float(worst[f"{column}_hi"]) - promised,
        )
        gates.append(Gate(name, float(worst[column]) - promised, interval, limit, outcome, missing))
    return gates


def _other_bugs(
    found: Closure, quality: Quality, gates: list[Gate], explained: bool
) -> list[Cause]:
    """Bugs that are not in the light: columns, splits, and arcs that lie elsewhere.

    Arcs that lie elsewhere are a cause of their own only if closure has not named one: a shift puts
    them there too.
    """
    failed = {g.name: g for g in gates if g.outcome == "fail"}
    causes = []
    if "split_integrity" in failed:
        g = failed["split_integrity"]
        text = (
            f"{quality.regions_in_two_splits} of {quality.regions} regions and "
            f"{quality.hosts_in_two_splits} of {quality.hosts} hosts are in more than one split"
        )
        causes.append(Cause("split_leak", g.value, g.interval, text, BUG, 1.0, text))
    if "column_coverage" in failed:
        g = failed["column_coverage"]
        bad = quality.coverage[(quality.coverage.missing > 0) | (quality.coverage.present > 0)]
        text = "; ".join(
            f"{_column(line)} is missing on {line.missing} of {line.injections} injections and "
            f"present on {line.present} of {line.controls} controls"
            for line in bad.itertuples()
        )
        causes.append(Cause("column_coverage", g.value, g.interval, text, BUG, 1.0, text))
    if "arc_localisation" in failed and not explained:
        g = failed["arc_localisation"]
        shift = float(found.pairs.centroid_shift.mean())
        text = (
            f"{g.value:.1%} of the arcs are not where their parameters put them (centroid off by "
            f"{shift:.2f} px on average)"
        )
        causes.append(Cause("arc_misplaced", g.value, g.interval, text, BUG, 1.0, text))
    return causes


def _column(line: Any) -> str:
    return f"{line.column} ({line.band})" if line.band else str(line.column)


def _where(family: object, stratum: object) -> str:
    """A stratum in words."""
    return "all pairs" if family == "all" else f"{family} {stratum}"


def _shortcuts(core: CoreGate, limits: GateLimits) -> list[Cause]:
    """What the reader sees beyond the arcs: over all pairs, in a stratum, or at no dose."""
    if core.strata.empty or core.regions < limits.regions:
        return []
    table = core.strata[core.strata.regions >= limits.regions]
    # One risk, shared by the strata that are looked at.
    confidence = 1.0 - (1.0 - CONFIDENCE) / max(len(table), 1)
    n = table.regions.to_numpy(float)
    reach = student_t.ppf(0.5 + confidence / 2, n - 1) * np.sqrt(n / (n - 1)) * table.excess_se
    lo, hi = table.excess - reach, table.excess + reach
    causes = []
    seen = table[lo > limits.excess_auc]
    if len(seen):
        at = seen.iloc[0 if "all" in set(seen.family) else int(np.argmax(seen.excess))]
        where = "; ".join(
            f"{_where(line.family, line.stratum)}: {line.auc:.3f} against {line.auc_rerendered:.3f}"
            for line in seen.itertuples()
        )
        says = (
            f"in the core, stamp and ctrl are told apart with an AUC of {at.auc:.3f}, where the "
            f"re-rendered arcs give {at.auc_rerendered:.3f} ({_where(at.family, at.stratum)})"
        )
        interval = (float(lo[at.name]), float(hi[at.name]))
        causes.append(
            Cause("core_excess_auc", float(at.excess), interval, where, SHORTCUT, 1.0, says)
        )
    faint = ((table.family == "core_snr") & (table.hi <= LOW_DOSE)).to_numpy()
    for i in np.flatnonzero(faint):
        line = table.iloc[i]
        # Even a dose of 0.1 is something: what the re-rendered arcs give is granted.
        if float(line.auc_lo) > 0.5 + limits.excess_auc and float(lo.iloc[i]) > 0:
            says = f"the AUC is {line.auc:.3f} where the re-rendered arcs have an S/N below {LOW_DOSE:g}"
            interval = (float(line.auc_lo), float(line.auc_hi))
            causes.append(
                Cause("core_auc_without_dose", float(line.auc), interval, says, SHORTCUT, 1.0, says)
            )
    return causes


def _left_out(core: CoreGate, found: Closure, rerendered: Arrays, spec: AuditSpec) -> list[str]:
    """What could not be looked at in these data."""
    out = [f"core gate: {n} audit rows ({why})" for why, n in core.left_out.items() if n]
    out += [f"closure: {n} images ({why})" for why, n in found.left_out.items() if n]
    failed = [str(m) for m in rerendered["message"] if m]
    if failed:
        out.append(f"{len(failed)} audit rows could not be drawn again, the first: {failed[0]}")
    if not (core.strata.family == "core_snr").any() or not (core.strata.hi == LOW_DOSE).any():
        out.append(f"AUC without dose: no re-rendered arc has a core S/N below {LOW_DOSE:g}")
    for band in spec.bands:
        if not len(found.pairs) or not (found.pairs.band == band).any():
            out.append(f"closure in band {band}: no arc to compare")
    return out


def _agreement(core: CoreGate, found: Closure) -> str:
    flux, shift, width = (found.estimate(q) for q in ("flux", "shift", "width"))
    if core.overall is None:
        return f"{found.n_pairs} re-rendered arcs agree with what is stored"
    return (
        f"{found.n_pairs} arcs drawn again from their parameters agree with what is stored (flux "
        f"{flux.value:+.1e}, displacement {shift.value:.1e} px, PSF width {width.value:+.1e}), and "
        f"a core AUC of {core.overall.value:.3f} is what such arcs give (excess "
        f"{core.excess[0]:+.1e} [{core.excess[1]:+.1e}, {core.excess[2]:+.1e}])"
    )
