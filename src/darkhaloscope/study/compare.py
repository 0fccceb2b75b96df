"""From the scores of all arms to one table, a Pareto front, and a recommendation by stated rules.

Every AUC is resampled over the same regions in the same draws, so that two arms' difference has the
interval of a paired comparison, and an arm against itself differs by exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.hypotheses import holm
from darkhaloscope.audit.intervals import (
    MIN_REGIONS,
    region_interval,
    region_wins,
    resample_weights,
)
from darkhaloscope.audit.leak_map import leak_tests
from darkhaloscope.audit.spec import PSF_RATIO_EDGES, interval_labels
from darkhaloscope.audit.tables import region_mean
from darkhaloscope.study.arms import REFERENCE, Rules, Study
from darkhaloscope.study.parts import Arrays
from darkhaloscope.study.readers import READERS
from darkhaloscope.study.zones import WHOLE, ZONES

Floats = NDArray[np.float64]

COLUMNS = [
    "arm", "quantity", "reader", "zone", "stratum", "value", "lo", "hi",
    "difference", "difference_lo", "difference_hi", "pairs", "regions", "note",
]  # fmt: skip
JUDGE = "profile"
"""The reader whose AUC on unfixed arcs counts: it sees no less than the linear one, and is no network."""

ALL = "all"
SIGNIFICANT = 1e-3
"""Holm-corrected p below which a part of the leak map counts, as in the audit."""


@dataclass(frozen=True)
class Result:
    """One arm as its readers saw it: :func:`darkhaloscope.study.readers.arm_scores`."""

    scores: Arrays
    leak: pd.DataFrame


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


@dataclass(frozen=True)
class Conclusion:
    """The table, and what follows from it."""

    table: pd.DataFrame
    judged: list[Judged]
    pareto: list[str]
    recommended: str | None
    sentence: str


@dataclass
class _Lines:
    """Lines of the table as they come, with the replicates that differences need."""

    n_regions: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    reference: dict[tuple[str, str, str, str], tuple[float, Floats]] = field(default_factory=dict)

    def add(
        self,
        arm: str,
        quantity: str,
        value: float,
        replicates: Floats,
        pairs: int,
        *,
        reader: str = "",
        zone: str = "",
        stratum: str = ALL,
        note: str = "",
    ) -> None:
        key = (quantity, reader, zone, stratum)
        if arm == REFERENCE:
            self.reference[key] = value, replicates
        line: dict[str, Any] = {"arm": arm, "quantity": quantity, "reader": reader, "zone": zone}
        line |= {"stratum": stratum, "value": value, "pairs": pairs, "regions": self.n_regions}
        lo, hi = region_interval(value, replicates, self.n_regions)
        if quantity != "excess_core_auc":  # an AUC lies between 0 and 1
            lo, hi = max(lo, 0.0), min(hi, 1.0)
        line["lo"], line["hi"] = lo, hi
        if key in self.reference:
            there, others = self.reference[key]
            gap = value - there
            ends = region_interval(gap, replicates - others, self.n_regions)
            line |= dict(zip(("difference_lo", "difference_hi"), ends, strict=True))
            line["difference"] = gap
        self.lines.append(line | {"note": note})


def compare(results: Mapping[str, Result], study: Study, seed: int) -> Conclusion:
    """Compare the arms of a study, ``none`` first.

    Parameters
    ----------
    results : mapping of str to Result
        By the arms' names; rows of all arms are the same.
    study : Study
    seed : int
        Of the resampling.
    """
    first = results[REFERENCE].scores
    keys, region = np.unique(first["region"], return_inverse=True)
    region = region.reshape(-1).astype(np.int64)
    weights = resample_weights(len(keys), seed)
    ratio = first["theta_e_over_psf"].astype(float)
    bounds = np.digitize(ratio, PSF_RATIO_EDGES)
    strata = {ALL: np.ones(len(ratio), dtype=bool)}
    strata |= {name: bounds == k for k, name in enumerate(interval_labels(PSF_RATIO_EDGES))}
    made = _Lines(len(keys))
    for arm, result in results.items():
        _aucs(made, arm, result.scores, region, weights, strata)
        _light(made, arm, result.scores, region, study)
        _leak(made, arm, result.leak)
    table = pd.DataFrame(made.lines).reindex(columns=COLUMNS)
    judged = [_judge(arm, results[arm], table, study.rules, len(keys)) for arm in results]
    front = _pareto(table)
    chosen, sentence = _recommend(judged, table, results, region, weights)
    return Conclusion(table, judged, front, chosen, sentence)


def _auc(
    scores: Arrays,
    name: str,
    rows: NDArray[np.bool_],
    region: NDArray[np.int64],
    weights: Floats,
) -> tuple[float, Floats, int]:
    """AUC of some rows, its replicates over resampled regions, and how many rows there are."""
    pos, neg = scores[f"{name}_pos"], scores[f"{name}_neg"]
    rows = rows & np.isfinite(pos) & np.isfinite(neg)
    n, count = weights.shape[1], int(rows.sum())
    if count == 0:
        return float("nan"), np.full(len(weights), np.nan), 0
    # The arm's negatives may be other galaxies of the same fold; unfixed arcs lie on their own sky.
    other = region
    if name == "core":
        other = region[np.maximum(scores["negative_row"], 0)]
    wins = region_wins(pos[rows], neg[rows], region[rows], n, other[rows])
    of_pos, of_neg = (np.bincount(r[rows], minlength=n).astype(float) for r in (region, other))
    pairs = (weights @ of_pos) * (weights @ of_neg)
    drawn = ((weights @ wins) * weights).sum(axis=1)
    replicates = np.divide(drawn, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    return float(wins.sum()) / count**2, replicates, count


def _aucs(
    made: _Lines,
    arm: str,
    scores: Arrays,
    region: NDArray[np.int64],
    weights: Floats,
    strata: Mapping[str, NDArray[np.bool_]],
) -> None:
    use = scores["use"]
    for stratum, members in strata.items():
        rows = use & members
        if not rows.any():
            continue
        tied = float(scores["tied"][rows].mean())
        note = f"not a test: {tied:.0%} of the cores tie exactly" if tied > 0.5 else ""
        seen, drawn, n = _auc(scores, "core", rows, region, weights)
        physics, expected, _ = _auc(scores, "physics", rows, region, weights)
        where: dict[str, Any] = {"stratum": stratum, "pairs": n, "note": note}
        made.add(arm, "core_auc", seen, drawn, **where)
        made.add(arm, "physics_core_auc", physics, expected, **where)
        made.add(arm, "excess_core_auc", seen - physics, drawn - expected, **where)
    for reader in READERS:
        for zone in ZONES:
            for letter in ("a", "b"):
                value, drawn, n = _auc(
                    scores, f"{letter}_{reader}_{zone}", strata[ALL], region, weights
                )
                made.add(arm, letter, value, drawn, n, reader=reader, zone=zone)
        for stratum, members in strata.items():
            if stratum != ALL and members.any():
                name = f"b_{reader}_{WHOLE}"
                value, drawn, n = _auc(scores, name, members, region, weights)
                made.add(arm, "b", value, drawn, n, reader=reader, zone=WHOLE, stratum=stratum)


def _light(made: _Lines, arm: str, scores: Arrays, region: NDArray[np.int64], study: Study) -> None:
    """How much of the arcs' light an arm keeps, and which small lenses it loses."""
    kept, before = scores["flux"].sum(axis=1), scores["flux_unfixed"].sum(axis=1)
    rows = scores["use"] & np.isfinite(kept)
    small = scores["theta_e_over_psf"] < study.small_theta_e_over_psf
    lost = ~scores["use"] | ~(kept >= study.lost_below * before)
    every = np.isfinite(before)
    for quantity, top, bottom, members in (
        ("flux_kept", kept, before, rows),
        ("small_lost", lost.astype(float), np.ones(len(lost)), small & every),
    ):
        if not members.any():
            continue
        mean, lo, hi, _ = region_mean(top[members, None], bottom[members, None], region[members])
        if quantity == "small_lost":  # a fraction
            lo, hi = np.maximum(lo, 0.0), np.minimum(hi, 1.0)
        line: dict[str, Any] = {
            "arm": arm,
            "quantity": quantity,
            "stratum": ALL,
            "pairs": int(members.sum()),
        }
        line |= {"value": float(mean[0]), "lo": float(lo[0]), "hi": float(hi[0])}
        made.lines.append(line | {"regions": made.n_regions, "reader": "", "zone": "", "note": ""})


