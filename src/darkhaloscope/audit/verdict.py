"""Gates, causes, and the one word that they come to.

Diagnosis and policy are two things: the verdict says what the pixels are, the gates say what an
experiment accepts. A correct data set of small Einstein radii has a core AUC above 0.9, and is
``physics``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from darkhaloscope.audit.causes import Cause, Limits
from darkhaloscope.audit.intervals import MIN_REGIONS, Outcome
from darkhaloscope.variables import REQUIRED_GATES, GateName

SCHEMA = 1
REQUIRED = REQUIRED_GATES
GATES = get_args(GateName)
"""Every gate that an audit reports; an experiment may require any of them."""

OF_COLUMNS = {
    "split_integrity": "region_split",
    "column_coverage": "arc_snr, magnification and fluxes",
}
"""Gates that a set without these columns does not have: unless they are required by name, it is not asked
for them."""

PHYSICS, BUG, SHORTCUT, UNDECIDED = "physics", "bug", "shortcut", "undecided"


@dataclass(frozen=True)
class GateLimits:
    """What an experiment accepts.

    Parameters
    ----------
    closure_flux, closure_blur : float
        Largest relative error of the arcs' flux and of their PSF width.
    closure_centroid : float
        Largest mean displacement in pixels.
    residual_pedestal : float
        Largest constant left in the core or far out, sky sigma a pixel.
    closure_scatter : float
        Largest fraction of pairs whose own flux, width or displacement is outside those limits.
    closure_residual : float
        Largest fraction of the light that scale, shift and width may leave unexplained.
    excess_auc : float
        Tolerance on AUC(observed) - AUC(re-rendered).
    core_auc, core_auc_strict : float
        What the core AUC is reported against, at ``core_auc_pairs`` pairs.
    arc_localisation : float
        Largest fraction of arcs that are not where they should be.
    zero_dose_slope : float
    rerendered : float
        Largest fraction of audit rows that cannot be drawn again.
    closure_pairs, regions : int
        Pairs that closure needs to pass (a fifth are enough to fail), regions that an AUC needs.
    required : tuple of str
        Gates that must pass; what ``physics`` rests on does not depend on them.
    named : bool
        Whether somebody named them: then a set is asked for all of them. Other gates than the usual ones
        always are.

    Raises
    ------
    ValueError
        If a required gate is none that an audit reports.
    """

    closure_flux: float = 0.01
    closure_centroid: float = 0.05
    closure_blur: float = 0.02
    residual_pedestal: float = 1e-3
    closure_scatter: float = 0.05
    closure_residual: float = 0.02
    excess_auc: float = 0.02
    core_auc: float = 0.70
    core_auc_strict: float = 0.65
    core_auc_pairs: int = 1000
    arc_localisation: float = 0.05
    zero_dose_slope: float = 0.01
    rerendered: float = 0.01
    closure_pairs: int = 100
    regions: int = MIN_REGIONS
    required: tuple[str, ...] = REQUIRED
    named: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "required", tuple(self.required))
        object.__setattr__(self, "named", self.named or self.required != REQUIRED)
        for name in self.required:
            if name not in GATES:
                raise ValueError(f"there is no gate {name!r}; the gates are {', '.join(GATES)}")

    @property
    def of_causes(self) -> Limits:
        return Limits(
            self.closure_flux,
            self.closure_centroid,
            self.closure_blur,
            self.residual_pedestal,
            self.closure_residual,
        )


@dataclass(frozen=True)
class Gate:
    """One threshold and what the data say to it.

    ``missing`` says what it would take to decide, ``failed_by`` which of several checks made it fail,
    ``by_noise`` what noise alone makes of the value, where that was asked.
    """

    name: str
    value: float
    interval: tuple[float, float]
    limit: float
    outcome: Outcome
    missing: str = field(default="", compare=False)
    failed_by: str = field(default="", compare=False)
    by_noise: float = field(default=math.nan, compare=False)


def judge(
    gates: Sequence[Gate],
    causes: Sequence[Cause],
    limits: GateLimits,
    pairs: int,
    not_tested: Sequence[str],
    physics: str,
) -> dict[str, Any]:
    """The verdict, as ``verdict.json`` holds it (numbers that are missing are null).

    Precedence: bug, shortcut, undecided, physics. ``physics`` needs the evidence of :data:`REQUIRED`,
    whatever an experiment requires: without enough of it, or of what is required besides, it is undecided.
    A required gate that fails without a cause (policy: the core AUC) does not change the diagnosis, only
    the exit code.

    Parameters
    ----------
    physics : str
        The clause that says what agreed, for a set without fault.
    """
    gates = [*gates, *_not_there(gates, limits)]
    kinds = {c.kind for c in causes}
    evidence = {*REQUIRED, *limits.required, "rerendered"}
    open_gates = [g for g in gates if g.name in evidence and g.outcome == "not_enough"]
    if BUG in kinds:
        verdict = BUG
    elif SHORTCUT in kinds:
        verdict = SHORTCUT
    else:
        verdict = UNDECIDED if open_gates else PHYSICS
    failed = [g for g in gates if g.name in limits.required and g.outcome == "fail"]
    return document(
        verdict, causes, gates, open_gates, failed, physics, pairs, not_tested, "This experiment"
    )


def _not_there(gates: Sequence[Gate], limits: GateLimits) -> list[Gate]:
    """Gates that are asked for and were not computed: no evidence either way."""
    there, unknown = {g.name for g in gates}, float("nan")
    named = limits.required if limits.named else ()
    asked = dict.fromkeys((*named, *(name for name in REQUIRED if name not in OF_COLUMNS)))
    return [
        Gate(
            name,
            unknown,
            (unknown, unknown),
            0.0,
            "not_enough",
            f"{name} needs {OF_COLUMNS.get(name, 'what it is computed from')}, which the set does not say",
        )
        for name in asked
        if name not in there
    ]


def document(
    verdict: str,
    causes: Sequence[Cause],
    gates: Sequence[Gate],
    open_gates: Sequence[Gate],
    failed: Sequence[Gate],
    physics: str,
    pairs: int,
    not_tested: Sequence[str],
    who: str,
) -> dict[str, Any]:
    """``verdict.json`` of a word that is decided, with its sentence.

    Parameters
    ----------
    open_gates, failed : sequence of Gate
        Required gates without enough evidence, and those that failed.
    who : str
        Who requires more, as a sentence begins: ``This experiment``.
    """
    return {
        "schema": SCHEMA,
        "verdict": verdict,
        "sentence": _sentence(verdict, causes, open_gates, failed, physics, pairs, who),
        "causes": [
            {
                "name": c.name,
                "size": _number(c.size),
                "interval": [_number(v) for v in c.interval],
                "evidence": c.evidence,
            }
            for c in causes
        ],
        "gates": [
            {
                "name": g.name,
                "value": _number(g.value),
                "interval": [_number(v) for v in g.interval],
                "limit": g.limit,
                "outcome": g.outcome,
                **({"by_noise": g.by_noise} if math.isfinite(g.by_noise) else {}),
            }
            for g in gates
        ],
        "pairs": int(pairs),
        "not_tested": list(not_tested),
    }


def exit_code(verdict: dict[str, Any], required: Sequence[str] = REQUIRED) -> int:
    """0 nothing wrong, 1 a bug, a shortcut or a required gate that failed, 3 undecided."""
    failed = any(g["outcome"] == "fail" and g["name"] in required for g in verdict["gates"])
    if failed or verdict["verdict"] in (BUG, SHORTCUT):
        return 1
    return 3 if verdict["verdict"] == UNDECIDED else 0


def to_json(verdict: dict[str, Any]) -> str:
    """``verdict.json``: strict JSON, two spaces."""
    return json.dumps(verdict, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _sentence(
    verdict: str,
    causes: Sequence[Cause],
    open_gates: Sequence[Gate],
    failed: Sequence[Gate],
    physics: str,
    pairs: int,
    who: str,
) -> str:
    wrong = [c for c in causes if c.kind in (BUG, SHORTCUT)]
    if wrong:
        first = wrong[0]
        head = "A bug" if first.kind == BUG else "A shortcut"
        more = [c.name for c in wrong[1:]]
        also = f" Also: {', '.join(more)}." if more else ""
        return f"{head}, {first.name}: {first.says}.{also}"
    policy = [f"{g.name} is {g.value:.3g} ({_against(g)})" for g in failed]
    tail = f" {who} requires more: {'; '.join(policy)}." if policy else ""
    if verdict == UNDECIDED and pairs == 0:
        return "Undecided: there is not one injection with pixels to look at; see the reasons."
    if verdict == UNDECIDED:
        missing = "; ".join(dict.fromkeys(g.missing or g.name for g in open_gates))
        return f"Undecided: nothing wrong was found, but what would show it is missing: {missing}.{tail}"
    return f"Physics: {physics}.{tail}"


def _against(gate: Gate) -> str:
    """What a gate failed by, in words."""
    return f"limit {gate.limit:g}" + (f", by {gate.failed_by}" if gate.failed_by else "")
