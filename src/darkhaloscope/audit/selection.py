"""Metadata alone: can what was known before any arc was drawn tell injections from controls?

A classifier that learns the PSF, the depth or the place of its training classes needs no arcs. Columns
that an injection gets from its arc are left out; regions and hosts are never split between training and
test.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from darkhaloscope.audit.core_gate import group_folds
from darkhaloscope.audit.hypotheses import Hypothesis, p_above
from darkhaloscope.audit.independence import (
    INDEPENDENCE_COLUMNS,
    OUTLIER_COLUMNS,
    independence,
    independence_tests,
    psf_outliers,
)
from darkhaloscope.audit.integrity import CORE_MATCHED
from darkhaloscope.audit.intervals import (
    Floats,
    region_interval,
    region_wins,
    resample_weights,
)
from darkhaloscope.audit.spec import AuditSpec, row_hashes
from darkhaloscope.errors import Reason

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

PAIR_FEATURES = ("ra", "dec", "target_x", "target_y", "bad_pixel_frac", "wise_brightmask_frac")
BAND_FEATURES = ("psfsize", "psfdepth", "host_mag", "sky_sigma", "coverage")
MOST_ROWS = 20_000
HASHED_AT_ONCE = 1_000_000
FEWEST = 30
"""Rows of the smaller class below which nothing is learned."""
MOST_REGIONS = 512
SELECTION_COLUMNS = ["column", "auc", "lo", "hi", "p", "injections", "controls", "regions"]
ALL = "all columns together"


@dataclass(frozen=True)
class Selection:
    """What columns say before a pixel is looked at.

    ``table``: AUC of all columns together, then of each alone, the most telling first; ``dependence``
    of drawn parameters on the sky, and ``outliers`` of the PSF width: see :mod:`.independence`.
    """

    table: pd.DataFrame
    error: float
    missing: str = ""
    dependence: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=INDEPENDENCE_COLUMNS)
    )
    outliers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=OUTLIER_COLUMNS))

    def tests(self, tolerance: float, fewest_regions: int) -> list[Hypothesis]:
        """Whether all columns together tell more than ``tolerance`` above a coin; and independence."""
        dependent = independence_tests(self.dependence, fewest_regions)
        if self.table.empty or int(self.table["regions"].iloc[0]) < fewest_regions:
            return dependent
        first = self.table.iloc[0]
        limit = 0.5 + tolerance
        says = f"metadata alone tell injections from controls with an AUC of {first.auc:.3f}"
        if len(self.table) > 1:
            says += f", most of all {self.table['column'].iloc[1]}"
        n = int(first.regions)
        p = p_above(float(first.auc), limit, self.error, n)
        interval = (float(first.lo), float(first.hi))
        return [
            Hypothesis("selection_shortcut", "metadata", float(first.auc), interval, limit, n, p,
                       "shortcut", says),
            *dependent,
        ]  # fmt: skip


def selection(columns: xr.Dataset, spec: AuditSpec) -> Selection:
    """Try to tell the classes of at most 20,000 rows by their metadata, and ask how injections were drawn.

    Parameters
    ----------
    columns : Dataset
        The provenance variables, lazy or not; those that are missing, or assumed, are left out.
    """
    # What a cut excluded is in no class: a cut that takes from one class only shows here.
    kept = columns["cutout_ok"].values.astype(bool)
    if "reason" in columns:
        kept &= columns["reason"].values == Reason.OK
    if "negative_kind" in columns:  # on an injection's own sky: alike by construction
        kept &= columns["negative_kind"].values != CORE_MATCHED
    ok = everything = np.flatnonzero(kept)
    if len(ok) > MOST_ROWS:
        ok = _fewer(columns, ok, spec)
    lensed = ok[columns["lens_model"].values[ok] > 0]
    return replace(
        _classes(columns, ok, spec),
        dependence=independence(columns, lensed, spec),
        outliers=psf_outliers(columns, everything, spec),
    )


def _fewer(columns: xr.Dataset, rows: NDArray[np.int64], spec: AuditSpec) -> NDArray[np.int64]:
    """The ``MOST_ROWS`` rows of the lowest hash, the same in whatever order they come; in the order given.

    Names are read a part at a time, since those of all rows may be many.
    """
    kept, low = rows[:0], np.zeros(0, dtype=np.uint64)
    for start in range(0, len(rows), HASHED_AT_ONCE):
        part = rows[start : start + HASHED_AT_ONCE]
        names = columns[["brick", "slot"]].isel(pair=part)
        hashes = row_hashes(spec.seed, names["brick"].values.astype(object), names["slot"].values)
        kept, low = np.concatenate([kept, part]), np.concatenate([low, hashes])
        first = np.argsort(low, kind="stable")[:MOST_ROWS]
        kept, low = kept[first], low[first]
    return np.sort(kept)


def _classes(columns: xr.Dataset, ok: NDArray[np.int64], spec: AuditSpec) -> Selection:
    """Injections against controls, by their metadata."""
    injected = columns["lens_model"].values[ok] > 0
    rarer = int(min(injected.sum(), (~injected).sum()))
    empty = pd.DataFrame(columns=SELECTION_COLUMNS)
    if rarer < FEWEST:
        return Selection(
            empty, np.nan, f"metadata: {rarer} rows of the smaller class, {FEWEST} needed"
        )
    features = _features(columns, ok, spec)
    if features.empty:
        return Selection(empty, np.nan, "metadata: no column that is known before an arc is drawn")
    rows = columns[["brick", "slot", "host_id", "region_id"]].isel(pair=ok).load()
    hashes = row_hashes(spec.seed, rows["brick"].values.astype(object), rows["slot"].values)
    region = spec.region_keys(rows["region_id"].values.astype(object))
    fold = group_folds(rows["host_id"].values, region, hashes)
    if len(np.unique(fold)) < 2:
        return Selection(empty, np.nan, "metadata: hosts and regions all hang together")
    scores = out_of_fold(features.to_numpy(float), injected, fold)
    lines = [_line(ALL, scores, injected, region, spec.seed)]
    alone = []
    for name, values in features.items():
        known = values.to_numpy(float)
        filled = np.where(np.isfinite(known), known, np.nanmin(known) - 1.0)
        line = _line(str(name), filled, injected, region, spec.seed)
        alone.append(line)
    alone.sort(key=lambda line: -abs(float(line[0][1]) - 0.5))
    table = pd.DataFrame([line for line, _ in (*lines, *alone)], columns=SELECTION_COLUMNS)
    return Selection(table, lines[0][1])


def _features(columns: xr.Dataset, rows: NDArray[np.int64], spec: AuditSpec) -> pd.DataFrame:
    """Columns that vary, colours beside magnitudes."""
    made: dict[str, Floats] = {}
    for name in PAIR_FEATURES:
        if name in columns and name not in spec.lacks:
            made[name] = columns[name].values[rows].astype(float)
    for name in BAND_FEATURES:
        if name in columns and name not in spec.lacks:
            values = columns[name].values[rows].astype(float)
            made |= {f"{name} {band}": values[:, b] for b, band in enumerate(spec.bands)}
            if name == "host_mag":
                pairs = zip(range(len(spec.bands) - 1), range(1, len(spec.bands)), strict=True)
                for a, b in pairs:
                    made[f"colour {spec.bands[a]} - {spec.bands[b]}"] = values[:, a] - values[:, b]
    varied = {n: v for n, v in made.items() if len(np.unique(v[np.isfinite(v)])) > 1}
    return pd.DataFrame(varied)


def boosted_reader() -> HistGradientBoostingClassifier:
    """The non-linear model of the audit, not yet fitted: gradient boosting of small trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # slow to import

    return HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=0
    )


