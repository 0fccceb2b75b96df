"""The columns themselves: what each holds, what is missing, and whether splits are clean.

Reads provenance only, one column at a time, so that ten million rows fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import xxhash
from numpy.typing import NDArray

from darkhaloscope.variables import SPLITS
from darkhaloscope.views import removed

OUTCOME_COLUMNS = (
    "arc_snr", "magnification", "total_injected_flux", "arc_flux_total", "arc_snr_before_fix",
    "total_injected_flux_before_fix", "visible_fraction", "visible_fraction_before_fix",
)  # fmt: skip
"""Finite on every injection with coverage, missing on every control."""

QUALITY_COLUMNS = [
    "column", "band", "class", "split", "n", "missing", "zeros",
    "min", "p1", "p5", "p10", "median", "p95", "max", "mean",
]  # fmt: skip
COVERAGE_COLUMNS = ["column", "band", "injections", "missing", "controls", "present"]
PERCENTILES = (0.0, 1.0, 5.0, 10.0, 50.0, 95.0, 100.0)
TEXT_CHUNK = 200_000


@dataclass(frozen=True)
class Quality:
    """What the columns say.

    Attributes
    ----------
    table : DataFrame
        Every numeric column by class, split ('all' and each) and band ('' where it has none).
    coverage : DataFrame
        Of each outcome column and band: injections with coverage and how many of them lack it,
        controls and how many of them have it.
    sets : DataFrame
        Rows before and after each named quality set, by class and split (:mod:`darkhaloscope.views.cuts`).
    rows, regions, hosts : int
    regions_in_two_splits, hosts_in_two_splits : int
    """

    table: pd.DataFrame
    coverage: pd.DataFrame
    sets: pd.DataFrame
    rows: int
    regions: int
    hosts: int
    regions_in_two_splits: int
    hosts_in_two_splits: int


def quality(columns: xr.Dataset, reference_band: str, lacks: Collection[str] = ()) -> Quality:
    """Look at every column of a data set.

    Parameters
    ----------
    columns : xarray.Dataset
        The provenance variables, in memory or lazy; pixels may be there and are not read.
    reference_band : str
        The band of ``arc_snr``.
    lacks : collection of str
        Columns that the set does not say. What stands in for its regions, as cells of the sky, may well be in
        two splits, which knew nothing of it.
    """
    bands = [str(b) for b in columns["band"].values]
    injected = columns["lens_model"].values != 0
    split = columns["region_split"].values.astype(np.int64)
    ok = columns["cutout_ok"].values.astype(bool)
    covered = columns["coverage"].values > 0
    # A guard row is in no split: what it shares with others leaks into none.
    used = split != SPLITS.index("guard")
    region_of, host_of = _text_hashes(columns, "region_id"), columns["host_id"].values
    regions, hosts = len(np.unique(region_of)), len(np.unique(host_of))
    said = not {"region_id", "brick"} <= set(lacks)
    region_leaks = _in_two_splits(region_of[used], split[used]) if said else 0
    host_leaks = _in_two_splits(host_of[used], split[used])
    reference = bands.index(reference_band)
    return Quality(
        _table(columns, bands, injected, split),
        _coverage(columns, bands, injected, injected & ok, covered, reference),
        removed(columns),
        len(injected),
        regions,
        hosts,
        region_leaks,
        host_leaks,
    )


def _numeric(
    columns: xr.Dataset, bands: list[str]
) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """(name, band, values) of every numeric column, one at a time."""
    for name, variable in columns.data_vars.items():
        if variable.dims not in (("pair",), ("pair", "band")) or variable.dtype.kind not in "fiub":
            continue
        values = variable.values
        if values.ndim == 1:
            yield str(name), "", values.astype(float)
        else:
            for b, band in enumerate(bands):
                yield str(name), band, values[:, b].astype(float)


def _table(
    columns: xr.Dataset, bands: list[str], injected: NDArray[np.bool_], split: NDArray[np.int64]
) -> pd.DataFrame:
    groups: list[tuple[str, str, NDArray[np.int64]]] = []
    for label, of_class in (("injection", injected), ("control", ~injected)):
        groups.append((label, "all", np.flatnonzero(of_class)))
        for code, name in enumerate(SPLITS):
            groups.append((label, name, np.flatnonzero(of_class & (split == code))))
    rows = []
    for name, band, values in _numeric(columns, bands):
        for label, part, members in groups:
            if len(members):
                rows.append((name, band, label, part, *_describe(values[members])))
    return pd.DataFrame(rows, columns=QUALITY_COLUMNS)


def _describe(values: NDArray[np.float64]) -> tuple[float, ...]:
    finite = values[np.isfinite(values)]
    n, missing, zeros = len(values), len(values) - len(finite), int((finite == 0).sum())
    if len(finite) == 0:
        return (n, missing, zeros, *[np.nan] * 8)
    return (n, missing, zeros, *np.percentile(finite, PERCENTILES).tolist(), float(finite.mean()))


def _coverage(
    columns: xr.Dataset,
    bands: list[str],
    injected: NDArray[np.bool_],
    ok: NDArray[np.bool_],
    covered: NDArray[np.bool_],
    reference: int,
) -> pd.DataFrame:
    """Where outcomes are missing that should be there, and there where they should be missing."""
    rows: list[tuple[str, str, int, int, int, int]] = []
    controls = int((~injected).sum())
    for name in OUTCOME_COLUMNS:
        if name not in columns:
            continue
        per_band = name != "magnification" and not name.startswith("arc_snr")
        drawn = covered.any(axis=1) if name == "magnification" else covered[:, reference]
        values = columns[name].values
        for b, band in enumerate(bands if per_band else [""]):
            expected = ok & (covered[:, b] if per_band else drawn)
            finite = np.isfinite(values[:, b] if values.ndim == 2 else values)
            rows.append((name, band, int(expected.sum()), int((expected & ~finite).sum()),
                         controls, int((~injected & finite).sum())))  # fmt: skip
    return pd.DataFrame(rows, columns=COVERAGE_COLUMNS)


def _text_hashes(columns: xr.Dataset, name: str) -> NDArray[np.uint64]:
    """xxh64 of a text column, read in pieces: ten million strings at once would take a gigabyte."""
    pieces = []
    for start in range(0, columns.sizes["pair"], TEXT_CHUNK):
        text = columns[name][start : start + TEXT_CHUNK].values.astype(object).astype(str)
        unique, inverse = np.unique(text, return_inverse=True)
        keys = np.array([xxhash.xxh64_intdigest(str(u).encode()) for u in unique], dtype=np.uint64)
        pieces.append(keys[inverse.reshape(-1)])
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint64)


def _in_two_splits(key: NDArray[Any], split: NDArray[np.int64]) -> int:
    """How many keys occur in more than one split."""
    if len(key) == 0:
        return 0
    order = np.lexsort((split, key))
    k, s = key[order], split[order]
    new_key: NDArray[np.bool_] = np.concatenate([[True], k[1:] != k[:-1]])
    new_pair = new_key | np.concatenate([[True], s[1:] != s[:-1]])
    per_key = np.bincount(np.cumsum(new_key)[new_pair] - 1)
    return int((per_key > 1).sum())
