"""A second look at the same sky, for options A and C: its noise law, and the gate on what it gives away.

A network that is shown an image beside the very pixels that it was made from needs no arc: without one
the difference is exactly 0, with one the arc's faint wings reach everywhere. So both images get noise of
their own, ``first = image + n1`` and ``second = ctrl + n2``, whatever the class. Then ``first - second``
is ``arc + n1 - n2`` or ``n1 - n2``: of one law wherever there is no arc.

The law of ``noised``: n1 and n2 are white Gaussians of mean 0, drawn for every image anew, whose standard
deviation is ``noise`` times the pixel's own (``1 / sqrt(invvar)`` where the data set has it, else the row's
``sky_sigma`` in that band), 0 where a band has no data. What a coadd's noise has beside that (correlated
pixels, the photons of the arc) is in neither class.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from darkhaloscope.errors import UserError

Images = NDArray[np.float32]

FAINT = 1e-3
"""Where the arc is fainter than this, in units of the noise, there is none."""
LIMIT = 0.06
"""A statistic whose AUC can lie beyond 0.5 -+ this separates the classes."""
CONFIDENCE = 0.95
"""Of all statistics together (Bonferroni)."""
COMPARISONS = 4096
"""Pairs of draws that a gate takes: an interval of this many is -+ 0.025 wide."""
RESOLUTION = 0.1
"""Of a statistic, in standard deviations among negatives; a shift of this much is an AUC of 0.53."""
FEWEST_ROWS = 10
"""Rows below which there is no interval."""
FEWEST_PIXELS = 32
"""Pixels without arc below which an image says nothing."""
SEPARABILITY_COLUMNS = ["test", "auc", "lo", "hi", "comparisons", "rows"]


class Looks(NamedTuple):
    """Both looks at some images, (image, band, y, x), nMgy."""

    first: Images
    second: Images


def noise_sigma(
    sky_sigma: NDArray[np.floating[Any]],
    invvar: NDArray[np.floating[Any]] | None,
    empty: NDArray[np.bool_],
) -> Images:
    """Standard deviation of each pixel's own noise, (image, band, y, x), nMgy; 0 without data.

    Parameters
    ----------
    sky_sigma : ndarray (image, band)
        nMgy; taken where ``invvar`` is not given.
    invvar : ndarray (image, band, y, x) or None
        1 / nMgy^2.
    empty : ndarray of bool (image, band, y, x)
        Pixels without data.
    """
    if invvar is None:
        sigma = np.broadcast_to(np.nan_to_num(sky_sigma)[:, :, None, None], empty.shape)
    else:
        sigma = np.divide(1.0, np.sqrt(invvar), out=np.zeros(invvar.shape), where=invvar > 0)
    return np.where(empty, 0.0, sigma).astype(np.float32)


def noised(images: Images, ctrl: Images, sigma: Images, rng: np.random.Generator) -> Looks:
    """Both looks, each with noise of its own: ``sigma`` is what is added, nMgy."""
    first = images + sigma * rng.standard_normal(images.shape, dtype=np.float32)
    second = ctrl + sigma * rng.standard_normal(ctrl.shape, dtype=np.float32)
    return Looks(first, second)


def channels(option: str, looks: Looks) -> Images:
    """What option ``a`` (both looks, (image, 2 band, y, x)) or ``c`` (first minus second) shows."""
    if option == "a":
        return np.concatenate([looks.first, looks.second], axis=1)
    return looks.first - looks.second


def readable(arc: Images, sigma: Images) -> NDArray[np.bool_]:
    """Whether each band of an image has pixels enough for its :func:`statistics`, (image, band).

    It depends on arc and data alone, not on the noise that is drawn.
    """
    return np.asarray(_arc_free(arc, sigma).sum((2, 3)) >= FEWEST_PIXELS)


def _arc_free(arc: Images, sigma: Images) -> NDArray[np.bool_]:
    """Pixels that have data and no arc."""
    return np.asarray((np.abs(arc) < FAINT * sigma) & (sigma > 0))


def statistics(
    looks: Looks, arc: Images, sigma: Images, bands: tuple[str, ...]
) -> dict[str, NDArray[np.float64]]:
    """Numbers of each pair of looks where there is no arc, by name, (image,).

    Of ``first - second``, and of each look alone, over the pixels that have data and no arc; missing where
    an image has too few of them.

    Parameters
    ----------
    looks : Looks
    arc : ndarray (image, band, y, x)
        Light of the row's arc, nMgy, whether it is in the looks or not.
    sigma : ndarray (image, band, y, x)
        Noise of a pixel, nMgy; 0 without data.
    bands : tuple of str
    """
    found: dict[str, NDArray[np.float64]] = {}
    free = _arc_free(arc, sigma)
    for b, band in enumerate(bands):
        of_band = _statistics(looks.first[:, b], looks.second[:, b], free[:, b], sigma[:, b])
        found |= {f"{name}, {band}": values for name, values in of_band.items()}
    return found


def separability(
    positive: dict[str, NDArray[np.float64]],
    negative: dict[str, NDArray[np.float64]],
    row: NDArray[np.int64],
) -> pd.DataFrame:
    """Whether the classes can be told within a pair where there is no arc: :data:`SEPARABILITY_COLUMNS`.

    The AUC is how often the positive has more of a statistic than the negative of the same row. What
    differs by less than :data:`RESOLUTION` of the spread among negatives counts as equal, and equal as
    half: the wings of an arc on the very same sky move every number a little, and a network, which is
    shown one image at a time, knows a number only within that spread.

    Parameters
    ----------
    positive, negative : dict
        As :func:`statistics`, of the same rows in the same order.
    row : ndarray (image,)
        Row of each; it may come several times, with other noise. Intervals are over rows.
    """
    lines = []
    for name, mine in positive.items():
        seen = np.isfinite(mine) & np.isfinite(negative[name])
        more = (mine - negative[name])[seen]
        least = RESOLUTION * float(negative[name][seen].std()) if seen.any() else 0.0
        wins = (more > least) + 0.5 * (np.abs(more) <= least)
        lines.append((name, *_interval(wins, row[seen], len(positive))))
    table = pd.DataFrame(lines, columns=SEPARABILITY_COLUMNS)
    far = (table["auc"] - 0.5).abs().sort_values(ascending=False, kind="stable").index
    return table.loc[far].reset_index(drop=True)


def check_separability(table: pd.DataFrame, option: str) -> None:
    """Refuse looks that give the class away where there is no arc.

    Raises
    ------
    UserError
        The interval of a statistic is not inside 0.5 -+ :data:`LIMIT`, or there is none.
    """
    for test, auc, lo, hi, comparisons, rows in table.itertuples(index=False):
        if lo > 0.5 + LIMIT or hi < 0.5 - LIMIT:
            raise UserError(
                f"option {option} is refused: where there is no arc, the {test} band, tells a positive "
                f"from its negative (within-pair AUC {auc:.3f}, {lo:.3f} to {hi:.3f}, {rows} rows in "
                f"{comparisons} comparisons); "
                "give both classes the same noise law"
            )
        if not (lo >= 0.5 - LIMIT and hi <= 0.5 + LIMIT):
            raise UserError(
                f"option {option} is refused: {rows} rows with {FEWEST_PIXELS} pixels without arc, in "
                f"{comparisons} comparisons, are too few to show that the classes are alike where there is "
                f"no arc (the {test} band, has a within-pair AUC of {auc:.3f}, {lo:.3f} to {hi:.3f}); "
                "take more rows, larger stamps, or option b"
            )


def _statistics(
    first: Images, second: Images, free: NDArray[np.bool_], sigma: Images
) -> dict[str, NDArray[np.float64]]:
    """Numbers of each image, (image, y, x), over its free pixels, in units of the noise."""
    count = free.sum((1, 2))
    enough, count = count >= FEWEST_PIXELS, np.maximum(count, 1)
    unit = np.where(free, sigma, 1.0)
    out: dict[str, NDArray[np.float64]] = {}
    beside = free[:, :, 1:] & free[:, :, :-1]
    for name, image in (("first look", first), ("second look", second)):
        own = np.where(free, image, 0.0) / unit
        out[f"mean of the {name}"] = own.sum((1, 2)) / count
        # From pixel to pixel: the galaxy, which is in both, hardly changes.
        step = np.where(beside, own[:, :, 1:] - own[:, :, :-1], 0.0)
        out[f"roughness of the {name}"] = (step**2).sum((1, 2)) / count
    scaled = np.where(free, first - second, 0.0) / unit
    mean = scaled.sum((1, 2)) / count
    off = np.where(free, scaled - mean[:, None, None], 0.0)
    variance = (off**2).sum((1, 2)) / count
    some = np.where(variance > 0, variance, 1.0)
    out["mean of the difference"] = mean
    out["variance of the difference"] = variance
    out["kurtosis of the difference"] = (off**4).sum((1, 2)) / count / some**2
    out["largest difference"] = np.abs(off).max((1, 2))
    along = {"x": off[:, :, 1:] * off[:, :, :-1], "y": off[:, 1:] * off[:, :-1]}
    for name, product in along.items():
        out[f"correlation of the difference along {name}"] = product.sum((1, 2)) / (some * count)
    out["share of equal pixels"] = (free & (scaled == 0)).sum((1, 2)) / count
    return {name: np.where(enough, values, np.nan) for name, values in out.items()}


def _interval(
    wins: NDArray[np.float64], row: NDArray[np.int64], tests: int
) -> tuple[float, float, float, int, int]:
    """Mean, its interval over rows at a confidence that ``tests`` tests share, comparisons, rows."""
    nan = float("nan")
    _, index = np.unique(row, return_inverse=True)
    count = np.bincount(index)
    n, value = len(count), float(wins.mean()) if len(wins) else nan
    if n < FEWEST_ROWS:
        return value, nan, nan, len(wins), n
    off = np.bincount(index, weights=wins - value)
    error = float(np.sqrt((off**2).sum() * n / (n - 1))) / len(wins)
    reach = float(stdtrit(n - 1, 1 - (1 - CONFIDENCE) / (2 * tests))) * error
    return value, value - reach, value + reach, len(wins), n
