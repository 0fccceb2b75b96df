"""Intervals: resampled pairs, resampled regions, and what they are held against.

Every resampling is drawn from a keyed Philox stream, so that the same data give the same interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

Floats = NDArray[np.float64]
Outcome = Literal["pass", "fail", "not_enough"]

RESAMPLES = 1000
CONFIDENCE = 0.95
FAMILY_RISK = 1e-3
"""Chance that a correct data set is called wrong by any of the tests of one family."""
MIN_REGIONS = 20
"""Fewer regions than this do not make a 95 % interval."""
FEWEST_PAIRS = 20
"""Fewer pairs than this are no evidence, however alike."""
DESCRIBED_REGIONS = 5
"""Fewer regions than this make no interval at all."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; ``n`` counts what was resampled (pairs or regions).

    ``granted`` is how much of it may be an error of what it is held against: more pairs do not lessen it.
    """

    value: float
    lo: float
    hi: float
    n: int
    granted: float = 0.0


def generator(seed: int, stream: int) -> np.random.Generator:
    """A random stream of the audit's own, fixed by the experiment's seed and a stream number."""
    key = np.array([seed & (2**64 - 1), 0xA0D17 + stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@lru_cache(maxsize=4)
def resample_weights(n: int, seed: int, stream: int = 0, resamples: int = RESAMPLES) -> Floats:
    """How often each of ``n`` units is drawn in each bootstrap sample: (resamples, n)."""
    if n == 0:
        return np.zeros((resamples, 0))
    drawn = generator(seed, stream).integers(0, n, size=(resamples, n))
    offset = np.arange(resamples)[:, None] * n
    counts = np.bincount((drawn + offset).ravel(), minlength=resamples * n)
    weights = counts.reshape(resamples, n).astype(float)
    weights.flags.writeable = False
    return weights


def t_interval(
    value: float, replicates: Floats, n: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """``value`` -+ t quantile with n - 1 degrees of freedom times the bootstrap's spread.

    The spread is widened by sqrt(n / (n - 1)), since a bootstrap of n units has the variance of n, not
    of n - 1 (Efron & Tibshirani 1993, sec. 5.3). Missing for fewer than two units.
    """
    good = replicates[np.isfinite(replicates)]
    if n < 2 or len(good) < 2 or not np.isfinite(value):
        return float("nan"), float("nan")
    spread = float(good.std(ddof=1)) * np.sqrt(n / (n - 1))
    reach = float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread
    return value - reach, value + reach


def weighted_mean(
    values: Floats,
    weights: Floats,
    seed: int,
    stream: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Weighted mean over pairs, with an interval from resampled pairs."""
    use = np.isfinite(values) & np.isfinite(weights) & (weights > 0)
    v, w = values[use], weights[use]
    if len(v) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    value = float(v @ w / w.sum())
    counts = resample_weights(len(v), seed, stream)
    total = counts @ w
    replicates = np.divide(
        counts @ (v * w), total, out=np.full(len(total), np.nan), where=total > 0
    )
    return Estimate(value, *t_interval(value, replicates, len(v), confidence), len(v))


def known_mean(values: Floats) -> float:
    """Mean of those values that are numbers; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def effective_number(weights: Floats) -> float:
    """How many equal weights these are worth: (sum w)^2 / sum w^2 (Kish 1965)."""
    total = float((weights**2).sum())
    return float(weights.sum()) ** 2 / total if total > 0 else 0.0


def equivalence(lo: float, hi: float, limit: float) -> Outcome:
    """Is |effect| <= limit? ``pass`` if the interval lies inside, ``fail`` if it lies outside.

    A point null is always rejected in noiseless pixels: what is asked is whether the effect is
    small enough.
    """
    if not (np.isfinite(lo) and np.isfinite(hi)):
        return "not_enough"
    if -limit <= lo and hi <= limit:
        return "pass"
    return "fail" if lo > limit or hi < -limit else "not_enough"


def certain(e: Estimate, limit: float, tests: int, confidence: float) -> bool:
    """Is |effect| above ``limit`` beyond the chance of one of ``tests`` at :data:`FAMILY_RISK` together?

    ``e`` has its interval at ``confidence``, symmetric by Student's t of ``e.n - 1`` degrees of freedom.
    Never of fewer than :data:`FEWEST_PAIRS`.
    """
    if e.n < FEWEST_PAIRS or not (np.isfinite(e.lo) and np.isfinite(e.hi)):
        return False
    ends = [-stdtrit(e.n - 1, risk / 2.0) for risk in (FAMILY_RISK / tests, 1.0 - confidence)]
    return abs(e.value) - e.granted - limit > 0.5 * (e.hi - e.lo) * float(ends[0] / ends[1])


def below(lo: float, hi: float, limit: float) -> Outcome:
    """Is the effect <= limit, in one direction?"""
    if not (np.isfinite(lo) and np.isfinite(hi)):
        return "not_enough"
    return "pass" if hi <= limit else "fail" if lo > limit else "not_enough"


def binomial_interval(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a fraction k of n (Clopper & Pearson 1934, Biometrika 26, 404)."""
    tail = 0.5 * (1.0 - confidence)
    lo = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    hi = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1.0 - tail))
    return lo, hi


