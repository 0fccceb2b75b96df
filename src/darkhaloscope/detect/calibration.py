"""Scores that mean what they say: Platt's line on val, the reliability curve and its error on test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from darkhaloscope.audit.intervals import region_interval, resample_weights

Floats = NDArray[np.float64]

BINS = 10
"""Of equal width in probability."""


def calibrate(
    logit: Floats, label: NDArray[np.bool_], weight: Floats | None = None
) -> tuple[float, float]:
    """Scale and shift that make logits log odds: Platt 1999, with his targets.

    Of a split with as many positives as negatives these are log odds at even odds.

    Parameters
    ----------
    logit : ndarray (image,)
    label : ndarray of bool (image,)
        Of val, never of test.
    weight : ndarray (image,), optional

    Returns
    -------
    scale, shift : float
        ``scale`` is positive: the order of the scores stays. 1 and 0 where a class is missing, or where the
        logits do not rise with the class.
    """
    n_pos, n_neg = int(label.sum()), int((~label).sum())
    if n_pos == 0 or n_neg == 0:
        return 1.0, 0.0
    # Platt's targets, an (n + 1) / (n + 2) for each class, keep the line finite where classes part.
    target = np.where(label, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2))
    w = np.ones(len(logit)) if weight is None else weight.astype(float)
    # Each class counts alike, whatever their numbers.
    w = w / np.where(label, w[label].sum(), w[~label].sum())

    def loss(line: Floats) -> tuple[float, Floats]:
        odds = line[0] * logit + line[1]
        each = np.logaddexp(0.0, odds) - target * odds
        slope = w * (expit(odds) - target)
        return float(w @ each), np.array([slope @ logit, slope.sum()])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS")
    scale, shift = (float(v) for v in found.x)
    return (scale, shift) if np.isfinite(scale) and scale > 1e-6 else (1.0, 0.0)


@dataclass(frozen=True)
class Reliability:
    """How often images of a stated probability are positives.

    Attributes
    ----------
    curve : DataFrame
        A line a bin: ``bin``, ``probability`` (mean), ``fraction`` of positives, ``images``.
    error : float
        Expected calibration error: mean |fraction - probability| over images (Guo et al. 2017, eq. 3).
    lo, hi : float
        Its interval over resampled regions; NaN below five regions. The error of a perfectly calibrated
        detector is not 0: a bin of n images scatters by about 0.4 / sqrt(n).
    """

    curve: pd.DataFrame
    error: float
    lo: float
    hi: float


def reliability(
    odds: Floats, label: NDArray[np.bool_], region: NDArray[np.int64], seed: int
) -> Reliability:
    """The reliability curve of calibrated log odds at even odds, each class weighted to a half.

    Parameters
    ----------
    odds : ndarray (image,)
    label : ndarray of bool (image,)
    region : ndarray of int64 (image,)
        Numbers from 0.
    seed : int
        Of the resampling.
    """
    probability = expit(odds)
    share = np.where(label, 0.5 / max(label.sum(), 1), 0.5 / max((~label).sum(), 1))
    part = np.minimum((probability * BINS).astype(int), BINS - 1)
    n = int(region.max()) + 1 if len(region) else 0

    def by_region(values: Floats) -> Floats:
        sums = np.bincount(region * BINS + part, weights=values, minlength=n * BINS)
        return sums.reshape(n, BINS).astype(float)

    mass, said, true = (by_region(share * v) for v in (1.0, probability, label))
    total = mass.sum(axis=0)
    error = float(np.abs(true.sum(axis=0) - said.sum(axis=0)).sum())
    drawn = resample_weights(n, seed)
    gaps = np.abs(drawn @ (true - said)).sum(axis=1)
    weights = (drawn @ mass).sum(axis=1)
    replicates = np.divide(gaps, weights, out=np.full(len(gaps), np.nan), where=weights > 0)
    lo, hi = region_interval(error, replicates, n)
    there = total > 0
    curve = pd.DataFrame(
        {
            "bin": np.flatnonzero(there),
            "probability": said.sum(axis=0)[there] / total[there],
            "fraction": true.sum(axis=0)[there] / total[there],
            "images": np.bincount(part, minlength=BINS)[there],
        }
    )
    return Reliability(curve, error, max(lo, 0.0), hi)
