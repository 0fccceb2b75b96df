"""The core gate: what a linear classifier reads in the central 10x10 pixels.

Label 1 is a row's stamp (``ctrl + arc``), label 0 the same row's ctrl. The same folds and the same
model are fitted once more to ``ctrl`` plus the arc that the row's parameters give: what remains of the
AUC is no physics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from darkhaloscope.audit.intervals import (
    DESCRIBED_REGIONS,
    MIN_REGIONS,
    Floats,
    RegionAuc,
    effective_number,
    region_interval,
    within_pair_auc,
)
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.spec import (
    COARSE_THETA_E_EDGES,
    CORE_SNR_EDGES,
    AuditSpec,
    interval_labels,
)
from darkhaloscope.audit.subsets import subsets

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

N_FOLDS = 5
OWN_MODEL_PAIRS = 200
"""Fewer pairs than this do not train a model of their own."""

MOSTLY_TIED = 0.5
"""Where more of the stamps than this are exactly their ctrl in the core, its AUC is not a test."""

UNCOVERED = "a band without coverage"
"""Why a row is left out."""

LEARNING_SIZES = (250, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class CoreGate:
    """What the core gate found.

    Attributes
    ----------
    strata, quality, learning_curve : DataFrame
        One row a stratum; one row a subset by quality (:mod:`.subsets`); one row a number of pairs.
    overall : RegionAuc or None
        The pooled AUC over all pairs; None where no pair could be scored.
    excess : (value, lo, hi)
        AUC(observed) - AUC(ctrl + re-rendered arc), over all pairs.
    left_out : dict
        Audit rows that were not used, by cause.
    tied : float
        Fraction of pairs whose stamp is exactly its ctrl in the core.
    bare : tuple of str
        Bands in which no audit row has coverage.
    """

    strata: pd.DataFrame
    quality: pd.DataFrame
    learning_curve: pd.DataFrame
    overall: RegionAuc | None
    excess: tuple[float, float, float]
    pairs: int
    regions: int
    left_out: dict[str, int]
    tied: float
    bare: tuple[str, ...] = ()


def components(host: NDArray[Any], region: NDArray[Any]) -> NDArray[np.int64]:
    """Label of the connected component of each pair: pairs of one host or one region are linked."""
    hosts, h = np.unique(host, return_inverse=True)
    regions, r = np.unique(region, return_inverse=True)
    n = len(hosts) + len(regions)
    links = coo_array((np.ones(len(h)), (h.reshape(-1), len(hosts) + r.reshape(-1))), shape=(n, n))
    _, labels = connected_components(links, directed=False)
    return labels[h.reshape(-1)].astype(np.int64)


def group_folds(
    host: NDArray[Any],
    region: NDArray[Any],
    hashes: NDArray[np.uint64],
    n_folds: int = N_FOLDS,
) -> NDArray[np.int64]:
    """Fold of each pair: whole groups of hosts and regions, the largest first, into the emptiest fold.

    Groups of equal size go by their lowest row hash, so that the folds do not depend on the order of
    the rows. There are fewer folds where there are fewer groups.
    """
    label = components(host, region)
    _, label = np.unique(label, return_inverse=True)
    label = label.reshape(-1)
    size = np.bincount(label)
    first = np.full(len(size), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(first, label, hashes)
    filled = np.zeros(min(n_folds, len(size)), dtype=np.int64)
    fold_of = np.empty(len(size), dtype=np.int64)
    for group in np.lexsort((first, -size)):
        fold_of[group] = int(np.argmin(filled))
        filled[fold_of[group]] += size[group]
    return fold_of[label]


def linear_reader() -> Pipeline:
    """The gate's model, not yet fitted: StandardScaler and L2 logistic regression (C = 1)."""
    # scikit-learn takes a second to import, which every worker and command would pay.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(), LogisticRegression(C=1.0, solver="newton-cholesky", max_iter=200)
    )


