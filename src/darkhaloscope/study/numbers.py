"""The numbers of a study's arms, in one table.

Every number is resampled over the same regions in the same draws, so that two arms' difference has the
interval of a paired comparison, and an arm against itself differs by exactly 0. An interval is of the
regions that its own rows lie in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.intervals import region_interval, region_wins
from darkhaloscope.audit.spec import PSF_RATIO_EDGES, interval_labels
from darkhaloscope.study.arms import REFERENCE, Study
from darkhaloscope.study.parts import Arrays
from darkhaloscope.study.readers import LETTERS, READERS
from darkhaloscope.study.zones import WHOLE, ZONES

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]

COLUMNS = [
    "arm", "quantity", "reader", "zone", "stratum", "value", "lo", "hi",
    "difference", "difference_lo", "difference_hi", "pairs", "hosts", "regions", "note",
]  # fmt: skip
COUNTS = ("pairs", "hosts", "regions")
"""Integers, missing where a number has none."""

ALL = "all"

MOSTLY_TIED = 0.5
"""Of the cores: with more that tie exactly the core AUC is no test, as in the audit's gate."""

NO_TEST = "not a test"
"""How the note of a number begins that could not have come out otherwise."""

AUC_BOUNDS = 0.0, 1.0


@dataclass(frozen=True)
class Result:
    """One arm as its readers saw it: :func:`darkhaloscope.study.readers.arm_scores`."""

    scores: Arrays
    leak: pd.DataFrame


@dataclass(frozen=True)
class Seen:
    """A number of some rows.

    Attributes
    ----------
    value : float
    replicates : ndarray (resample,)
        The same of resampled regions.
    pairs, hosts, regions : int
        Rows that it is made of, and the galaxies and regions that they lie in.
    alike : bool
        All scores are equal: the reader was shown nothing that differs.
    """

    value: float
    replicates: Floats
    pairs: int
    hosts: int
    regions: int
    alike: bool = False

    def minus(self, other: Seen) -> Seen:
        """The paired difference; it lies in no more regions than either."""
        return Seen(
            self.value - other.value,
            self.replicates - other.replicates,
            self.pairs,
            self.hosts,
            min(self.regions, other.regions),
        )

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %, over the regions of its rows; missing below five of them."""
        return region_interval(self.value, self.replicates, self.regions)


@dataclass(frozen=True)
class Resampled:
    """What the rows of all arms have in common: galaxy, region as a number, and the draws of regions."""

    host: NDArray[np.int64]
    region: NDArray[np.int64]
    weights: Floats

    def counts(self, rows: Rows) -> tuple[int, int, int]:
        """Pairs, hosts and regions of some rows."""
        return int(rows.sum()), len(np.unique(self.host[rows])), len(np.unique(self.region[rows]))


@dataclass
class Lines:
    """Lines of the table as they come, with the replicates that differences need."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    reference: dict[tuple[str, str, str, str], Seen] = field(default_factory=dict)

    def add(
        self,
        arm: str,
        quantity: str,
        seen: Seen,
        *,
        reader: str = "",
        zone: str = "",
        stratum: str = ALL,
        note: str = "",
        bounds: tuple[float, float] = (-np.inf, np.inf),
    ) -> None:
        key = (quantity, reader, zone, stratum)
        if arm == REFERENCE:
            self.reference[key] = seen
        line: dict[str, Any] = {"arm": arm, "quantity": quantity, "reader": reader, "zone": zone}
        line |= {"stratum": stratum, "value": seen.value, "note": note}
        line |= {"pairs": seen.pairs, "hosts": seen.hosts, "regions": seen.regions}
        lo, hi = seen.interval
        line["lo"], line["hi"] = np.maximum(lo, bounds[0]), np.minimum(hi, bounds[1])
        if key in self.reference:
            gap = seen.minus(self.reference[key])
            line["difference"] = gap.value
            line |= dict(zip(("difference_lo", "difference_hi"), gap.interval, strict=True))
        self.lines.append(line)


