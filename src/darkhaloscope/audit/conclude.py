"""From merged statistics to the verdict and the tables behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits

from darkhaloscope.audit import tables
from darkhaloscope.audit.causes import Cause, shown
from darkhaloscope.audit.closure import Closure, closure
from darkhaloscope.audit.core_gate import MOSTLY_TIED, CoreGate, core_gate
from darkhaloscope.audit.diagnostics import diagnose
from darkhaloscope.audit.examples import example_pairs
from darkhaloscope.audit.gates import (
    closure_gates,
    core_gates,
    coverage_gate,
    dose_gates,
    excess_gate,
    integrity_gate,
    localisation_gate,
    rerendered_gate,
    scatter_gate,
    split_gate,
)
from darkhaloscope.audit.growth import other_magnifications
from darkhaloscope.audit.identity import NOT_UNIQUE, repeated, skies_in_two_splits
from darkhaloscope.audit.intervals import FAMILY_RISK
from darkhaloscope.audit.matched import matched_negatives
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.named import closure_causes
from darkhaloscope.audit.quality import Quality
from darkhaloscope.audit.reasoned import CONSTANTS, reasoned
from darkhaloscope.audit.rerender import OF_IMAGES, Redraw, redraw_plain, unsaid
from darkhaloscope.audit.selection import Selection
from darkhaloscope.audit.singles import of_all, scattered_words, singles
from darkhaloscope.audit.spec import REDRAW, AuditSpec
from darkhaloscope.audit.verdict import BUG, SHORTCUT, Gate, GateLimits, exit_code, judge
from darkhaloscope.audit.wrong_rows import PHOTON_ERRORS, causes_of, wrong_rows
from darkhaloscope.audit.zero_dose import zero_dose

NOT_TESTED = (
    "arc_snr: whether it is that of the pixels (the data set holds no invvar)",
    "PSF impulse test: no arc of a point source is known to be in the set",
)
"""What this audit does not look at, whatever the data."""

OF_PAIRS = ("zero_dose", "zero_dose_points", "profiles", "annulus", "learning_curve")
"""Tables that say nothing where a stamp and the ctrl of its row are not the same sky."""

OF_ARCS = (
    "closure_flux", "closure_centroid", "closure_blur", "residual_pedestal", "closure_residual",
    "arc_localisation", "closure_scatter", "excess_auc", "rerendered", "zero_dose_intercept",
    "zero_dose_slope",
)  # fmt: skip
"""Gates that compare with re-rendered arcs."""

OTHER_SKIES = ("other_target", "stamp_displaced")
"""Causes that leave nothing of ``stamp - ctrl`` to closure."""

LOW_DOSE = 0.1
"""Re-rendered S/N in the core below which a reader should see next to nothing."""


@dataclass(frozen=True)
class AuditResult:
    """The verdict and the tables behind it.

    ``verdict`` is what ``verdict.json`` holds; ``exit_code`` 0, 1 or 3; ``tables`` are DataFrames
    by name, all of plain columns; ``examples`` pairs to look at, as plain arrays.
    """

    verdict: dict[str, Any]
    exit_code: int
    tables: dict[str, pd.DataFrame]
    examples: Arrays


FLUX_OFF = 0.01
"""Relative difference of a recorded magnification from that of the arc drawn again that is worth a word: the
usual limit of closure's flux."""

MOSTLY = 0.5
"""Fraction of pairs whose stamp is exactly its ctrl above which nothing was told apart."""


