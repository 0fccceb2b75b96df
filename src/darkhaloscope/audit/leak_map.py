"""Where a stamp differs from its ctrl: the AUC of every ring and every block of pixels.

Two readers look at whole stamps: a linear one at the mean of each region of the stamp in each band, and
gradient boosting at profiles, scatter, quadrants and edges together. Both are fitted again to ctrl plus
the re-rendered arc: what remains is no physics, wherever in the stamp it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.core_gate import components, group_folds, match
from darkhaloscope.audit.hypotheses import Hypothesis, p_above
from darkhaloscope.audit.intervals import Floats, RegionAuc, region_interval
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.selection import out_of_fold
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.geometry import radius_map, stamp_centre
from darkhaloscope.variables import without_data

GRID = 8
"""Blocks on a side."""
RING = 3.0
"""Width of a ring in pixels."""
ERROR_FLOOR = 2e-3
"""AUC: where both readers tie, the bootstrap of their difference is too good to be true."""
MOST = 600
"""Pairs whose whole stamps are read."""
LEAK_COLUMNS = [
    "reader", "part", "x", "y", "r_in", "r_out", "pairs", "regions", "auc", "auc_lo", "auc_hi",
    "auc_rerendered", "excess", "excess_lo", "excess_hi", "excess_se",
]  # fmt: skip
BLOCK, RINGS, BOOSTED = "block", "ring", "gradient boosting on profiles"


@dataclass(frozen=True)
class Part:
    """A part of the stamp: its name, place in pixels and mask (y, x)."""

    reader: str
    name: str
    x: float
    y: float
    r_in: float
    r_out: float
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Stamps:
    """Whole stamps of the leak map, (pair, band, y, x) in sky sigma; ``promised`` is None where no arc
    could be drawn again."""

    ctrl: Floats
    seen: Floats
    promised: Floats | None
    good: NDArray[np.bool_]
    region: NDArray[np.uint64]
    host: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    row: NDArray[np.int64]
    """Place of each among the audit rows."""


def whole_stamps(stats: Arrays, rerendered: Arrays, spec: AuditSpec) -> Stamps:
    """Stamps that were kept whole, and drawn again whole where that is possible."""
    row = match(stats["whole_hash"], stats["row_hash"])
    use = row >= 0
    drawn = match(stats["whole_hash"], rerendered["whole_hash"])
    if spec.redraws:
        use &= drawn >= 0
    covered = (stats["row_coverage"][np.maximum(row, 0)] > 0).all(axis=1)
    sigma = stats["row_sky_sigma"][np.maximum(row, 0)].astype(float)
    use &= covered & (sigma > 0).all(axis=1)
    if spec.redraws:
        use[use] &= np.isfinite(rerendered["whole"][drawn[use]]).all(axis=(1, 2, 3))
    chosen = lowest_hashes(stats["whole_hash"], use)
    unit = sigma[chosen][:, :, None, None]
    ctrl = stats["whole_ctrl"][chosen].astype(float) / unit
    place = row[chosen]
    return Stamps(
        ctrl,
        ctrl + stats["whole_arc"][chosen].astype(float) / unit,
        ctrl + rerendered["whole"][drawn[chosen]] / unit if spec.redraws else None,
        ~without_data(stats["whole_nodata"][chosen], len(spec.bands)),
        stats["row_region"][place],
        stats["row_host_id"][place],
        stats["row_hash"][place],
        place,
    )


def lowest_hashes(
    hashes: NDArray[np.uint64], use: NDArray[np.bool_], most: int = MOST
) -> NDArray[np.int64]:
    """Places of the ``most`` lowest hashes among ``use``, in their order: a fair draw of the whole survey,
    where the first rows would be those of a few bricks."""
    rows = np.flatnonzero(use)
    return rows[np.argsort(hashes[rows], kind="stable")][:most]


def parts(size: int) -> list[Part]:
    """Rings about the centre, what lies beyond the largest, and a grid of blocks."""
    centre = stamp_centre(size)
    radius = radius_map(size, centre, centre)
    edges = [*np.arange(0.0, size / 2 - RING / 2, RING), size / 2, radius.max() + 1]
    out = [
        Part(RINGS, f"{a:g}-{b:.0f} px" if b <= size / 2 else "corners", np.nan, np.nan, a, b,
             (radius >= a) & (radius < b))
        for a, b in pairwise(edges)
    ]  # fmt: skip
    cuts = np.linspace(0, size, GRID + 1).astype(int)
    for j, i in np.ndindex(GRID, GRID):
        mask = np.zeros((size, size), dtype=bool)
        mask[cuts[j] : cuts[j + 1], cuts[i] : cuts[i + 1]] = True
        x, y = (cuts[i] + cuts[i + 1] - 1) / 2, (cuts[j] + cuts[j + 1] - 1) / 2
        out.append(Part(BLOCK, f"x {x:g}, y {y:g}", x, y, np.nan, np.nan, mask))
    return out


def leak_map(stamps: Stamps, spec: AuditSpec) -> pd.DataFrame:
    """One line a part of the stamp, and one for the non-linear reader."""
    n = len(stamps.hashes)
    if n < 2 or len(np.unique(components(stamps.host, stamps.region))) < 2:
        return pd.DataFrame(columns=LEAK_COLUMNS)
    fold = group_folds(stamps.host, stamps.region, stamps.hashes)
    pieces = parts(spec.size)
    masks = np.stack([p.mask for p in pieces])
    ctrl = _means(stamps.ctrl, stamps.good, masks)
    seen = _means(stamps.seen, stamps.good, masks)
    promised = None
    if stamps.promised is not None:
        promised = _means(stamps.promised, stamps.good, masks)
    lines = []
    for k, part in enumerate(pieces):
        observed = linear_scores(seen[:, k], ctrl[:, k], fold)
        expected = None if promised is None else linear_scores(promised[:, k], ctrl[:, k], fold)
        lines.append(_line(part, observed, expected, stamps, spec))
    ctrl = profile_features(stamps.ctrl, stamps.good)
    observed = _boosted(profile_features(stamps.seen, stamps.good), ctrl, fold)
    expected = None
    if stamps.promised is not None:
        expected = _boosted(profile_features(stamps.promised, stamps.good), ctrl, fold)
    whole = Part(
        BOOSTED, "whole stamp", np.nan, np.nan, np.nan, np.nan, np.ones((1, 1), dtype=bool)
    )
    lines.append(_line(whole, observed, expected, stamps, spec))
    return pd.DataFrame(lines, columns=LEAK_COLUMNS)


def leak_tests(table: pd.DataFrame, tolerance: float, fewest_regions: int) -> list[Hypothesis]:
    """Whether a part of the stamp tells more than its re-rendered arcs do."""
    known = table[(table["regions"] >= fewest_regions) & np.isfinite(table["excess"].astype(float))]
    out = []
    for line in known.to_dict("records"):
        error = max(float(line["excess_se"]), ERROR_FLOOR)
        n = int(line["regions"])
        p = p_above(float(line["excess"]), tolerance, error, n)
        where = f"{line['reader']} {line['part']}"
        says = (
            f"stamp and ctrl are told apart with an AUC of {line['auc']:.3f} ({where}), where the "
            f"re-rendered arcs give {line['auc_rerendered']:.3f}"
        )
        name = "nonlinear_excess" if line["reader"] == BOOSTED else "leak"
        interval = (float(line["excess_lo"]), float(line["excess_hi"]))
        out.append(
            Hypothesis(
                name, where, float(line["excess"]), interval, tolerance, n, p, "shortcut", says
            )
        )
    return out


def profile_features(images: Floats, good: NDArray[np.bool_]) -> Floats:
    """Mean and scatter of each ring, means of quadrants and of the four edges, of each band."""
    size = images.shape[-1]
    centre = stamp_centre(size)
    radius = radius_map(size, centre, centre)
    axis = np.arange(size)
    rings = [p.mask for p in parts(size) if p.reader == RINGS]
    masks = list(rings)
    for up in (axis > centre, axis < centre):
        for right in (axis > centre, axis < centre):
            masks.append(up[:, None] & right[None, :] & (radius < size / 2))
    for edge in (axis < 2, axis >= size - 2):
        masks += [np.broadcast_to(edge[:, None], radius.shape), np.broadcast_to(edge, radius.shape)]
    means = _means(images, good, np.stack(masks))
    squares = _means(images**2, good, np.stack(rings))
    spread = np.sqrt(np.maximum(squares - means[:, : len(rings)] ** 2, 0.0))
    return np.concatenate([means, spread], axis=1).reshape(len(images), -1)


def _means(images: Floats, good: NDArray[np.bool_], masks: NDArray[np.bool_]) -> Floats:
    """Mean over the good pixels of each part, (pair, part, band); 0 where there are none."""
    flat = masks.reshape(len(masks), -1).astype(float)
    weight = good.reshape(*good.shape[:2], -1).astype(float)
    total = (images.reshape(weight.shape) * weight) @ flat.T
    return np.asarray(np.moveaxis(total / np.maximum(weight @ flat.T, 1.0), 1, 2))


def linear_scores(stamp: Floats, ctrl: Floats, fold: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Fisher's linear discriminant of a few features, fitted without the fold that it scores.

    In two or three features it ranks as logistic regression does, at a hundredth of the cost, and a
    stamp has a hundred parts.
    """
    seen, other = np.full(len(stamp), np.nan), np.full(len(ctrl), np.nan)
    for name in np.unique(fold):
        train, test = fold != name, fold == name
        gap = (stamp[train] - ctrl[train]).mean(axis=0)
        centred = [v[train] - v[train].mean(axis=0) for v in (stamp, ctrl)]
        cov = sum(c.T @ c for c in centred) / (2 * train.sum())
        direction = np.linalg.lstsq(cov, gap, rcond=1e-10)[0]
        seen[test], other[test] = stamp[test] @ direction, ctrl[test] @ direction
    return seen, other


def _boosted(seen: Floats, ctrl: Floats, fold: NDArray[np.int64]) -> tuple[Floats, Floats]:
    label = np.repeat([True, False], len(seen))
    scores = out_of_fold(np.concatenate([seen, ctrl]), label, np.tile(fold, 2))
    return scores[: len(seen)], scores[len(seen) :]


def _line(
    part: Part,
    observed: tuple[Floats, Floats],
    expected: tuple[Floats, Floats] | None,
    stamps: Stamps,
    spec: AuditSpec,
) -> tuple[object, ...]:
    seen = RegionAuc(*observed, stamps.region, spec.seed)
    lo, hi = seen.interval()
    head = (part.reader, part.name, part.x, part.y, part.r_in, part.r_out, len(stamps.hashes),
            seen.n_regions, seen.value, max(lo, 0.0), min(hi, 1.0))  # fmt: skip
    if expected is None:
        return (*head, *[np.nan] * 5)
    promised = RegionAuc(*expected, stamps.region, spec.seed)
    gap, replicates = seen.value - promised.value, seen.replicates - promised.replicates
    ends = region_interval(gap, replicates, seen.n_regions)
    return (*head, promised.value, gap, *ends, float(np.std(replicates, ddof=1)))
