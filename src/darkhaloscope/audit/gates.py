"""One gate a promise: what the data say to each threshold, and what it would take to decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from darkhaloscope.audit.causes import outcome_of
from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.core_gate import MOSTLY_TIED, UNCOVERED, CoreGate
from darkhaloscope.audit.intervals import (
    FAMILY_RISK,
    Estimate,
    Outcome,
    below,
    binomial_interval,
    equivalence,
)
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.quality import Quality
from darkhaloscope.audit.verdict import Gate, GateLimits
from darkhaloscope.audit.wrong_rows import WrongRows
from darkhaloscope.variables import SPLITS

NO_ESTIMATE = Estimate(float("nan"), float("nan"), float("nan"), 0)
"""Where there is nothing to estimate from."""

CENTROID_OFF = 0.5
"""Pixels: an arc whose centroid is further from where it should be is elsewhere."""

QUADRANT_OFF = 0.05
"""Fraction of an arc's light: more of it in the wrong quadrant, and the arc is elsewhere."""


def closure_gates(found: Closure, limits: GateLimits) -> list[Gate]:
    """Equivalence of each effect, in the band where it is largest; all bands must pass."""
    wanted = (
        ("closure_flux", ("flux",), limits.closure_flux),
        ("closure_centroid", found.displacements, limits.closure_centroid),
        ("closure_blur", ("width",), limits.closure_blur),
        ("residual_pedestal", ("core_pedestal", "outer_pedestal"), limits.residual_pedestal),
        ("closure_residual", ("leftover",), limits.closure_residual),
    )
    bands = [str(b) for b in pd.unique(found.pairs["band"])] if len(found.pairs) else []
    gates = []
    for name, quantities, limit in wanted:
        estimates = [found.estimate(q, b) for q in quantities for b in bands]
        # A band with few pairs is described, unless it is certainly off; the others decide.
        judged = [(e, outcome_of(e, limit, len(bands), limits.closure_pairs)) for e in estimates]
        judged = [(e, o) for e, o in judged if o == "fail" or e.n >= limits.closure_pairs]
        enough, outcomes = [e for e, _ in judged], [o for _, o in judged]
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
                _pairs_missing(have, limits)
                if have < limits.closure_pairs
                else f"{name} needs {_needed(name, worst, limit, have, len(found.noise_pairs) > 0)}: "
                f"its interval [{worst.lo:.3g}, {worst.hi:.3g}] {_undecided(worst, limit)}"
                if np.isfinite(worst.lo)
                else f"{name} needs {'fainter arcs' if name == 'residual_pedestal' else 'more pairs'}: "
                f"too few of {have} pairs can show {limit:g}"
            )
        gates.append(Gate(name, worst.value, (worst.lo, worst.hi), limit, outcome, missing))
    return gates


def _needed(name: str, e: Estimate, limit: float, have: int, noisy: bool) -> str:
    """What would narrow an interval of ``have`` pairs, or lessen what is granted.

    Noise hides faint arcs first, and lengthens what is left over however many pairs there are. Without it
    arcs hide a constant, the less the fainter they are; ratios and displacements are the same at any light.
    """
    less_noise = "stamps with less noise (or finer steps)"
    if noisy:
        leftover = name == "closure_residual"
        return less_noise if leftover else f"more closure pairs than {have}, or {less_noise}"
    if name != "residual_pedestal":
        return f"more closure pairs than {have}"
    # More pairs do not lessen what is granted.
    granted = _beyond(e, limit) and e.granted > 0
    return "fainter arcs" if granted else f"more closure pairs (or fainter arcs) than {have}"


def _beyond(e: Estimate, limit: float) -> bool:
    return e.lo > limit or e.hi < -limit


def _undecided(e: Estimate, limit: float) -> str:
    """Why an interval neither passes nor fails."""
    if not _beyond(e, limit):
        return f"crosses its limit {limit:g}"
    beyond = f"lies beyond its limit {limit:g}"
    if e.granted > 0:
        return f"{beyond}, and {e.granted:.2g} more is granted to what the fit may leave"
    return f"{beyond}, but not by what a risk of {FAMILY_RISK:g} of all tests asks for"


def _pairs_missing(have: int, limits: GateLimits) -> str:
    return f"closure needs {limits.closure_pairs} pairs ({have} here)"


def _size(e: Estimate) -> float:
    return abs(e.value) if np.isfinite(e.value) else -1.0


