"""Pairs to look at: a few over all Einstein radii, and those that are furthest from what was promised."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.measure import Arrays, annuli
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.geometry import radius_map, stamp_centre

SPREAD, WORST = "spread", "worst"
N_SPREAD, N_WORST = 8, 6
LEAST = 0.001
"""Per cent, or sky sigma, below which a number is not said."""
UNKNOWN = 255
"""Code of a split that the set does not say."""

COLUMNS = (
    "brick", "slot", "theta_e", "arc_snr", "magnification", "region_split", "coverage", "sky_sigma",
)  # fmt: skip


def example_pairs(stats: Arrays, rerendered: Arrays, found: Closure, spec: AuditSpec) -> Arrays:
    """Some of the rows that were kept whole, as plain arrays.

    Returns
    -------
    dict of ndarray
        ``ctrl``, ``arc`` and ``again`` (re-rendered, NaN where that is not known), each (pair, band, y,
        x) in nMgy; ``nodata`` (pair, y, x); ``kind``, ``why`` (text); the columns of the rows; ``bands``,
        ``paired``, ``lacks`` and ``pixel_scale`` of the set. First come rows spread evenly over theta_e
        (over the order of hashes where a set does not say it), then the worst: those whose arcs
        differ most from the re-rendered ones, or, where there are none, those with most light far
        out. In a set without pairs no row is worse than another.
    """
    row = match(stats["whole_hash"], stats["row_hash"])
    there = np.flatnonzero(row >= 0)
    there = there[np.argsort(stats["whole_hash"][there], kind="stable")]
    theta_e = stats["row_theta_e"][row[there]].astype(float)
    order = there if "theta_e" in spec.lacks else there[np.argsort(theta_e, kind="stable")]
    places = np.linspace(0, len(order) - 1, min(N_SPREAD, len(order))).round().astype(int)
    spread = order[places] if len(order) else order
    worst, why = _worst(stats, found, there, row, spec)
    chosen = np.concatenate([spread, worst]).astype(np.int64)
    drawn = match(stats["whole_hash"][chosen], rerendered["whole_hash"])
    again = np.full(stats["whole_arc"][chosen].shape, np.nan, dtype=np.float32)
    again[drawn >= 0] = rerendered["whole"][drawn[drawn >= 0]]
    columns = {name: stats[f"row_{name}"][row[chosen]] for name in COLUMNS}
    if "region_split" in spec.lacks:
        columns["region_split"] = np.full(len(chosen), UNKNOWN, dtype=np.uint8)
    return {
        **{name: stats[f"whole_{name}"][chosen] for name in ("ctrl", "arc", "nodata")},
        "again": again,
        "kind": np.repeat([SPREAD, WORST], [len(spread), len(worst)]),
        "why": np.array([*[""] * len(spread), *why], dtype="U100"),
        **columns,
        "bands": np.array(spec.bands),
        "paired": np.array(spec.paired),
        "lacks": np.array(spec.lacks, dtype="U40"),
        "pixel_scale": np.array(spec.pixel_scale),
    }


def _worst(
    stats: Arrays,
    found: Closure,
    there: NDArray[np.int64],
    row: NDArray[np.int64],
    spec: AuditSpec,
) -> tuple[NDArray[np.int64], list[str]]:
    """Places among the whole rows, the worst first, and what is wrong with each."""
    if not spec.paired or not len(there):
        return there[:0], []
    if len(found.pairs):
        far = _furthest(found)
        place = match(far["hash"].to_numpy(dtype=stats["whole_hash"].dtype), stats["whole_hash"])
        return place, [_unlike(*v) for v in zip(far["difference"], far["noise"], strict=True)]
    inner, outer = annuli(spec.size)[0]
    radius = radius_map(spec.size, stamp_centre(spec.size), stamp_centre(spec.size))
    ring = (radius >= inner) & (radius < outer)
    light = stats["whole_arc"][there][..., ring].mean(axis=-1, dtype=float)
    unit = np.abs(light) / stats["row_sky_sigma"][row[there]].astype(float)
    size = np.nan_to_num(unit).max(axis=1)
    first = np.argsort(-size, kind="stable")[:N_WORST]
    return there[first], [f"{plain(size[k])} sky sigma a pixel far out" for k in first]


def _furthest(found: Closure) -> pd.DataFrame:
    """The arcs that differ most, noise taken off: ``hash``, ``difference`` and ``noise`` of one band each.

    ``noise`` is the difference that noise, or rounding, alone makes of the arc; 0 where there is none.
    """
    images = ["hash", "band"]
    noise = found.noise_pairs.groupby(images)["difference"].max()
    table = found.pairs[[*images, "difference"]].sort_values("hash", kind="stable")
    of_each = noise.reindex(pd.MultiIndex.from_frame(table[images])).to_numpy(float)
    table = table.assign(noise=np.nan_to_num(of_each)).reset_index(drop=True)
    beyond = (table["difference"] - table["noise"]).groupby(table["hash"], sort=True)
    return table.loc[beyond.idxmax().loc[beyond.max().nlargest(N_WORST).index]]


def _unlike(difference: float, noise: float) -> str:
    """How much of an arc's light is not as re-rendered, and how much of that is noise."""
    says = f"{plain(100 * difference)} % of its light is not as re-rendered"
    return f"{says}, {plain(100 * noise)} % by noise alone" if noise > 0 else says


def plain(value: float) -> str:
    """Two digits of a number that is not negative, without a power of ten: 5,200, 0.013."""
    if value < LEAST:
        return f"less than {LEAST}"
    places = 1 - math.floor(math.log10(value))
    return f"{round(value, places):,.{max(places, 0)}f}"