# --- areas under the curve --------------------------------------------------------------------------


def auc(pos: Floats, neg: Floats) -> float:
    """P(pos > neg) + P(pos = neg) / 2 over all pairs of scores (Mann & Whitney 1947); NaN if a score is."""
    if len(pos) == 0 or len(neg) == 0 or np.isnan(pos).any() or np.isnan(neg).any():
        return float("nan")
    ordered = np.sort(neg)
    beaten = np.searchsorted(ordered, pos, "left") + np.searchsorted(ordered, pos, "right")
    return float(beaten.sum()) / (2.0 * len(pos) * len(neg))


def within_pair_auc(pos: Floats, neg: Floats) -> float:
    """Fraction of pairs whose stamp scores above its own ctrl, ties counted half; NaN if a score is."""
    if len(pos) == 0 or np.isnan(pos).any() or np.isnan(neg).any():
        return float("nan")
    return float(np.mean((pos > neg) + 0.5 * (pos == neg)))


BLOCK = 64
"""Regions whose wins are counted at a time: many regions need no more memory than these."""


def region_wins(
    pos: Floats,
    neg: Floats,
    region: NDArray[np.int64],
    n_regions: int,
    neg_region: NDArray[np.int64] | None = None,
) -> Floats:
    """Sums of wins between regions: element (r, s) counts pairs of a pos in r above a neg in s.

    With it the AUC of any resampling of regions is a quadratic form, and costs nothing more.
    ``neg_region`` is given where the negatives are not those of the same pairs.
    """
    of_neg = region if neg_region is None else neg_region
    order, rank = np.argsort(region, kind="stable"), np.argsort(neg, kind="stable")
    ends = np.concatenate([[0], np.bincount(region, minlength=n_regions).cumsum()])
    ordered, of_neg = neg[rank], of_neg[rank]
    left, right = (np.searchsorted(ordered, pos[order], side) for side in ("left", "right"))
    wins = np.empty((n_regions, n_regions))
    for start in range(0, n_regions, BLOCK):
        names = np.arange(start, min(start + BLOCK, n_regions))
        # How many negatives of each region are among the lowest k, for every k.
        below = np.zeros((len(neg) + 1, len(names)), dtype=np.int64)
        np.cumsum(of_neg[:, None] == names, axis=0, out=below[1:])
        beaten = np.zeros((len(pos) + 1, len(names)), dtype=np.int64)
        np.cumsum(below[left] + below[right], axis=0, out=beaten[1:])
        wins[:, names] = 0.5 * np.diff(beaten[ends], axis=0)
    return wins


class RegionAuc:
    """The AUC of pairs in regions, its interval, and its bootstrap replicates.

    Parameters
    ----------
    pos, neg : ndarray (pair,)
        Scores of stamps and of their ctrl.
    region : ndarray (pair,)
        Any key of the pairs' regions.
    """

    def __init__(self, pos: Floats, neg: Floats, region: NDArray[Any], seed: int) -> None:
        keys, index = np.unique(region, return_inverse=True)
        self.n_regions = len(keys)
        self.value = auc(pos, neg)
        if self.n_regions < 2 or not np.isfinite(self.value):
            self.replicates = np.full(RESAMPLES, np.nan)
            return
        index = index.reshape(-1).astype(np.int64)
        wins = region_wins(pos, neg, index, self.n_regions)
        size = np.bincount(index, minlength=self.n_regions).astype(float)
        weights = resample_weights(self.n_regions, seed)
        self.replicates = ((weights @ wins) * weights).sum(axis=1) / (weights @ size) ** 2

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Interval of the AUC from resampled regions; missing below five regions."""
        return region_interval(self.value, self.replicates, self.n_regions, confidence)


def region_interval(
    value: float, replicates: Floats, n_regions: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """As :func:`t_interval`; missing below five regions, where a spread means nothing."""
    if n_regions < DESCRIBED_REGIONS:
        return float("nan"), float("nan")
    return t_interval(value, replicates, n_regions, confidence)