def split_gate(quality: Quality, stats: Arrays, skies: int = 0) -> Gate:
    """No region, no host and no sky is in two splits; rows near a border are in none, and tell nothing.

    ``skies`` are ctrl of the same pixels that are (:func:`.identity.skies_in_two_splits`).
    """
    leaks = float(quality.regions_in_two_splits + quality.hosts_in_two_splits + skies)
    used = np.arange(len(SPLITS)) != SPLITS.index("guard")
    rows = int(stats["outcomes"].sum(axis=(0, 1))[used].sum())
    outcome: Outcome = "fail" if leaks else "pass" if rows else "not_enough"
    missing = "split_integrity needs rows in train, val or test"
    return Gate("split_integrity", leaks, (leaks, leaks), 0.0, outcome, missing)


def coverage_gate(quality: Quality) -> Gate:
    """Outcome columns are there on every injection with coverage, and on no control."""
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
        "column_coverage needs arc_snr, magnification and fluxes of injections with coverage",
    )


def localisation_gate(found: Closure, limits: GateLimits) -> Gate:
    """Fraction of arcs that are elsewhere, with the interval of Clopper & Pearson (1934)."""

    def elsewhere(table: pd.DataFrame) -> pd.Series[bool]:
        return (
            (table.centroid_shift > CENTROID_OFF)
            | (table.peak_misplaced > 0)
            | (table.quadrant_difference > QUADRANT_OFF)
        )

    return _fraction_gate("arc_localisation", found, limits.arc_localisation, elsewhere, limits)


def _fraction_gate(
    name: str,
    found: Closure,
    limit: float,
    off: Callable[[pd.DataFrame], pd.Series[bool]],
    limits: GateLimits,
) -> Gate:
    """Fraction of pairs with a band that is ``off``; what noise alone puts off is no evidence.

    It passes by its 95 % interval and fails beyond the chance of a family: half of :data:`FAMILY_RISK`,
    which is one tail, for each of the two fractions that are asked for.
    """
    n = found.n_pairs
    need = _pairs_missing(n, limits)
    if n == 0:
        return Gate(name, np.nan, (np.nan, np.nan), limit, "not_enough", need)
    bad = int(off(found.pairs).groupby(found.pairs["hash"]).any().sum())
    lo, hi = binomial_interval(bad, n)
    certainly, _ = binomial_interval(bad, n, 1.0 - FAMILY_RISK)
    if n >= limits.closure_pairs:
        need = (
            f"{name} needs more closure pairs than {n}: its interval [{lo:.3g}, {hi:.3g}] crosses "
            f"{limit:g}"
        )
    share = float("nan")
    if len(found.noise_pairs):
        by_noise = int(off(found.noise_pairs).groupby(found.noise_pairs["hash"]).any().sum())
        drawn = found.noise_pairs["hash"].nunique()
        share = by_noise / drawn
        lo = max(0.0, lo - binomial_interval(by_noise, drawn)[1])
        certainly -= binomial_interval(by_noise, drawn, 1.0 - FAMILY_RISK)[1]
        need = (
            f"{name} needs stamps with less noise: {by_noise} of {drawn} arcs are off by it alone"
        )
    outcome: Outcome = "not_enough"
    if n >= limits.closure_pairs:
        outcome = "pass" if hi <= limit else "fail" if certainly > limit else "not_enough"
    return Gate(name, bad / n, (lo, hi), limit, outcome, need, by_noise=share)


def integrity_gate(wrong: Sequence[WrongRows]) -> Gate:
    """Rows that no correct data set has, of the kind that most rows are; it says which checks failed."""
    worst = max((w.count / w.rows for w in wrong), default=0.0)
    return Gate(
        "row_integrity", worst, (worst, worst), 0.0, "fail" if wrong else "pass",
        failed_by=", ".join(w.name for w in wrong),
    )  # fmt: skip


def scatter_gate(found: Closure, limits: GateLimits) -> Gate:
    """Fraction of pairs that are off by themselves: errors that cancel in the mean are seen here."""

    def scattered(table: pd.DataFrame) -> pd.Series[bool]:
        return (
            ((table.flux_ratio - 1.0).abs() > limits.closure_flux)
            | ((table.width_ratio - 1.0).abs() > limits.closure_blur)
            | (table["shift"] > limits.closure_centroid)
        )

    return _fraction_gate("closure_scatter", found, limits.closure_scatter, scattered, limits)


