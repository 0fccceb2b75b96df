"""What is looked at beside gates and closure: leak map, alignment, shapes, groups, metadata."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from darkhaloscope.audit.alignment import (
    ALIGNMENT_COLUMNS,
    SHIFT_COLUMNS,
    alignment,
    alignment_tests,
    target_tests,
)
from darkhaloscope.audit.causes import Cause
from darkhaloscope.audit.classes import (
    control_tests,
    ctrl_looks,
    far_tests,
    lost_tests,
    sky_ratios,
    unseen_sky_sigma,
    wrong_sky_sigma,
)
from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.dose import dose_table
from darkhaloscope.audit.growth import growth_table, magnification_table
from darkhaloscope.audit.hypotheses import judged, without_p
from darkhaloscope.audit.independence import DRAWN
from darkhaloscope.audit.independence import FEWEST as FEWEST_DRAWN
from darkhaloscope.audit.leak_map import leak_map, leak_tests, whole_stamps
from darkhaloscope.audit.looks import Looks
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.one_class import noise_tests
from darkhaloscope.audit.selection import FEWEST, SELECTION_COLUMNS, Selection
from darkhaloscope.audit.shape import (
    CORE_COLUMNS,
    QUADRANT_COLUMNS,
    core_table,
    group_table,
    group_tests,
    impossible_magnification,
    quadrant_table,
)
from darkhaloscope.audit.shape import FEWEST as FEWEST_OF_GROUP
from darkhaloscope.audit.slopes import core_slopes
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.audit.verdict import GateLimits


@dataclass(frozen=True)
class Diagnostics:
    """Tables by name, causes, and what could not be looked at."""

    tables: dict[str, pd.DataFrame]
    causes: list[Cause]
    not_tested: list[str]


def diagnose(
    stats: Arrays,
    rerendered: Arrays,
    closed: Closure,
    chosen: Selection | None,
    limits: GateLimits,
    spec: AuditSpec,
) -> Diagnostics:
    """Run every diagnostic, and correct their tests together.

    Parameters
    ----------
    chosen : Selection or None
        What metadata alone tell; None where nobody looked.
    """
    stamps = whole_stamps(stats, rerendered, spec)
    leak = leak_map(stamps, spec)
    aligned = pd.DataFrame(columns=ALIGNMENT_COLUMNS)
    shifts = pd.DataFrame(columns=SHIFT_COLUMNS)
    core, quadrants = pd.DataFrame(columns=CORE_COLUMNS), pd.DataFrame(columns=QUADRANT_COLUMNS)
    if spec.paired and len(stamps.row):
        aligned, shifts = alignment(stamps, stats, spec)
        core, quadrants = core_table(stamps, stats, spec), quadrant_table(stamps, stats, spec)
    slopes, points = core_slopes(stats, rerendered, spec)
    groups = group_table(closed.pairs, stats, spec)
    if chosen is None:
        chosen = Selection(pd.DataFrame(columns=SELECTION_COLUMNS), np.nan)
    place, ctrl = ctrl_looks(stats, spec)
    ratios = sky_ratios(stats, place, ctrl, spec)
    tests = [
        *noise_tests(stamps, limits.regions),
        *far_tests(stamps, spec, limits.regions),
        *lost_tests(stats, spec, limits.regions),
        *control_tests(stats, ctrl, spec, limits.regions),
        *leak_tests(leak, limits.excess_auc, limits.regions),
        *target_tests(aligned, stamps.region, limits.regions),
        *alignment_tests(aligned, stamps.region, limits.closure_centroid, limits.regions),
        *group_tests(groups, limits),
        *chosen.tests(limits.excess_auc, limits.regions),
    ]
    table, causes = judged(tests)
    # A ctrl that lies elsewhere is nearer to another's by that alone.
    if "stamp_displaced" in {c.name for c in causes}:
        causes = [c for c in causes if c.name != "other_target"]
    # Skies that are not each other's show in every test; the non-linear reader sees noise too, and
    # cannot say that it is noise.
    first = ("other_target", "stamp_displaced", "noise_one_class")
    causes.sort(key=lambda c: first.index(c.name) if c.name in first else len(first))
    return Diagnostics(
        {
            "leak_map": leak,
            "dose": dose_table(stamps, spec),
            "alignment": aligned,
            "shift_sensitivity": shifts,
            "core": core,
            "quadrants": quadrants,
            "core_slopes": slopes,
            "core_points": points,
            "growth": growth_table(stamps, stats, spec),
            "magnification": magnification_table(stats, rerendered, spec),
            "groups": groups,
            "selection": chosen.table,
            "independence": chosen.dependence,
            "psf_outliers": chosen.outliers,
            "tests": table,
        },
        [*impossible_magnification(stats), *wrong_sky_sigma(ratios), *causes],
        [
            *_not_tested(
                {t.name for t in tests},
                len(np.unique(stamps.region)),
                chosen,
                limits,
                spec,
                _few_controls(stats, ctrl, limits.regions),
                groups,
            ),
            *unseen_sky_sigma(ratios),
            *without_p(tests),
        ],
    )


def _not_tested(
    tested: set[str],
    regions: int,
    chosen: Selection,
    limits: GateLimits,
    spec: AuditSpec,
    few_controls: str,
    groups: pd.DataFrame,
) -> list[str]:
    out = [
        "the sky itself: whether galaxies lie at the recorded targets, and have the recorded PSF and bands"
    ]
    why = (
        f"{regions} regions with whole stamps, {limits.regions} needed"
        if spec.redraws
        else "no re-rendered arcs to compare with"
    )
    if not spec.redraws or "leak" not in tested:
        out.append(f"leak map: described only ({why})")
    if "controls_differ" not in tested:
        out.append(f"pixels of controls: {few_controls if spec.paired else 'no pairs'}")
    if "stamp_displaced" not in tested:
        reason = f"{regions} regions, {limits.regions} needed" if spec.paired else "no pairs"
        out.append(f"alignment of stamp and ctrl: {reason}")
    if not {"split_differs", "psf_source_differs"} & tested:
        out.append(
            f"differences between splits and between PSF sources: {_few_groups(groups, spec)}"
        )
    if "selection_shortcut" not in tested:
        out.append(
            chosen.missing or f"metadata: fewer than {limits.regions} regions, described only"
        )
    if "parameters_dependent" not in tested:
        out.append(
            f"independence of lenses and sources from the sky: {_undrawn_apart(chosen, limits, spec)}"
        )
    return out


def _few_controls(stats: Arrays, ctrl: Looks, regions: int) -> str:
    """What the test of controls against the ctrl of injections has too little of."""
    controls, theirs = len(stats["control_region"]), len(np.unique(stats["control_region"]))
    if min(controls, len(ctrl.region)) < FEWEST:
        return f"{controls} controls and {len(ctrl.region)} injections, {FEWEST} of each needed"
    injected = len(np.unique(ctrl.region))
    if min(theirs, injected) < regions:
        return f"controls in {theirs} regions and injections in {injected}, {regions} needed"
    return f"fewer than {FEWEST} of a kind in {regions} regions"


def _few_groups(groups: pd.DataFrame, spec: AuditSpec) -> str:
    """Why closure cannot be compared between groups."""
    if not spec.redraws:
        return "no re-rendered arcs to compare with"
    if groups.groupby("by")["group"].nunique().max() > 1:
        return f"fewer than two groups have {FEWEST_OF_GROUP} pairs in a band"
    return "one group of each" if len(groups) else "no arc to compare"


def _undrawn_apart(chosen: Selection, limits: GateLimits, spec: AuditSpec) -> str:
    """Why no drawn parameter was held against the sky."""
    if not set(DRAWN) - set(spec.lacks):
        return f"the set says none of {', '.join(DRAWN)}"
    if chosen.dependence.empty:
        return f"fewer than {FEWEST_DRAWN} rows that say both, or columns that are constant"
    return f"{int(chosen.dependence['regions'].max())} regions, {limits.regions} needed"