def out_of_fold_scores(
    stamp: Floats, ctrl: Floats, fold: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Log odds of each stamp and each ctrl by a model that saw no pair of its fold.

    :func:`linear_reader` is fitted inside each fold. All missing where
    there is only one fold.
    """
    pos, neg = np.full(len(stamp), np.nan), np.full(len(ctrl), np.nan)
    names = np.unique(fold)
    if len(names) < 2:
        return pos, neg
    # One thread: at 300 features more threads only wait for each other, and sums keep their order.
    with threadpool_limits(1):
        for name in names:
            train, test = fold != name, fold == name
            model = linear_reader()
            images = np.concatenate([stamp[train], ctrl[train]])
            model.fit(images, np.repeat([1, 0], int(train.sum())))
            pos[test] = model.decision_function(stamp[test])
            neg[test] = model.decision_function(ctrl[test])
    return pos, neg


def core_snr(core: Floats, sky_sigma: Floats) -> Floats:
    """S/N of an arc inside the core: sqrt(sum over the 10x10 of arc^2) / sky_sigma, one band.

    ``core`` is (pair, y, x) in nMgy, ``sky_sigma`` (pair,) in nMgy.
    """
    return np.sqrt((core**2).sum(axis=(1, 2))) / sky_sigma


def core_gate(stats: Arrays, rerendered: Arrays, spec: AuditSpec) -> CoreGate:
    """Run the core gate on the audit rows.

    Parameters
    ----------
    stats : dict of ndarray
        Merged statistics, with the audit rows.
    rerendered : dict of ndarray
        The same rows drawn again; rows are matched by their hash.

    Returns
    -------
    CoreGate
        Rows in which a band has no coverage, or which could not be drawn again, are left out.
    """
    drawn = match(stats["row_hash"], rerendered["hash"])
    by_band = stats["row_coverage"] > 0
    covered = by_band.all(axis=1)
    rows_of = by_band.sum(axis=0)
    bare = tuple(spec.bands[b] for b in np.flatnonzero(rows_of == 0) if len(by_band))
    again = drawn >= 0
    core_again = np.full(stats["row_core_arc"].shape, np.nan)
    core_again[again] = rerendered["core"][drawn[again]]
    again &= np.isfinite(core_again).all(axis=(1, 2, 3))
    if not spec.redraws:
        # What is seen is described; what physics would show is not known.
        again[:] = True
    use = np.flatnonzero(covered & again)
    left_out = {
        UNCOVERED: int((~covered).sum()),
        "not re-rendered": int((covered & ~again).sum()),
    }
    use = use[np.argsort(_rank(stats, use, spec), kind="stable")]
    core_again = core_again[use]
    flat = (len(use), int(np.prod(stats["row_core_ctrl"].shape[1:])))
    ctrl = stats["row_core_ctrl"][use].astype(float).reshape(flat)
    stamp = ctrl + stats["row_core_arc"][use].astype(float).reshape(flat)
    predicted = ctrl + core_again.reshape(flat)
    region, host = stats["row_region"][use], stats["row_host_id"][use]
    regions = len(np.unique(region))
    tied = float(np.mean((stamp == ctrl).all(axis=1))) if len(use) else float("nan")
    if len(use) == 0 or len(np.unique(components(host, region))) < 2:
        # Nothing can be held out: hosts and regions all hang together.
        return CoreGate(
            pd.DataFrame(columns=STRATA_COLUMNS),
            pd.DataFrame(columns=STRATA_COLUMNS),
            pd.DataFrame(columns=CURVE_COLUMNS),
            None,
            (float("nan"),) * 3,
            len(use),
            regions,
            left_out,
            tied,
            bare,
        )
    fold = group_folds(host, region, stats["row_hash"][use])
    band = spec.reference_index
    snr = core_snr(core_again[:, band], stats["row_sky_sigma"][use, band].astype(float))
    pairs = _Pairs(stamp, ctrl, region, host, stats["row_hash"][use], spec.seed)
    observed = out_of_fold_scores(stamp, ctrl, fold)
    expected = observed
    if spec.redraws:
        expected = out_of_fold_scores(predicted, ctrl, fold)
    table, overall, excess = _strata(
        pairs, observed, expected, stats["row_theta_e"][use].astype(float), snr, spec
    )
    described = pd.DataFrame(
        [
            {"family": family, "stratum": name, "lo": low, "hi": high}
            | _stratum(pairs, observed, expected, members, own=False)[0]
            for family, name, low, high, members in subsets(stats, use, spec)
        ],
        columns=STRATA_COLUMNS,
    )
    if not spec.redraws:
        excess = (float("nan"),) * 3
        for found in (table, described):
            found[["auc_rerendered", "excess", "excess_lo", "excess_hi", "excess_se"]] = np.nan
    return CoreGate(
        table,
        described,
        _learning_curve(pairs, observed),
        overall,
        excess,
        len(use),
        regions,
        left_out,
        tied,
        bare,
    )


def match(wanted: NDArray[Any], have: NDArray[Any]) -> NDArray[np.int64]:
    """Index in ``have`` of each of ``wanted``; -1 where it is not there."""
    if len(have) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(have, kind="stable")
    place = np.minimum(np.searchsorted(have[order], wanted), len(have) - 1)
    found = order[place]
    return np.where(have[found] == wanted, found, -1).astype(np.int64)


@dataclass(frozen=True)
class _Pairs:
    stamp: Floats
    ctrl: Floats
    region: NDArray[Any]
    host: NDArray[Any]
    hashes: NDArray[np.uint64]
    seed: int

    def own_model(self, members: NDArray[np.int64]) -> RegionAuc | None:
        """A model trained on these pairs only; None where they are too few."""
        region = self.region[members]
        if len(members) < OWN_MODEL_PAIRS or len(np.unique(region)) < DESCRIBED_REGIONS:
            return None
        fold = group_folds(self.host[members], region, self.hashes[members])
        scores = out_of_fold_scores(self.stamp[members], self.ctrl[members], fold)
        return RegionAuc(*scores, region, self.seed)


STRATA_COLUMNS = [
    "family", "stratum", "lo", "hi", "pairs", "hosts", "effective_hosts", "regions",
    "auc", "auc_lo", "auc_hi", "called_95",
    "auc_rerendered", "excess", "excess_lo", "excess_hi", "excess_se",
    "own_auc", "own_auc_lo", "own_auc_hi", "within_pair", "tied", "note",
]  # fmt: skip
CURVE_COLUMNS = ["pairs", "regions", "auc", "auc_lo", "auc_hi"]


def _strata(
    pairs: _Pairs,
    observed: tuple[Floats, Floats],
    expected: tuple[Floats, Floats],
    theta_e: Floats,
    snr: Floats,
    spec: AuditSpec,
) -> tuple[pd.DataFrame, RegionAuc, tuple[float, float, float]]:
    families: list[tuple[str, Floats, tuple[float, ...]]] = [
        ("theta_e", theta_e, spec.theta_e_edges),
        ("theta_e_coarse", theta_e, COARSE_THETA_E_EDGES),
        ("core_snr", snr, CORE_SNR_EDGES),
    ]
    everything = np.arange(len(theta_e))
    row, overall, excess = _stratum(pairs, observed, expected, everything, own=False)
    rows = [{"family": "all", "stratum": "all", "lo": np.nan, "hi": np.nan, **row}]
    for family, value, edges in families:
        bounds = (-np.inf, *edges, np.inf)
        for k, label in enumerate(interval_labels(edges)):
            # float32, as stored: 0.75 belongs to the stratum that starts there.
            index = np.digitize(value.astype(np.float32), np.asarray(edges, np.float32))
            members = np.flatnonzero((index == k) & np.isfinite(value))
            if len(members):
                row, _, _ = _stratum(pairs, observed, expected, members, own=True)
                head = {"family": family, "stratum": label, "lo": bounds[k], "hi": bounds[k + 1]}
                rows.append({**head, **row})
    return pd.DataFrame(rows, columns=STRATA_COLUMNS), overall, excess


def _stratum(
    pairs: _Pairs,
    observed: tuple[Floats, Floats],
    expected: tuple[Floats, Floats],
    members: NDArray[np.int64],
    own: bool,
) -> tuple[dict[str, object], RegionAuc, tuple[float, float, float]]:
    """One row of the table: the pooled model read in these pairs, and a model of their own."""
    region = pairs.region[members]
    _, by_host = np.unique(pairs.host[members], return_counts=True)
    seen = RegionAuc(observed[0][members], observed[1][members], region, pairs.seed)
    promised = RegionAuc(expected[0][members], expected[1][members], region, pairs.seed)
    # The same resampled regions in both, so that what they share cancels.
    gap = seen.value - promised.value
    gap_lo, gap_hi = region_interval(gap, seen.replicates - promised.replicates, seen.n_regions)
    lo, hi = (float(np.clip(v, 0.0, 1.0)) for v in seen.interval())
    trained = pairs.own_model(members) if own else None
    own_lo, own_hi = trained.interval() if trained else (np.nan, np.nan)
    tied = float(np.mean((pairs.stamp[members] == pairs.ctrl[members]).all(axis=1)))
    notes = []
    if tied > MOSTLY_TIED:
        notes.append(f"not a test: {tied:.0%} of the pairs tie exactly")
    if seen.n_regions < MIN_REGIONS:
        few = "description only" if seen.n_regions < DESCRIBED_REGIONS else "not called 95 %"
        notes.append(f"{seen.n_regions} regions: {few}")
    if own and trained is None:
        notes.append("too few pairs or regions for a model of its own")
    row = {
        "pairs": len(members),
        "hosts": len(by_host),
        "effective_hosts": effective_number(by_host.astype(float)),
        "regions": seen.n_regions,
        "auc": seen.value,
        "auc_lo": lo,
        "auc_hi": hi,
        "called_95": seen.n_regions >= MIN_REGIONS,
        "auc_rerendered": promised.value,
        "excess": gap,
        "excess_lo": gap_lo,
        "excess_hi": gap_hi,
        "excess_se": float(np.std(seen.replicates - promised.replicates, ddof=1)),
        "own_auc": trained.value if trained else np.nan,
        "own_auc_lo": max(own_lo, 0.0) if trained else np.nan,
        "own_auc_hi": min(own_hi, 1.0) if trained else np.nan,
        "within_pair": within_pair_auc(observed[0][members], observed[1][members]),
        "tied": tied,
        "note": "; ".join(notes),
    }
    return row, seen, (gap, gap_lo, gap_hi)


def _rank(stats: Arrays, use: NDArray[np.int64], spec: AuditSpec) -> Floats:
    """Place of each row in its stratum's order of hashes, so that the first m rows are a fair mix."""
    stratum, hashes = stats["row_stratum"][use].astype(np.int64), stats["row_hash"][use]
    rank = np.empty(len(use))
    for s in range(spec.n_strata):
        members = np.flatnonzero(stratum == s)
        ordered = members[np.argsort(hashes[members], kind="stable")]
        rank[ordered] = (np.arange(len(ordered)) + 0.5) / max(len(ordered), 1)
    return rank


def _learning_curve(pairs: _Pairs, observed: tuple[Floats, Floats]) -> pd.DataFrame:
    """AUC of models trained on the first m pairs; with every pair, of the scores at hand."""
    rows = []
    total = len(pairs.stamp)
    for m in (*[m for m in LEARNING_SIZES if m < total], total):
        members = np.arange(m)
        scores = observed
        if m < total:
            fold = group_folds(pairs.host[:m], pairs.region[:m], pairs.hashes[:m])
            scores = out_of_fold_scores(pairs.stamp[:m], pairs.ctrl[:m], fold)
        read = RegionAuc(*scores, pairs.region[members], pairs.seed)
        lo, hi = read.interval()
        rows.append((m, read.n_regions, read.value, max(lo, 0.0), min(hi, 1.0)))
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)