def excess_gate(core: CoreGate, limits: GateLimits) -> Gate:
    """What the core reader sees beyond the re-rendered arcs, over all pairs."""
    value, lo, hi = core.excess
    outcome = below(lo, hi, limits.excess_auc) if core.regions >= limits.regions else "not_enough"
    missing = (
        _regions_missing("excess_auc", core, limits)
        if core.regions < limits.regions
        else f"excess_auc needs more regions than {core.regions}: its interval [{lo:.3f}, {hi:.3f}] "
        f"crosses {limits.excess_auc:g}"
    )
    if not np.isfinite(value) and core.overall is not None:
        missing = "excess_auc needs re-rendered arcs"
    elif not np.isfinite(value) and core.regions >= limits.regions:
        missing = "excess_auc needs hosts and regions that do not all hang together"
    return Gate("excess_auc", value, (lo, hi), limits.excess_auc, outcome, missing)


def _regions_missing(name: str, core: CoreGate, limits: GateLimits) -> str:
    why = ""
    if rows := core.left_out.get(UNCOVERED, 0):
        why = f"; {rows} audit rows have {UNCOVERED}"
    if core.bare:
        why = f"; no audit row has coverage in band {', '.join(core.bare)}"
    return f"{limits.regions} regions for the interval of {name} ({core.regions} here{why})"


def rerendered_gate(rerendered: Arrays, limits: GateLimits) -> Gate:
    """A row that cannot be drawn again is no evidence; many of them hide anything."""
    n = len(rerendered["message"])
    failed = int((rerendered["message"] != "").sum())
    value = failed / n if n else float("nan")
    outcome: Outcome = "pass" if n and value <= limits.rerendered else "not_enough"
    first = next((str(m) for m in rerendered["message"] if m), "there are none")
    missing = f"{failed} of {n} audit rows could not be drawn again ({first})"
    return Gate("rerendered", value, (value, value), limits.rerendered, outcome, missing)


def core_gates(core: CoreGate, limits: GateLimits) -> list[Gate]:
    """The core AUC at a fixed number of pairs: it grows with pairs, so fewer can fail but not pass.

    Where the learning curve does not hold that number, it fails by the next smaller one and passes by the
    next larger one.
    """
    gates = []
    curve, wanted = core.learning_curve, limits.core_auc_pairs
    more = curve[curve.pairs >= wanted].head(1)
    fewer = curve[curve.pairs <= wanted].tail(1)
    if fewer.empty:
        fewer = more
    for name, limit in (
        ("core_auc", limits.core_auc),
        ("core_auc_strict", limits.core_auc_strict),
    ):
        at_fewer, at_more = _read(fewer, limit), _read(more, limit)
        read, outcome = at_more, at_more[1]
        if at_fewer[1] == "fail" or more.empty:
            read, outcome = at_fewer, at_fewer[1]
        elif outcome == "fail":
            outcome = "not_enough"
        missing = f"{name} needs more regions than {core.regions}"
        if core.tied > MOSTLY_TIED:
            outcome, missing = (
                "not_enough",
                f"{name} is no test: {core.tied:.0%} of pairs tie exactly",
            )
        elif core.regions < limits.regions:
            outcome, missing = "not_enough", _regions_missing(name, core, limits)
        elif outcome == "pass" and more.empty:
            outcome = "not_enough"
            missing = f"{name} needs {wanted} pairs ({core.pairs} here)"
        elif at_more[1] == "fail" and outcome == "not_enough":
            known = f"{int(fewer.pairs.iloc[0])} and {int(more.pairs.iloc[0])}"
            missing = f"{name} is known at {known} pairs, and does not fail at the fewer"
        value, lo, hi = read[0]
        gates.append(Gate(name, value, (lo, hi), limit, outcome, missing))
    return gates


def _read(line: pd.DataFrame, limit: float) -> tuple[tuple[float, float, float], Outcome]:
    """An AUC of the learning curve with its interval, and what it says to a limit; of no line as well."""
    value, lo, hi = (
        float(line[c].iloc[0]) if len(line) else np.nan for c in ("auc", "auc_lo", "auc_hi")
    )
    return (value, lo, hi), below(lo, hi, limit)


def dose_gates(dose: pd.DataFrame, limits: GateLimits) -> list[Gate]:
    """No core light without an arc (intercept 0), and all of an arc's (slope 1), in each band."""
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
