"""A detector's gates, and the verdict that they come to: the words and the schema of an audit's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from darkhaloscope.audit.causes import Cause
from darkhaloscope.audit.intervals import MIN_REGIONS, Outcome
from darkhaloscope.audit.verdict import BUG, PHYSICS, SHORTCUT, UNDECIDED, Gate, document
from darkhaloscope.detect.areas import Area, relative_drop
from darkhaloscope.detect.localisation import FEWEST, Localisation
from darkhaloscope.detect.splits import Shared

FAILS_AS = {"split_integrity": BUG, "arc_localisation": SHORTCUT}
"""What a failed gate says of the detector. One that is not here is policy, and decides the exit code alone: a
network of small rings needs the core, since there they are."""


def auroc_gate(name: str, found: Area, limit: float) -> Gate:
    """The area lies above a limit."""
    lo, hi = found.interval()
    missing = _regions_missing(name, found.regions) or (
        f"{name} is {found.value:.3f} [{lo:.3f}, {hi:.3f}] about its limit {limit:g}: more test images"
    )
    return Gate(name, found.value, (lo, hi), limit, found.above(limit), missing)


def below_gate(name: str, found: Area, limit: float) -> Gate:
    """The area lies below a limit."""
    lo, hi = found.interval()
    outcome: Outcome = "not_enough"
    if found.regions >= MIN_REGIONS and np.isfinite(lo):
        outcome = "pass" if hi < limit else "fail" if lo > limit else "not_enough"
    return Gate(
        name, found.value, (lo, hi), limit, outcome, _regions_missing(name, found.regions) or name
    )


def core_mask_gate(whole: Area, masked: Area, limit: float) -> Gate:
    """Hiding the core costs less than a fraction of the area."""
    drop, lo, hi = relative_drop(whole, masked)
    regions = min(whole.regions, masked.regions)
    outcome: Outcome = "not_enough"
    if regions >= MIN_REGIONS and np.isfinite(lo):
        outcome = "pass" if hi < limit else "fail" if lo > limit else "not_enough"
    missing = _regions_missing("core_mask_drop", regions) or (
        f"core_mask_drop is {drop:.3f} [{lo:.3f}, {hi:.3f}] about its limit {limit:g}: more test images"
    )
    return Gate("core_mask_drop", drop, (lo, hi), limit, outcome, missing)


def localisation_gate(found: Localisation, limit: float) -> Gate:
    """The patch that matters most lies on the arc more often than chance, by a margin."""
    missing = _regions_missing("arc_localisation", found.regions)
    if not missing and found.stamps < FEWEST:
        missing = f"arc_localisation needs {FEWEST} test stamps that the network finds ({found.stamps} here)"
    if not missing and found.one_place:
        missing = "the arcs of this set lie so near to one place that looking there is finding them"
    missing = missing or (
        f"arc_localisation is {found.excess:.2f} [{found.lo:.2f}, {found.hi:.2f}] above chance, p "
        f"{found.p:.1g}, about its limit {limit:g}: more stamps"
    )
    return Gate(
        "arc_localisation", found.excess, (found.lo, found.hi), limit, found.outcome(limit), missing
    )


def split_gate(found: Shared) -> Gate:
    """Nothing is shared between splits."""
    total = float(found.total)
    outcome: Outcome = "fail" if total else "pass" if found.compared else "not_enough"
    return Gate(
        "split_integrity", total, (total, total), 0.0, outcome, "there are no rows with pixels"
    )


def _regions_missing(name: str, regions: int) -> str:
    return (
        ""
        if regions >= MIN_REGIONS
        else f"{name} needs {MIN_REGIONS} regions of test ({regions} here)"
    )


def judge(
    gates: Sequence[Gate],
    required: Sequence[str],
    *,
    images: int,
    found: Localisation,
    areas: Mapping[str, Area],
    splits: Shared,
    despite: Mapping[str, Any],
    not_tested: Sequence[str],
) -> dict[str, Any]:
    """``verdict.json`` of a detector.

    ``bug``: the splits share something, so that no number of test means anything. ``shortcut``: it tells
    the classes apart, and not by arcs; or it was trained on data of which an audit said so. ``undecided``: a
    required gate has not enough to go by. ``physics``: none of these; a required gate that fails as
    policy (the area itself) decides the exit code, not the word.

    Parameters
    ----------
    images : int
        Test images behind it.
    areas : mapping
        ``whole``, ``masked``, and ``core_only`` and ``annulus_only`` where they were trained.
    despite : mapping
        The data set's own verdict where it was overruled.
    """
    failed = {g.name: g for g in gates if g.outcome == "fail"}
    causes = []
    if "split_integrity" in failed:
        says = "; ".join(splits.examples[:3])
        causes.append(_cause(failed["split_integrity"], BUG, says, says))
    if despite:
        verdict = str(despite["verdict"])
        says = f"it was trained despite the data set's verdict {verdict}"
        causes.append(
            Cause("trained_despite", 1.0, (1.0, 1.0), str(despite["sentence"]), verdict, 1.0, says)
        )
    if "arc_localisation" in failed:
        says = (
            f"what decides lies on the arc in {found.hits:.0%} of {found.stamps} stamps, and by chance in "
            f"{found.chance:.0%}"
        )
        causes.append(_cause(failed["arc_localisation"], SHORTCUT, says, says))
    kinds = {c.kind for c in causes}
    open_gates = [g for g in gates if g.name in required and g.outcome == "not_enough"]
    word = next((k for k in (BUG, SHORTCUT) if k in kinds), UNDECIDED if open_gates else PHYSICS)
    whole = areas["whole"]
    lo, hi = whole.interval()
    physics = (
        f"it tells stamps from galaxies without an arc with an AUROC of {whole.value:.3f} [{lo:.3f}, "
        f"{hi:.3f}] on {whole.positives:,} and {whole.negatives:,} images of test, and looks at the arcs; "
        f"{_beside(areas)}"
    )
    policy = [
        g for g in gates if g.name in required and g.name in failed and g.name not in FAILS_AS
    ]
    return document(
        word, causes, gates, open_gates, policy, physics, images, not_tested, "This detector's file"
    )


def _cause(gate: Gate, kind: str, says: str, evidence: str) -> Cause:
    return Cause(gate.name, gate.value, gate.interval, evidence, kind, 1.0, says)


def _beside(areas: Mapping[str, Area]) -> str:
    """The networks of the core and of the annulus alone, in words."""
    told = [
        f"{words} {areas[name].value:.3f}"
        for name, words in (
            ("masked", "with the core hidden"),
            ("core_only", "a network of the core alone"),
            ("annulus_only", "a network without the core"),
        )
        if name in areas
    ]
    return f"it is {', '.join(told)}"