def _leak(made: _Lines, arm: str, leak: pd.DataFrame) -> None:
    """The part of the stamp where an arm's classes differ most beyond unfixed arcs."""
    known = leak.dropna(subset=["excess"])
    if known.empty:
        return
    top = known.iloc[int(np.argmax(known["excess"].to_numpy(float)))]
    line: dict[str, Any] = {"arm": arm, "quantity": "leak_maximum", "reader": str(top["reader"])}
    line |= {"zone": str(top["part"]), "stratum": ALL, "value": float(top["excess"])}
    line |= {"lo": float(top["excess_lo"]), "hi": float(top["excess_hi"])}
    line |= {"pairs": int(top["pairs"]), "regions": int(top["regions"])}
    made.lines.append(line | {"note": ""})


def line_of(table: pd.DataFrame, arm: str, quantity: str, **where: str) -> pd.Series | None:
    """The line of an arm and a quantity over all rows; None where there is none."""
    found = table[(table["arm"] == arm) & (table["quantity"] == quantity)]
    for column, value in {"stratum": ALL, **where}.items():
        found = found[found[column] == value]
    return None if found.empty else found.iloc[0]


def _judge(arm: str, result: Result, table: pd.DataFrame, rules: Rules, n_regions: int) -> Judged:
    """Hold an arm against the rules; an interval that crosses a limit leaves its rule open."""
    core = line_of(table, arm, "core_auc")
    physics = line_of(table, arm, "b", reader=JUDGE, zone=WHOLE)
    small = line_of(table, arm, "small_lost")
    found = {
        "core_auc": _core_rule(core, rules.core_auc),
        "physics_loss": _above(physics, "difference_lo", "difference_hi", -rules.physics_loss),
        "small_lost": _below(small, "lo", "hi", rules.small_lost),
        "leak": "not_enough",
    }
    if len(result.leak):
        tests = leak_tests(result.leak, rules.leak, MIN_REGIONS)
        corrected = holm([t.p for t in tests])
        if tests:
            found["leak"] = "fail" if min(corrected) < SIGNIFICANT else "pass"
    if n_regions < MIN_REGIONS:
        found = dict.fromkeys(found, "not_enough")
    note = "no row of this arm can be read" if core is None else str(core["note"])
    return Judged(arm, found, note)


