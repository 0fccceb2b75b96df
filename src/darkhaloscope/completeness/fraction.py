"""A fraction of clustered rows, bin by bin, with an interval that holds what a binomial one would not.

Rows of a host share its galaxy, rows of a region its PSF, depth and neighbours, so that they are found or
lost together: regions are resampled (a host lies in one region), and each replicate has the threshold of
its own resampled negatives. The spread gives the number of independent rows that the bin is worth, and that
number the interval of Clopper & Pearson (1934): Korn & Graubard (1998, Survey Methodology 24, 193), which
holds near 0 and 1, where a symmetric interval does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

from darkhaloscope.audit.intervals import (
    CONFIDENCE,
    DESCRIBED_REGIONS,
    MIN_REGIONS,
    RESAMPLES,
    binomial_interval,
    effective_number,
    resample_weights,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Literal["clustered", "binomial", "none"]

_MOST = 4_000_000
"""Elements of one table of replicates and rows: what is in memory at once."""


class Sure(NamedTuple):
    """Whether each row is recovered, where no threshold is estimated."""

    found: NDArray[np.bool_]


class Scored(NamedTuple):
    """Scores, the threshold above which a row is recovered, and the threshold's replicates.

    A score that is missing (NaN) is above nothing. ``regions`` are those of the negatives.
    """

    score: Floats
    threshold: float
    replicates: Floats
    regions: int

    @property
    def found(self) -> NDArray[np.bool_]:
        return self.score > self.threshold


@dataclass(frozen=True)
class Fractions:
    """One fraction a bin; all arrays are (bin,), but ``replicates`` (resample, bin).

    Attributes
    ----------
    value, lo, hi : ndarray
        NaN where there is nothing, or no interval.
    rows, hosts, regions : ndarray of int64
    effective : ndarray
        What the weights are worth: (sum w)^2 / sum w^2 (Kish 1965); without weights the rows.
    independent : ndarray
        How many independent rows the interval is of.
    method : tuple of str
        ``clustered``, ``binomial`` (one row a host and no sign of clustering) or ``none``.
    confidence : ndarray
        0.95, or NaN where there are fewer than 20 regions: no interval of so few is called 95 %.
    """

    value: Floats
    lo: Floats
    hi: Floats
    recovered: Ints
    rows: Ints
    hosts: Ints
    regions: Ints
    effective: Floats
    independent: Floats
    method: tuple[Method, ...]
    confidence: Floats
    replicates: Floats


def fractions(
    what: Sure | Scored,
    bin_of: Ints,
    bins: int,
    region: Ints,
    host: Ints,
    *,
    weight: Floats | None = None,
    seed: int = 0,
) -> Fractions:
    """The recovered fraction of the rows of each bin.

    Parameters
    ----------
    what : Sure or Scored
        Which rows are recovered.
    bin_of : ndarray of int64 (row,)
        Below 0: in no bin.
    bins : int
        How many there are.
    region, host : ndarray of int64 (row,)
        Numbers from 0; a host lies in one region.
    weight : ndarray (row,), optional
        Not negative.
    seed : int
        Of the resampling.
    """
    used = bin_of >= 0
    found = what.found
    w = np.ones(len(bin_of)) if weight is None else weight.astype(float)
    top, bottom = (
        np.bincount(bin_of[used], weights=v[used], minlength=bins).astype(float)
        for v in (w * found, w)
    )
    value = np.divide(top, bottom, out=np.full(bins, np.nan), where=bottom > 0)
    replicates = _replicates(what, bin_of, bins, region, w, seed)
    out = _Lines(bins)
    for b in range(bins):
        rows = np.flatnonzero(used & (bin_of == b) & (w > 0))
        out.fill(b, what, rows, value[b], replicates[:, b], region, host, w, weight is not None)
    return out.made(value, replicates)


class _Lines:
    """The bins' numbers as they come."""

    def __init__(self, bins: int) -> None:
        self.lo, self.hi = np.full(bins, np.nan), np.full(bins, np.nan)
        self.counts = np.zeros((4, bins), np.int64)  # recovered, rows, hosts, regions
        self.effective, self.independent = np.zeros(bins), np.zeros(bins)
        self.confidence = np.full(bins, np.nan)
        self.method: list[Method] = ["none"] * bins

    def fill(
        self,
        b: int,
        what: Sure | Scored,
        rows: Ints,
        value: float,
        replicates: Floats,
        region: Ints,
        host: Ints,
        w: Floats,
        weighted: bool,
    ) -> None:
        if not len(rows):
            return
        regions, hosts = len(np.unique(region[rows])), len(np.unique(host[rows]))
        self.counts[:, b] = int(what.found[rows].sum()), len(rows), hosts, regions
        self.effective[b] = worth = effective_number(w[rows])
        one_a_host = hosts == len(rows) and not weighted and isinstance(what, Sure)
        of_hosts = effective_number(np.bincount(host[rows], weights=w[rows]).astype(float))
        fewest = min(regions, what.regions) if isinstance(what, Scored) else regions
        independent = independent_rows(value, replicates, worth, fewest, of_hosts)
        if one_a_host and (fewest < DESCRIBED_REGIONS or independent >= len(rows)):
            self.method[b], independent = "binomial", float(len(rows))
            self.lo[b], self.hi[b] = binomial_interval(int(self.counts[0, b]), len(rows))
        elif fewest >= DESCRIBED_REGIONS:
            self.method[b] = "clustered"
            self.lo[b], self.hi[b] = clopper_pearson(value, independent)
        self.independent[b] = independent
        if fewest >= MIN_REGIONS:
            self.confidence[b] = CONFIDENCE

    def made(self, value: Floats, replicates: Floats) -> Fractions:
        recovered, rows, hosts, regions = self.counts
        return Fractions(
            value, self.lo, self.hi, recovered, rows, hosts, regions, self.effective,
            self.independent, tuple(self.method), self.confidence, replicates,
        )  # fmt: skip


