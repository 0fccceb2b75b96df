"""What the rules of a study say of its arms: each arm's outcome, the Pareto front, a recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from darkhaloscope.audit.hypotheses import holm
from darkhaloscope.audit.intervals import MIN_REGIONS, below
from darkhaloscope.audit.leak_map import leak_tests
from darkhaloscope.study.arms import REFERENCE, Rules
from darkhaloscope.study.numbers import NO_TEST, Resampled, Result, auc, line_of
from darkhaloscope.study.zones import WHOLE

JUDGE = "profile"
"""The reader whose AUC on plain arcs counts: it sees no less than the linear one, and is no network."""

SIGNIFICANT = 1e-3
"""Holm-corrected p below which a part of the leak map counts, as in the audit."""


@dataclass(frozen=True)
class Judged:
    """What the rules say of one arm: ``pass``, ``fail`` or ``not_enough`` each."""

    arm: str
    rules: dict[str, str]
    note: str = ""

    @property
    def outcome(self) -> str:
        """``fail`` if one fails, else ``not_enough`` if one is open, else ``pass``."""
        found = set(self.rules.values())
        return next(o for o in ("fail", "not_enough", "pass") if o in found)


def judge(arm: str, result: Result, table: pd.DataFrame, rules: Rules) -> Judged:
    """Hold an arm against the rules; an interval that crosses a limit leaves its rule open."""
    core = line_of(table, arm, "core_auc")
    plain = line_of(table, arm, "b", reader=JUDGE, zone=WHOLE)
    small = line_of(table, arm, "small_lost")
    found = {
        "core_auc": _core_rule(core, rules.core_auc),
        "physics_loss": _rule(plain, rules.physics_loss, _lost(plain)),
        "small_lost": _rule(small, rules.small_lost),
        "leak": _leak_rule(result.leak, rules.leak),
    }
    note = "no row of this arm can be read" if core is None else str(core["note"])
    return Judged(arm, found, note)


def _core_rule(core: pd.Series | None, limit: float) -> str:
    """As the audit's gate: cores that are equal by construction are no evidence, and pass nothing."""
    return "not_enough" if core is not None and core["note"] else _rule(core, limit)


def _rule(line: pd.Series | None, limit: float, ends: tuple[float, float] | None = None) -> str:
    """Whether an interval lies below a limit: that of the line's value, or the ``ends`` given."""
    if line is None or line["regions"] < MIN_REGIONS:
        return "not_enough"
    lo, hi = ends or (float(line["lo"]), float(line["hi"]))
    return below(lo, hi, limit)


def _lost(line: pd.Series | None) -> tuple[float, float] | None:
    """The interval of what is lost against ``none``: that of the difference, turned round."""
    return None if line is None else (-line["difference_hi"], -line["difference_lo"])


def _leak_rule(leak: pd.DataFrame, limit: float) -> str:
    """Passed only where every part's interval ends at the limit or below: that no excess was found is no
    evidence that there is none."""
    tests = leak_tests(leak, limit, MIN_REGIONS) if len(leak) else []
    if (holm([t.p for t in tests]) < SIGNIFICANT).any():
        return "fail"
    whole = len(tests) > 0 and len(tests) == len(leak)
    return "pass" if whole and all(t.interval[1] <= limit for t in tests) else "not_enough"


def front_points(table: pd.DataFrame) -> pd.DataFrame:
    """Of each arm the excess core AUC (``x``) and the AUC on plain arcs (``y``), with intervals."""
    rows = []
    for arm in pd.unique(table["arm"]):
        x, y = (
            line_of(table, arm, "excess_core_auc"),
            line_of(table, arm, "b", reader=JUDGE, zone=WHOLE),
        )
        if x is not None and y is not None:
            rows.append(
                (arm, x["value"], x["lo"], x["hi"], y["value"], y["lo"], y["hi"], x["note"])
            )
    return pd.DataFrame(rows, columns=["arm", "x", "x_lo", "x_hi", "y", "y_lo", "y_hi", "note"])


def pareto(table: pd.DataFrame) -> list[str]:
    """Arms that no other beats in both: less excess in the core, more of the plain arcs found.

    Cores that are equal by construction are not a test: such an arm's excess is no merit, and it is left out.
    """
    points = front_points(table).dropna(subset=["x", "y"])
    points = points[points["note"] == ""]
    x, y = points["x"].to_numpy(float), points["y"].to_numpy(float)
    return [
        str(arm)
        for arm, a, b in zip(points["arm"], x, y, strict=True)
        if not (((x <= a) & (y >= b)) & ((x < a) | (y > b))).any()
    ]


def recommend(
    judged: list[Judged], table: pd.DataFrame, results: Mapping[str, Result], common: Resampled
) -> tuple[str | None, str]:
    """The passing arm that finds most plain arcs; of those that do not differ, the file's first."""
    passing = [j.arm for j in judged if j.outcome == "pass"]
    if not passing:
        return None, _no_arm_passes(judged)
    everything = np.ones(len(common.region), dtype=bool)
    found = {
        arm: auc(results[arm].scores, f"b_{JUDGE}_{WHOLE}", everything, common) for arm in passing
    }
    best = max(passing, key=lambda arm: found[arm].value)
    chosen = next(arm for arm in passing if found[best].minus(found[arm]).interval[0] <= 0.0)
    line = line_of(table, chosen, "b", reader=JUDGE, zone=WHOLE)
    core = line_of(table, chosen, "core_auc")
    assert line is not None
    assert core is not None
    head = f"its core AUC is {core['value']:.3f} [{core['lo']:.3f}, {core['hi']:.3f}]"
    if chosen == REFERENCE:
        return chosen, f"No fix is needed: arcs as they are (arm none) pass every rule, {head}."
    return chosen, (
        f"{chosen} is recommended: it passes every rule, {head}, and a reader trained on it finds the plain "
        f"arcs of arm none with an AUC of {line['value']:.3f}, {line['difference']:+.3f} "
        f"[{line['difference_lo']:+.3f}, {line['difference_hi']:+.3f}] against one trained on them."
    )


def _no_arm_passes(judged: list[Judged]) -> str:
    """What is said where there is nothing to recommend: which arms are open, and why."""
    undecided = [j for j in judged if j.outcome == "not_enough"]
    blind = [j.arm for j in undecided if j.note.startswith(NO_TEST)]
    few = [j.arm for j in undecided if j.arm not in blind]
    said = [
        "No arm passes every rule, so no fix is recommended: leave arcs as they are, and report the core AUC "
        "beside that of physics."
    ]
    if few:
        said.append(f"Open, for want of pairs or regions: {', '.join(few)}.")
    if blind:
        said.append(f"Open, since equal cores are not a test: {', '.join(blind)}.")
    return " ".join(said)
