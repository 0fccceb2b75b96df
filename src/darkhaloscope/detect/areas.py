"""Areas under the ROC curve of images in regions, their resampling, and differences between networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from darkhaloscope.audit.intervals import (
    MIN_REGIONS,
    Outcome,
    auc,
    region_interval,
    region_wins,
    resample_weights,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_REGIONS = 500
"""More regions are put together by a hash: an interval of 500 units is no worse, and the table of wins is
as large as their number squared."""


@dataclass(frozen=True)
class Area:
    """P(positive > negative), its bootstrap replicates over regions, and what it rests on."""

    value: float
    replicates: Floats
    positives: int
    negatives: int
    regions: int

    def interval(self) -> tuple[float, float]:
        """95 % over regions, within [0, 1]; NaN below five regions."""
        lo, hi = region_interval(self.value, self.replicates, self.regions)
        return max(lo, 0.0) if lo == lo else lo, min(hi, 1.0) if hi == hi else hi

    def above(self, limit: float) -> Outcome:
        """Whether it lies above a limit: as a whole interval, of 20 regions at least."""
        return lies_above(*self.interval(), limit, self.regions)


def lies_above(lo: float, hi: float, limit: float, regions: int) -> Outcome:
    """``pass`` if the whole interval lies above, ``fail`` if below; fewer than 20 regions decide nothing."""
    if regions < MIN_REGIONS or not (np.isfinite(lo) and np.isfinite(hi)):
        return "not_enough"
    return "pass" if lo > limit else "fail" if hi < limit else "not_enough"


def region_numbers(*names: NDArray[Any]) -> tuple[list[Ints], int]:
    """Regions of several sets of images as numbers from 0 that mean the same in all, and how many."""
    keys = np.unique(np.concatenate([n.astype(str) for n in names]))
    if len(keys) > MOST_REGIONS:
        bucket = np.array([xxhash.xxh64_intdigest(k.encode()) % MOST_REGIONS for k in keys])
    else:
        bucket = np.arange(len(keys))
    found = [bucket[np.searchsorted(keys, n.astype(str))].astype(np.int64) for n in names]
    return found, int(bucket.max()) + 1 if len(keys) else 0


def area(
    pos: Floats, neg: Floats, pos_region: Ints, neg_region: Ints, n_regions: int, seed: int
) -> Area:
    """The area of positives against negatives.

    Parameters
    ----------
    pos, neg : ndarray (image,)
        Scores.
    pos_region, neg_region : ndarray of int64
        Numbers below ``n_regions``, which mean the same in both: with the same ``n_regions`` and ``seed``
        two areas are resampled alike, and their replicates can be subtracted.
    """
    here = len(np.union1d(pos_region, neg_region))
    value = auc(pos, neg)
    if here < 2 or not np.isfinite(value):
        return Area(
            value, np.full(len(resample_weights(1, seed)), np.nan), len(pos), len(neg), here
        )
    weights = resample_weights(n_regions, seed)
    wins = region_wins(pos, neg, pos_region, n_regions, neg_region)
    sizes = [
        weights @ np.bincount(r, minlength=n_regions).astype(float)
        for r in (pos_region, neg_region)
    ]
    pairs = sizes[0] * sizes[1]
    drawn = ((weights @ wins) * weights).sum(axis=1)
    replicates = np.divide(drawn, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    return Area(value, replicates, len(pos), len(neg), here)


def difference(first: Area, second: Area) -> tuple[float, float, float]:
    """first - second with the interval of a paired comparison; both resampled alike."""
    gap = first.value - second.value
    n = min(first.regions, second.regions)
    return gap, *region_interval(gap, first.replicates - second.replicates, n)


def relative_drop(whole: Area, less: Area) -> tuple[float, float, float]:
    """1 - less / whole with its interval; both resampled alike."""
    drop = 1.0 - less.value / whole.value
    n = min(whole.regions, less.regions)
    return drop, *region_interval(drop, 1.0 - less.replicates / whole.replicates, n)