# One thread: for matrices as small as these, more of them burn ten times the processor's time in waiting.
@threadpool_limits.wrap(limits=1)
def conclude(
    stats: Arrays,
    rerendered: Arrays,
    quality: Quality,
    limits: GateLimits,
    spec: AuditSpec,
    chosen: Selection | None = None,
    redraw: Redraw = redraw_plain,
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
    chosen : Selection, optional
        :func:`~darkhaloscope.audit.selection.selection` of the columns.
    redraw : callable, optional
        :func:`~darkhaloscope.audit.rerender.rerender` as it was called for ``rerendered``; asked for
        other conventions only where closure fails.
    """
    core = core_gate(stats, rerendered, spec)
    closed = closure(stats, rerendered, spec)
    dose, dose_points = zero_dose(stats, rerendered, spec)
    same_skies = skies_in_two_splits(stats, spec.size) if spec.paired else 0
    wrong = wrong_rows(stats, spec, closed.photons)
    gates = [
        *closure_gates(closed, limits),
        # A set that says nothing of splits, or of outcomes, is not asked for them.
        *([] if "region_split" in spec.lacks else [split_gate(quality, stats, same_skies)]),
        *([] if spec.lacks and quality.coverage.empty else [coverage_gate(quality)]),
        localisation_gate(closed, limits),
        integrity_gate(wrong),
        scatter_gate(closed, limits),
        excess_gate(core, limits),
        rerendered_gate(rerendered, limits),
        *core_gates(core, limits),
        *dose_gates(dose, limits),
    ]
    if not spec.redraws:
        gates = [_without_arcs(g, spec) for g in gates]
    more = diagnose(stats, rerendered, closed, chosen, limits, spec)
    doubts = {g.name for g in gates if g.outcome == "fail"} & {
        "closure_scatter",
        "arc_localisation",
    }
    alone = singles(closed, limits.of_causes)
    found = closure_causes(closed, limits.of_causes)
    if alone is not None:
        found = of_all(found, closed, limits.of_causes)
    twins = repeated(stats)
    skies = [c for c in more.causes if c.name in OTHER_SKIES]
    if any(c.name == NOT_UNIQUE for c in twins):
        # Rows are known by their identity: which arc was drawn again for which is not known.
        found, alone = [], None
    elif not skies and not (alone is not None and alone.empty):
        doubtful = bool(doubts) or alone is not None
        found = reasoned(found, doubtful, stats, rerendered, limits.of_causes, spec, redraw)
    if alone is not None and doubts and _scattered(gates) > 2.0 * alone.share:
        alone = None  # the far end of what most arcs do
    explained = any(c.kind == BUG and c.name not in CONSTANTS for c in found)
    causes = [
        *twins,
        *skies,
        *found,
        *causes_of(wrong),
        *([alone.cause()] if alone is not None and not explained else []),
        *_split_leak(quality, same_skies, gates),
        *_other_bugs(closed, quality, gates, explained or alone is not None or bool(twins), limits),
        *_shortcuts(core, limits),
        *_beyond(found, [c for c in more.causes if c not in skies]),
    ]
    order = {BUG: 0, SHORTCUT: 1}
    causes.sort(key=lambda c: order.get(c.kind, 2))
    verdict = judge(
        gates,
        causes,
        limits,
        len(stats["row_hash"]),
        (
            *NOT_TESTED,
            *spec.notes,
            *more.not_tested,
            *_left_out(core, closed, stats, rerendered, spec),
        ),
        _agreement(core, closed),
    )
    result = {
        "auc_by_stratum": core.strata,
        "auc_by_quality": core.quality,
        "quality_sets": quality.sets,
        "learning_curve": core.learning_curve,
        "zero_dose": dose,
        "zero_dose_points": dose_points,
        "closure_pairs": closed.pairs,
        "closure_summary": closed.summary,
        "closure_profile": closed.profile,
        "closure_annulus": closed.annulus,
        "profiles": tables.profiles(stats, spec),
        "annulus": tables.annulus_offsets(stats, spec),
        # Stand-ins for what a set does not say are no columns of it.
        "quality": quality.table[~quality.table["column"].isin(spec.lacks)],
        "column_coverage": quality.coverage,
        "reasons": tables.reasons(stats),
        "psf_sources": tables.psf_sources(stats, spec),
        "footprint": tables.footprint(stats),
        **more.tables,
    }
    if "negative_hash" in stats:
        result["matched_negatives"] = matched_negatives(stats, spec)
    if not spec.paired:
        result = {name: t for name, t in result.items() if name not in OF_PAIRS}
    shown = example_pairs(stats, rerendered, closed, spec)
    return AuditResult(verdict, exit_code(verdict, limits.required), result, shown)


def _without_arcs(gate: Gate, spec: AuditSpec) -> Gate:
    """What a gate that needs re-rendered arcs lacks where no number of pairs would help."""
    if gate.outcome != "not_enough" or gate.name not in OF_ARCS:
        return gate
    lacking = [name for name in REDRAW if name in spec.lacks]
    says = f"arcs drawn again from {', '.join(lacking)}, which the set does not say"
    return replace(
        gate, missing=says if spec.paired else "pairs: the set has two classes of images"
    )


def _split_leak(quality: Quality, same_skies: int, gates: list[Gate]) -> list[Cause]:
    failed = [g for g in gates if g.name == "split_integrity" and g.outcome == "fail"]
    if not failed:
        return []
    text = (
        f"{quality.regions_in_two_splits} of {quality.regions} regions and "
        f"{quality.hosts_in_two_splits} of {quality.hosts} hosts are in more than one split"
    )
    if same_skies:
        text += (
            f"; core pixels of {same_skies} ctrl are exactly those of one in another split, as they are, "
            "mirrored or turned"
        )
    return [Cause("split_leak", failed[0].value, failed[0].interval, text, BUG, 1.0, text)]


def _other_bugs(
    found: Closure, quality: Quality, gates: list[Gate], explained: bool, limits: GateLimits
) -> list[Cause]:
    """Bugs that are not in the light: columns, and arcs that lie elsewhere.

    Arcs that lie elsewhere are a cause of their own only if closure has not named one: a shift puts
    them there too.
    """
    failed = {g.name: g for g in gates if g.outcome == "fail"}
    causes = []
    if "column_coverage" in failed:
        g = failed["column_coverage"]
        bad = quality.coverage[(quality.coverage.missing > 0) | (quality.coverage.present > 0)]
        text = "; ".join(
            f"{_column(line)} is missing on {line.missing} of {line.injections} injections and "
            f"present on {line.present} of {line.controls} controls"
            for line in bad.itertuples()
        )
        causes.append(Cause("column_coverage", g.value, g.interval, text, BUG, 1.0, text))
    if "closure_scatter" in failed and not explained:
        g = failed["closure_scatter"]
        means = ("closure_flux", "closure_centroid", "closure_blur")
        right = all(gate.outcome == "pass" for gate in gates if gate.name in means)
        text = f"{g.value:.1%} of the arcs {scattered_words(found, limits.of_causes, right)}"
        causes.append(Cause("closure_scatter", g.value, g.interval, text, BUG, 1.0, text))
    if "arc_localisation" in failed and not explained:
        g = failed["arc_localisation"]
        shift = float(found.pairs.centroid_shift.mean())
        text = (
            f"{g.value:.1%} of the arcs are not where their parameters put them (centroid off by "
            f"{shift:.2f} px on average)"
        )
        causes.append(Cause("arc_misplaced", g.value, g.interval, text, BUG, 1.0, text))
    return causes


def _scattered(gates: list[Gate]) -> float:
    """Fraction of arcs that are off by themselves, however little."""
    return next(g.value for g in gates if g.name == "closure_scatter")


def _beyond(found: list[Cause], more: list[Cause]) -> list[Cause]:
    """Causes that a bug with a name does not explain: wrong arcs also show in the leak map."""
    named = any(c.kind == BUG and c.name != "unexplained_residual" for c in found)
    return [c for c in more if not (named and c.name == "leak")]


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
    confidence = 1.0 - FAMILY_RISK / max(len(table), 1)
    n = table.regions.to_numpy(float)
    reach = stdtrit(n - 1, 0.5 + confidence / 2) * np.sqrt(n / (n - 1)) * table.excess_se
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


def _left_out(
    core: CoreGate, found: Closure, stats: Arrays, rerendered: Arrays, spec: AuditSpec
) -> list[str]:
    """What could not be looked at in these data."""
    out = [f"core gate: {n} audit rows ({why})" for why, n in core.left_out.items() if n]
    if core.tied > MOSTLY:
        out.append(f"core gate: {core.tied:.0%} of the pairs have the same core in stamp and ctrl")
    out += [f"closure: {n} images ({why})" for why, n in found.left_out.items() if n]
    if found.photons:
        out.append(
            f"flux_column: stamps hold the noise of the arcs' own photons (variance {found.photons:.2g} sky "
            f"sigma times the light), and columns the flux without it: {PHOTON_ERRORS:g} standard errors of "
            f"it are granted, in {len(stats['whole_hash'])} rows kept whole alone"
        )
    if core.tied > MOSTLY_TIED:
        out.append(f"core gate: not a test, {core.tied:.0%} of the pairs tie exactly")
    if not spec.redraws:
        return out
    n = len(stats["row_hash"])
    for name, missing in unsaid({c: stats[f"row_{c}"] for c in OF_IMAGES}).items():
        if rows := int(missing.any(axis=1).sum()):
            by_band = zip(spec.bands, missing.sum(axis=0).tolist(), strict=True)
            where = ", ".join(f"{k} in {band}" for band, k in by_band if k)
            out.append(f"{name}: missing on {rows} of {n} audit rows ({where}), not compared there")
    failed = [str(m) for m in rerendered["message"] if m]
    if failed:
        out.append(f"{len(failed)} audit rows could not be drawn again, the first: {failed[0]}")
    if not (core.strata.family == "core_snr").any() or not (core.strata.hi == LOW_DOSE).any():
        out.append(f"AUC without dose: no re-rendered arc has a core S/N below {LOW_DOSE:g}")
    for band in spec.bands:
        if not len(found.pairs) or not (found.pairs.band == band).any():
            out.append(f"closure in band {band}: no arc to compare")
    return [*out, *other_magnifications(stats, rerendered, FLUX_OFF)]


def _agreement(core: CoreGate, found: Closure) -> str:
    flux, shift, width = (found.estimate(q) for q in ("flux", "shift", "width"))
    if core.overall is None:
        return f"{found.n_pairs} re-rendered arcs agree with what is stored"
    closed = (
        f"{found.n_pairs} arcs drawn again from their parameters agree with what is stored (flux "
        f"{shown(flux.value, '+.3%')}, displacement {shift.value:.4f} px, PSF width "
        f"{shown(width.value, '+.3%')})"
    )
    if core.tied > MOSTLY_TIED:
        return (
            f"{closed}; in the core {core.tied:.0%} of the pairs tie exactly, which is not a test"
        )
    excess, lo, hi = (shown(v, ".4f") for v in core.excess[:3])
    return (
        f"{closed}, and a core AUC of {core.overall.value:.3f} is what such arcs give (excess "
        f"{excess} [{lo}, {hi}])"
    )