def _replicates(
    what: Sure | Scored, bin_of: Ints, bins: int, region: Ints, w: Floats, seed: int
) -> Floats:
    """The fractions of each resampling of regions, with its own threshold: (resample, bin)."""
    n = int(region.max()) + 1 if len(region) else 0
    drawn = resample_weights(n, seed)
    rows = np.flatnonzero(bin_of >= 0)
    if isinstance(what, Sure):
        always, swing = what.found[rows], np.zeros(0, np.int64)
    else:
        lowest, highest = what.replicates.min(), what.replicates.max()
        score = what.score[rows]
        always = score > highest
        # Only rows between the lowest and the highest threshold are now found and now lost.
        swing = rows[(score > lowest) & ~always]
    cell = region[rows] * bins + bin_of[rows]

    def summed(values: Floats) -> Floats:
        return np.bincount(cell, weights=values, minlength=n * bins).reshape(n, bins).astype(float)

    top, bottom = drawn @ summed(w[rows] * always), drawn @ summed(w[rows])
    step = max(_MOST // RESAMPLES, 1)
    for first in range(0, len(swing), step):
        some = swing[first : first + step]
        assert isinstance(what, Scored)
        above = what.score[some] > what.replicates[:, None]
        into = np.zeros((len(some), bins))
        into[np.arange(len(some)), bin_of[some]] = w[some]
        top += (drawn[:, region[some]] * above) @ into
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def independent_rows(
    value: float, replicates: Floats, worth: float, regions: int, hosts: float
) -> float:
    """How many independent rows would scatter as the replicates do (Korn & Graubard 1998).

    Parameters
    ----------
    value : float
        The fraction.
    replicates : ndarray (resample,)
    worth : float
        Effective number of rows: there are no more.
    regions : int
        Regions of the bin, or of the threshold's negatives where these are fewer.
    hosts : float
        Effective number of hosts. Where all or none are recovered the scatter is 0 and tells nothing:
        then each host counts once.
    """
    good = replicates[np.isfinite(replicates)]
    if regions < 2 or len(good) < 2:
        return min(worth, hosts)
    variance = float(good.var(ddof=1)) * regions / (regions - 1)
    if not 0.0 < value < 1.0:
        return min(worth, hosts)
    if variance == 0.0:
        return worth
    number = value * (1.0 - value) / variance
    # The spread itself is known from few regions only: t with regions - 1 degrees of freedom.
    of_rows, of_regions = (
        float(stdtrit(max(n - 1.0, 1.0), 0.5 + CONFIDENCE / 2)) for n in (worth, regions)
    )
    return float(min(number * (of_rows / of_regions) ** 2, worth))


def clopper_pearson(value: float, number: float) -> tuple[float, float]:
    """The interval of Clopper & Pearson of a fraction of a number that need not be whole."""
    tail = 0.5 * (1.0 - CONFIDENCE)
    k = value * number
    lo = 0.0 if value <= 0.0 else float(betaincinv(k, number - k + 1.0, tail))
    hi = 1.0 if value >= 1.0 else float(betaincinv(k + 1.0, number - k, 1.0 - tail))
    return min(lo, value), max(hi, value)