def _core_rule(core: pd.Series | None, limit: float) -> str:
    """As the audit's gate: cores that are equal by construction are no evidence, and pass nothing."""
    if core is not None and core["note"]:
        return "not_enough"
    return _below(core, "lo", "hi", limit)


def _below(line: pd.Series | None, lo: str, hi: str, limit: float) -> str:
    if line is None or not np.isfinite(float(line["value"])):
        return "not_enough"
    if float(line[hi]) <= limit:
        return "pass"
    return "fail" if float(line[lo]) > limit else "not_enough"


def _above(line: pd.Series | None, lo: str, hi: str, limit: float) -> str:
    if line is None or not np.isfinite(float(line[lo])):
        return "not_enough"
    if float(line[lo]) >= limit:
        return "pass"
    return "fail" if float(line[hi]) < limit else "not_enough"


def front_points(table: pd.DataFrame) -> pd.DataFrame:
    """Of each arm the excess core AUC (``x``) and the AUC on unfixed arcs (``y``), with intervals."""
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


def _pareto(table: pd.DataFrame) -> list[str]:
    """Arms that no other beats in both: less excess in the core, more of the unfixed arcs found.

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


def _recommend(
    judged: list[Judged],
    table: pd.DataFrame,
    results: Mapping[str, Result],
    region: NDArray[np.int64],
    weights: Floats,
) -> tuple[str | None, str]:
    """The passing arm that finds most unfixed arcs; of those that do not differ, the file's first."""
    passing = [j.arm for j in judged if j.outcome == "pass"]
    if not passing:
        open_arms = [j.arm for j in judged if j.outcome == "not_enough"]
        near = f"; open for want of pairs or regions: {', '.join(open_arms)}" if open_arms else ""
        return None, (
            f"No arm passes all rules, so none is recommended: leave arcs as they are, and report the core "
            f"AUC beside that of physics{near}."
        )

    def read(arm: str) -> tuple[float, Floats]:
        scores = results[arm].scores
        everything = np.ones(len(region), dtype=bool)
        value, drawn, _ = _auc(scores, f"b_{JUDGE}_{WHOLE}", everything, region, weights)
        return value, drawn

    found = {arm: read(arm) for arm in passing}
    best = max(passing, key=lambda arm: found[arm][0])
    chosen = best
    for arm in passing:
        gap, spread = found[best][0] - found[arm][0], found[best][1] - found[arm][1]
        lo, _ = region_interval(gap, spread, weights.shape[1])
        if lo <= 0.0:
            chosen = arm
            break
    line = line_of(table, chosen, "b", reader=JUDGE, zone=WHOLE)
    core = line_of(table, chosen, "core_auc")
    assert line is not None
    assert core is not None
    return chosen, (
        f"{chosen} is recommended: it passes every rule, its core AUC is {core['value']:.3f} "
        f"[{core['lo']:.3f}, {core['hi']:.3f}], and a reader trained on it finds unfixed arcs with an "
        f"AUC of {line['value']:.3f}, {line['difference']:+.3f} [{line['difference_lo']:+.3f}, "
        f"{line['difference_hi']:+.3f}] against none."
    )
