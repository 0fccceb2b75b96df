"""What scores are worth: areas, rates at thresholds that val set, calibration; by what and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import views
from darkhaloscope.audit.intervals import MIN_REGIONS
from darkhaloscope.completeness.axes import BY_NAME
from darkhaloscope.completeness.fraction import Fractions, Scored, Sure, fractions
from darkhaloscope.completeness.recovered import MIN_FALSE_POSITIVES, Threshold, threshold_at
from darkhaloscope.detect.areas import Area, area, region_numbers
from darkhaloscope.detect.calibration import Reliability, reliability
from darkhaloscope.errors import Reason, UserError

Floats = NDArray[np.float64]

STRATA = ("theta_e_over_psf", "arc_snr", "depth")
"""Axes of docs/detect.md; an axis of the sky splits both classes, an axis of the arc the positives alone."""
OF_SKY = ("depth",)

COLUMNS = [
    "quantity", "split", "axis", "stratum", "value", "lo", "hi", "positives", "negatives", "regions",
    "false_positives", "threshold", "note",
]  # fmt: skip

_TARGET = (1 << 32) - 1  # the bits of a slot that name the target in its brick


@dataclass(frozen=True)
class Split:
    """Images of one split: stamps with an arc, and one ctrl a galaxy.

    ``rows`` are rows of the data set, ``region`` numbers that mean the same in both classes.
    """

    name: str
    pos: Floats
    neg: Floats
    pos_row: NDArray[np.int64]
    neg_row: NDArray[np.int64]
    pos_region: NDArray[np.int64]
    neg_region: NDArray[np.int64]
    regions: int

    def area(self, seed: int, pos: Any = slice(None), neg: Any = slice(None)) -> Area:
        """The area of some of the images."""
        return area(
            self.pos[pos],
            self.neg[neg],
            self.pos_region[pos],
            self.neg_region[neg],
            self.regions,
            seed,
        )


@dataclass(frozen=True)
class Evaluation:
    """A table, the calibration on test, and the pieces that gates need."""

    table: pd.DataFrame
    reliability: Reliability
    test: Split
    whole: Area
    thresholds: dict[float, Threshold] = field(default_factory=dict)


def usable_rows(columns: xr.Dataset, quality: str) -> NDArray[np.bool_]:
    """Rows of a quality set that no cut of the experiment marked, (pair,) bool."""
    uncut = columns["reason"].values == Reason.OK
    return np.asarray(views.quality_set(columns, quality) & uncut)


def split_of(scores: pd.DataFrame, name: str, usable: NDArray[np.bool_]) -> Split:
    """The images of a split that count.

    Parameters
    ----------
    scores : DataFrame
        As :func:`darkhaloscope.detect.scores.score_run` makes it.
    name : str
        ``train``, ``val`` or ``test``.
    usable : ndarray of bool (pair,)

    Raises
    ------
    UserError
        There is none of a class.
    """
    here = scores[(scores["region_split"] == name) & np.isfinite(scores["score"])]
    here = here[usable[here["row"].to_numpy()]]
    pos = here[(here["image"] == "stamp") & here["label"]]
    neg = here[here["image"] == "ctrl"]
    # Rows of one target show the same pixels: they are one negative.
    target = neg["slot"].to_numpy(np.int64) & _TARGET
    neg = neg.assign(target=target).drop_duplicates(["brick", "target"])
    for what, found in (("injections", pos), ("images without an arc", neg)):
        if found.empty:
            raise UserError(
                f"the scores have no {what} of the {name} split; score the whole run with dhs score, or "
                "plan more regions"
            )
    (of_pos, of_neg), n = region_numbers(pos["region_id"].to_numpy(), neg["region_id"].to_numpy())
    return Split(
        name,
        pos["score"].to_numpy(float),
        neg["score"].to_numpy(float),
        pos["row"].to_numpy(),
        neg["row"].to_numpy(),
        of_pos,
        of_neg,
        n,
    )


def evaluate(
    scores: pd.DataFrame,
    columns: xr.Dataset,
    *,
    quality: str,
    fprs: tuple[float, ...],
    reference: int,
    seed: int,
) -> Evaluation:
    """Everything that scores alone can say; thresholds are val's, numbers are test's.

    Parameters
    ----------
    scores : DataFrame
        Of all splits.
    columns : Dataset
        The run's columns as stored.
    quality : str
        Rows that count, by their named set.
    fprs : tuple of float
        False-positive rates.
    reference : int
        Number of the reference band.
    seed : int
        Of the resampling.
    """
    usable = usable_rows(columns, quality)
    splits = {name: split_of(scores, name, usable) for name in ("train", "val", "test")}
    test = splits["test"]
    lines = [_area_line(s.area(seed), split=s.name) for s in splits.values()]
    for name in STRATA:
        axis = BY_NAME[name]
        values = axis.value(columns, reference)
        pos, neg = axis.bins(values[test.pos_row]), axis.bins(values[test.neg_row])
        for k, label in enumerate(axis.labels):
            mine = pos == k
            others = neg == k if name in OF_SKY else np.ones(len(neg), dtype=bool)
            if mine.any() and others.any():
                found = test.area(seed, mine, others)
                lines.append(_area_line(found, split="test", axis=name, stratum=label))
    thresholds: dict[float, Threshold] = {}
    for fpr in fprs:
        lines += _rates(splits["val"], test, fpr, seed, thresholds)
    calibration = _reliability(test, seed)
    lines.append(
        {
            "quantity": "calibration_error",
            "split": "test",
            "value": calibration.error,
            "lo": calibration.lo,
            "hi": calibration.hi,
            "positives": len(test.pos),
            "negatives": len(test.neg),
            "regions": test.regions,
        }
    )
    table = pd.DataFrame(lines).reindex(columns=COLUMNS)
    return Evaluation(table, calibration, test, test.area(seed), thresholds)


def _area_line(found: Area, *, split: str, axis: str = "", stratum: str = "all") -> dict[str, Any]:
    lo, hi = found.interval()
    few = found.regions < MIN_REGIONS
    return {
        "quantity": "auroc",
        "split": split,
        "axis": axis,
        "stratum": stratum,
        "value": found.value,
        "lo": lo,
        "hi": hi,
        "positives": found.positives,
        "negatives": found.negatives,
        "regions": found.regions,
        "note": f"{found.regions} regions: no 95 % interval" if few else "",
    }


def _rates(
    val: Split, test: Split, fpr: float, seed: int, thresholds: dict[float, Threshold]
) -> list[dict[str, Any]]:
    """True- and false-positive rate on test above the threshold that val's negatives set."""
    head = {"split": "test", "axis": "", "stratum": f"{fpr:g}", "regions": test.regions}
    head |= {"positives": len(test.pos), "negatives": len(test.neg)}
    quantities = ("tpr", "fpr")
    expected = fpr * len(test.neg)
    try:
        found = threshold_at(val.neg, val.neg_region, fpr, seed)
    except UserError as error:
        return [head | {"quantity": q, "note": f"not_enough: {error}"} for q in quantities]
    note = ""
    if expected < MIN_FALSE_POSITIVES:
        note = (
            f"not_enough: {len(test.neg):,} negatives of test would have {expected:.1f} false positives, and "
            f"a claim needs {MIN_FALSE_POSITIVES}"
        )
    thresholds[fpr] = found
    tpr = _fraction(
        Scored(test.pos, found.value, found.replicates, found.regions), test.pos_region, seed
    )
    back = _fraction(Sure(test.neg > found.value), test.neg_region, seed)
    shared = {"threshold": found.value, "false_positives": int(back.recovered[0])}
    made = []
    for quantity, f in zip(quantities, (tpr, back), strict=True):
        ends = {"value": float(f.value[0]), "lo": float(f.lo[0]), "hi": float(f.hi[0])}
        made.append(head | shared | ends | {"quantity": quantity, "note": note})
    return made


def _fraction(what: Scored | Sure, region: NDArray[np.int64], seed: int) -> Fractions:
    n = len(region)
    return fractions(what, np.zeros(n, np.int64), 1, region, np.arange(n), seed=seed)


def _reliability(test: Split, seed: int) -> Reliability:
    label = np.repeat([True, False], [len(test.pos), len(test.neg)])
    return reliability(
        np.concatenate([test.pos, test.neg]),
        label,
        np.concatenate([test.pos_region, test.neg_region]),
        seed,
    )