def out_of_fold(features: Floats, label: NDArray[np.bool_], fold: NDArray[np.int64]) -> Floats:
    """Score of each row by gradient boosting that saw none of its fold; missing values are a branch."""
    out = np.full(len(label), np.nan)
    with threadpool_limits(1):
        for name in np.unique(fold):
            train, test = fold != name, fold == name
            if len(np.unique(label[train])) < 2:
                continue
            model = boosted_reader()
            model.fit(features[train], label[train])
            out[test] = model.decision_function(features[test])
    return out


def _line(
    name: str, score: Floats, label: NDArray[np.bool_], region: NDArray[Any], seed: int
) -> tuple[tuple[Any, ...], float]:
    value, replicates, n = class_auc(score, label, region, seed)
    lo, hi = region_interval(value, replicates, n)
    known = label[np.isfinite(score)]
    error = auc_error(replicates, n, int(known.sum()), int((~known).sum()))
    p = 2.0 * min(p_above(value, 0.5, error, n), p_above(-value, -0.5, error, n))
    counts = int(label.sum()), int((~label).sum())
    return (name, value, max(lo, 0.0), min(hi, 1.0), min(p, 1.0), *counts, n), error


def class_auc(
    score: Floats, label: NDArray[np.bool_], region: NDArray[Any], seed: int
) -> tuple[float, Floats, int]:
    """AUC of two classes, its replicates over resampled regions, and how many regions there are."""
    use = np.isfinite(score)
    score, label, region = score[use], label[use], np.asarray(region)[use]
    keys, index = np.unique(region, return_inverse=True)
    if len(keys) > MOST_REGIONS:
        index, keys = index % MOST_REGIONS, keys[:MOST_REGIONS]
    n = len(keys)
    positives, negatives = (
        np.bincount(index[v], minlength=n).astype(float) for v in (label, ~label)
    )
    wins = region_wins(score[label], score[~label], index[label], n, index[~label])
    whole = positives.sum() * negatives.sum()
    weights = resample_weights(n, seed)
    pairs = (weights @ positives) * (weights @ negatives)
    drawn = ((weights @ wins) * weights).sum(axis=1)
    replicates = np.divide(drawn, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    return (float(wins.sum() / whole) if whole else float("nan")), replicates, n


def auc_error(replicates: Floats, n: int, positives: int, negatives: int) -> float:
    """Standard error of :func:`class_auc` of ``n`` regions; missing for one, and without a class.

    At least what chance does to an AUC of so few (Mann & Whitney 1947): where all is tied, or the classes
    never mix, every resample is alike.
    """
    if n < 2 or min(positives, negatives) == 0:
        return float("nan")
    chance = np.sqrt((positives + negatives + 1) / (12.0 * positives * negatives))
    return max(float(np.nanstd(replicates, ddof=1) * np.sqrt(n / (n - 1))), float(chance))