def table_of(results: Mapping[str, Result], study: Study, common: Resampled) -> pd.DataFrame:
    """Every number of every arm, ``none`` first: a line each, with ``COLUMNS``.

    Parameters
    ----------
    results : mapping of str to Result
        By the arms' names; rows of all arms are the same.
    """
    ratio = results[REFERENCE].scores["theta_e_over_psf"].astype(float)
    bounds = np.digitize(ratio, PSF_RATIO_EDGES)
    strata = {ALL: np.ones(len(ratio), dtype=bool)}
    strata |= {name: bounds == k for k, name in enumerate(interval_labels(PSF_RATIO_EDGES))}
    made = Lines()
    for arm, result in results.items():
        _aucs(made, arm, result.scores, common, strata)
        _light(made, arm, result.scores, common, study)
        _leak(made, arm, result.leak)
        _brightness(made, arm, result.scores, common)
    return pd.DataFrame(made.lines).reindex(columns=COLUMNS).astype(dict.fromkeys(COUNTS, "Int64"))


def auc(scores: Arrays, name: str, rows: Rows, common: Resampled) -> Seen:
    """AUC of some rows, with its replicates over resampled regions."""
    pos, neg = scores[f"{name}_pos"], scores[f"{name}_neg"]
    rows = rows & np.isfinite(pos) & np.isfinite(neg)
    weights, n = common.weights, common.weights.shape[1]
    count, hosts, _ = common.counts(rows)
    if count == 0:
        return Seen(float("nan"), np.full(len(weights), np.nan), 0, 0, 0)
    # The arm's negatives may be other galaxies of the same fold; plain arcs lie on their own sky.
    own, other = common.region, common.region[np.maximum(scores["negative_row"], 0)]
    question = name.partition("_")[0]
    of_pos, of_neg = {"core": (own, other), "c": (other, own)}.get(question, (own, own))
    of_pos, of_neg, pos, neg = of_pos[rows], of_neg[rows], pos[rows], neg[rows]
    wins = region_wins(pos, neg, of_pos, n, of_neg)
    in_pos, in_neg = (np.bincount(r, minlength=n).astype(float) for r in (of_pos, of_neg))
    pairs = (weights @ in_pos) * (weights @ in_neg)
    drawn = ((weights @ wins) * weights).sum(axis=1)
    replicates = np.divide(drawn, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    return Seen(
        float(wins.sum()) / count**2,
        replicates,
        count,
        hosts,
        min(len(np.unique(of_pos)), len(np.unique(of_neg))),
        bool(min(pos.min(), neg.min()) == max(pos.max(), neg.max())),
    )


def _aucs(
    made: Lines, arm: str, scores: Arrays, common: Resampled, strata: Mapping[str, Rows]
) -> None:
    use = scores["use"]
    for stratum, members in strata.items():
        rows = use & members
        if not rows.any():
            continue
        tied = float(scores["tied"][rows].mean())
        note = f"{NO_TEST}: {tied:.0%} of the cores tie exactly" if tied > MOSTLY_TIED else ""
        seen = auc(scores, "core", rows, common)
        physics = auc(scores, "physics", rows, common)
        where: dict[str, Any] = {"stratum": stratum, "note": note}
        made.add(arm, "core_auc", seen, bounds=AUC_BOUNDS, **where)
        made.add(arm, "physics_core_auc", physics, bounds=AUC_BOUNDS, stratum=stratum)
        made.add(arm, "excess_core_auc", seen.minus(physics), **where)
    for reader in READERS:
        for zone in ZONES:
            for letter in LETTERS:
                seen = auc(scores, f"{letter}_{reader}_{zone}", strata[ALL], common)
                _told(made, arm, letter, seen, reader, zone, ALL)
        for stratum, members in strata.items():
            if stratum != ALL and members.any():
                seen = auc(scores, f"b_{reader}_{WHOLE}", members, common)
                _told(made, arm, "b", seen, reader, WHOLE, stratum)


def _told(
    made: Lines, arm: str, letter: str, seen: Seen, reader: str, zone: str, stratum: str
) -> None:
    """A reader's AUC; where all its scores are equal the two classes were, and 0.5 is no measurement."""
    note = f"{NO_TEST}: the classes are equal by construction" if seen.alike else ""
    made.add(
        arm, letter, seen, reader=reader, zone=zone, stratum=stratum, note=note, bounds=AUC_BOUNDS
    )


def _light(made: Lines, arm: str, scores: Arrays, common: Resampled, study: Study) -> None:
    """How much light an arm has beside ``none``, and which small lenses it loses."""
    kept, before = scores["flux"].sum(axis=1), scores["flux_plain"].sum(axis=1)
    small = scores["theta_e_over_psf"] < study.small_theta_e_over_psf
    lost = ~scores["use"] | ~(kept >= study.lost_below * before)
    rows = scores["use"] & np.isfinite(kept) & np.isfinite(before)
    if rows.any():
        made.add(arm, "flux_kept", _ratio(kept, before, rows, common), bounds=(0.0, np.inf))
    rows = small & np.isfinite(before)
    if rows.any():
        share = _ratio(lost.astype(float), np.ones(len(lost)), rows, common)
        made.add(arm, "small_lost", share, bounds=AUC_BOUNDS)


def _ratio(top: Floats, bottom: Floats, rows: Rows, common: Resampled) -> Seen:
    """Ratio of sums over some rows."""
    weights, n = common.weights, common.weights.shape[1]
    over, under = (
        np.bincount(common.region[rows], weights=v[rows], minlength=n) for v in (top, bottom)
    )
    below_line = weights @ under
    replicates = np.divide(
        weights @ over, below_line, out=np.full(len(weights), np.nan), where=below_line > 0
    )
    return Seen(float(over.sum() / under.sum()), replicates, *common.counts(rows))


def _leak(made: Lines, arm: str, leak: pd.DataFrame) -> None:
    """The part of the stamp where an arm's classes differ most beyond its own physics."""
    known = leak.dropna(subset=["excess"])
    if known.empty:
        return
    top = known.iloc[int(np.argmax(known["excess"].to_numpy(float)))]
    line: dict[str, Any] = {"arm": arm, "quantity": "leak_maximum", "reader": str(top["reader"])}
    line |= {"zone": str(top["part"]), "stratum": ALL, "value": float(top["excess"])}
    line |= {"lo": float(top["excess_lo"]), "hi": float(top["excess_hi"])}
    line |= {"pairs": int(top["pairs"]), "regions": int(top["regions"])}
    highest = float(known["excess_hi"].max())
    note = f"the highest upper end of all parts is {highest:.3f}" if np.isfinite(highest) else ""
    made.lines.append(line | {"note": note})


def _brightness(made: Lines, arm: str, scores: Arrays, common: Resampled) -> None:
    """How much brighter stamps are in the core: physics than plain ctrl, the arm's than its negatives."""
    pairs, hosts, regions = common.counts(scores["use"])
    for zone, value in zip(("ctrl", "negatives"), scores["brightness_gap"], strict=True):
        line: dict[str, Any] = {
            "arm": arm,
            "quantity": "brightness_gap",
            "reader": "",
            "zone": zone,
        }
        line |= {"stratum": ALL, "value": float(value), "note": ""}
        made.lines.append(line | {"pairs": pairs, "hosts": hosts, "regions": regions})


def line_of(table: pd.DataFrame, arm: str, quantity: str, **where: str) -> pd.Series | None:
    """The line of an arm and a quantity over all rows; None where there is none."""
    found = table[(table["arm"] == arm) & (table["quantity"] == quantity)]
    for column, value in {"stratum": ALL, **where}.items():
        found = found[found[column] == value]
    return None if found.empty else found.iloc[0]
