"""Are lenses and sources drawn without regard to the sky they are put on?

If large Einstein radii sit on bright hosts, or small sources under good seeing, a completeness in
theta_e is one in brightness too. Ranks are compared, so that no scale has to be chosen, and regions are
what is independent: hosts of a region share its depth and its seeing.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.audit.hypotheses import Hypothesis, p_above, p_beyond
from darkhaloscope.audit.intervals import Floats, t_interval
from darkhaloscope.audit.noise import deviation
from darkhaloscope.audit.spec import AuditSpec

DRAWN = ("theta_e", "lens_q", "src_dmag", "src_reff", "src_n", "src_q")
"""What an experiment draws for a row. Angles and offsets have no rank."""

SKY = ("host_mag", "psfsize", "psfdepth")
REGION = "region"

CORRELATED = 0.1
"""Rank correlation that is granted."""

FEWEST = 100
OUTLYING = 5.0
"""Robust z from which a PSF width is listed."""
LEAST_SPREAD = 0.01
"""Scatter of ln(psfsize) that is granted where most widths are one number."""
LISTED = 20
INDEPENDENCE_COLUMNS = ["parameter", "sky", "correlation", "lo", "hi", "p", "rows", "regions"]
OUTLIER_COLUMNS = [
    "band", "brick", "slot", "psfsize", "z", "median", "outliers_low", "outliers_high", "rows",
]  # fmt: skip


def independence(columns: xr.Dataset, rows: NDArray[np.int64], spec: AuditSpec) -> pd.DataFrame:
    """Rank correlation of every drawn parameter with hosts, PSF, depth and with its region.

    ``region`` is the correlation of ranks within regions (Fisher's intraclass correlation): how much
    rows of one region are alike.

    Parameters
    ----------
    columns : Dataset
        Provenance variables; those that are missing, assumed or constant are left out.
    rows : ndarray of int
        Injections to look at.

    Returns
    -------
    DataFrame
        :data:`INDEPENDENCE_COLUMNS`; ``p`` that the correlation is within its tolerance: of either sign, but
        within regions a positive one only, since a list of values dealt out in full to every region makes
        m rows of it as unlike as -1 / (m - 1).
    """
    region = spec.region_keys(columns["region_id"].values[rows].astype(object))
    keys, group = np.unique(region, return_inverse=True)
    lines = []
    for name in (n for n in DRAWN if n in columns and n not in spec.lacks):
        drawn = columns[name].values[rows].astype(float)
        for label, sky in _sky(columns, rows, spec):
            use = np.isfinite(drawn) & np.isfinite(sky) & (sky > 0)
            if use.sum() < FEWEST or np.ptp(drawn[use]) == 0 or np.ptp(sky[use]) == 0:
                continue
            product = _ranks(drawn[use]) * _ranks(sky[use])
            value, error, n = _clustered(product, np.ones(use.sum()), group[use], use.sum() - 1)
            p = p_beyond(value, CORRELATED, error, n)
            lines.append((name, label, *_line(value, error, n), p, int(use.sum()), n))
        use = np.isfinite(drawn)
        if use.sum() < FEWEST or np.ptp(drawn[use]) == 0 or len(keys) == use.sum():
            continue
        ranks = _ranks(drawn[use])
        total = np.bincount(group[use], ranks, len(keys))
        count = np.bincount(group[use], minlength=len(keys)).astype(float)
        products = total**2 - np.bincount(group[use], ranks**2, len(keys))
        value, error, n = _clustered(
            products.astype(float),
            count * (count - 1),
            np.arange(len(keys)),
            0.5 * (count * (count - 1)).sum(),
        )
        p = p_above(value, CORRELATED, error, n)
        lines.append((name, REGION, *_line(value, error, n), p, int(use.sum()), n))
    return pd.DataFrame(lines, columns=INDEPENDENCE_COLUMNS)


def independence_tests(table: pd.DataFrame, fewest: int) -> list[Hypothesis]:
    """Whether a correlation is larger than its tolerance."""
    out = []
    for line in table.to_dict("records"):
        value, n = float(line["correlation"]), int(line["regions"])
        if n < fewest:
            continue
        if line["sky"] == REGION:
            says = f"{line['parameter']} is alike in rows of one region (correlation {value:+.2f})"
        else:
            says = f"{line['parameter']} goes with {line['sky']} (rank correlation {value:+.2f})"
        interval = (float(line["lo"]), float(line["hi"]))
        where = f"{line['parameter']}, {line['sky']}"
        out.append(
            Hypothesis("parameters_dependent", where, value, interval, CORRELATED, n,
                       float(line["p"]), "shortcut", says)
        )  # fmt: skip
    return out


def psf_outliers(columns: xr.Dataset, rows: NDArray[np.int64], spec: AuditSpec) -> pd.DataFrame:
    """The PSF widths furthest from their band's median, at most 20 a band, with how many there are.

    ``z`` is the distance of the logarithm in units of its robust standard deviation (:func:`_spread`).
    """
    if "psfsize" not in columns or "psfsize" in spec.lacks:
        return pd.DataFrame(columns=OUTLIER_COLUMNS)
    lines = []
    widths = columns["psfsize"].values[rows].astype(float)
    for b, band in enumerate(spec.bands):
        known = np.flatnonzero(np.isfinite(widths[:, b]) & (widths[:, b] > 0))
        log = np.log(widths[known, b])
        if not len(log):
            continue
        middle = float(np.median(log))
        z = (log - middle) / _spread(log)
        far = np.flatnonzero(np.abs(z) > OUTLYING)
        low, high = int((z[far] < 0).sum()), int((z[far] > 0).sum())
        for k in far[np.argsort(-np.abs(z[far]), kind="stable")][:LISTED]:
            row = int(rows[known[k]])
            place = (str(columns["brick"].values[row]), int(columns["slot"].values[row]))
            width = float(widths[known[k], b])
            lines.append(
                (band, *place, width, float(z[k]), float(np.exp(middle)), low, high, len(known))
            )
    return pd.DataFrame(lines, columns=OUTLIER_COLUMNS)


def _spread(log: Floats) -> float:
    """Robust standard deviation of logarithms of widths.

    Where more than half are one number, their median absolute deviation is 0: it is then that of all but the
    outermost 1 % on either side, and :data:`LEAST_SPREAD` at least.
    """
    spread = deviation(log)
    if spread > 0:
        return spread
    lo, hi = np.percentile(log, (1, 99))
    return max(float(log[(log >= lo) & (log <= hi)].std()), LEAST_SPREAD)


def _sky(columns: xr.Dataset, rows: NDArray[np.int64], spec: AuditSpec) -> list[tuple[str, Floats]]:
    return [
        (f"{name} {band}", columns[name].values[rows, b].astype(float))
        for name in SKY
        if name in columns and name not in spec.lacks
        for b, band in enumerate(spec.bands)
    ]


def _ranks(values: Floats) -> Floats:
    """Ranks with mean 0 and mean square 1."""
    from scipy.stats import rankdata  # slow to import, and workers never need it

    ranks = np.asarray(rankdata(values), dtype=float)
    return np.asarray((ranks - ranks.mean()) / ranks.std())


def _clustered(
    top: Floats, bottom: Floats, group: NDArray[np.int64], products: float
) -> tuple[float, float, int]:
    """sum(top) / sum(bottom), its standard error over groups (linearised), and how many there are.

    The error is at least what chance does to a mean of so many independent ``products`` of ranks, as
    Spearman's correlation of n rows has 1 / sqrt(n - 1) (Kendall 1948): where all follows in two levels,
    every group says the same, and that is no want of an error.
    """
    total = float(bottom.sum())
    value = float(top.sum()) / total
    filled = np.bincount(group, bottom) > 0
    rest = np.bincount(group, top - value * bottom)[filled]
    n = int(filled.sum())
    if n < 2:
        return value, float("nan"), n
    error = float(np.sqrt((rest**2).sum() * n / (n - 1))) / total
    return value, max(error, 1.0 / float(np.sqrt(products))), n


def _line(value: float, error: float, n: int) -> tuple[float, float, float]:
    """The correlation with its interval."""
    ends = t_interval(value, value + error * np.array([-1.0, 1.0]) * np.sqrt((n - 1) / n / 2), n)
    return value, *ends
