"""Where a network looks: patches are hidden one by one, and the one that costs most should lie on the arc.

What is hidden is replaced by the image's own azimuthal median about the stamp's centre, channel by channel:
a galaxy without an arc stays what it was, so that its bright core does not win by being bright. The arc is
the one that the row's parameters promise, drawn by the audit's integrator: whatever else lies in the pixels
is not on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.intervals import (
    MIN_REGIONS,
    Outcome,
    generator,
    region_interval,
    resample_weights,
)
from darkhaloscope.geometry import radius_map, stamp_centre

Floats = NDArray[np.float64]
Images = NDArray[np.float32]

SHARE = 0.5
"""A patch is on the arc if it holds this part of the light that the best patch holds."""
FEWEST = 50
"""Stamps below which nothing is decided."""
ONE_PLACE = 0.5
"""Where a network that always looks at one place is right this often, failing the limit says nothing."""
SIGNIFICANT = 1e-3
PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Localisation:
    """How often the patch that matters most lies on the arc.

    Attributes
    ----------
    hits : float
        Fraction of stamps.
    chance : float
        The larger of: a patch anywhere; and the patches of these stamps on the arcs of others, which a
        network that always looks at one place scores as well.
    excess, lo, hi : float
        ``hits - chance`` and its interval over regions.
    p : float
        Of as many hits when stamps and arcs are put together at random.
    stamps, regions : int
    """

    hits: float
    chance: float
    excess: float
    lo: float
    hi: float
    p: float
    stamps: int
    regions: int

    @property
    def one_place(self) -> bool:
        """Whether arcs lie so near to one place that looking there is as good as finding them."""
        return self.hits >= ONE_PLACE and self.chance >= ONE_PLACE

    def outcome(self, limit: float) -> Outcome:
        """``pass`` where the excess lies above the limit as a whole, and p is below 0.001."""
        if self.stamps < FEWEST or self.regions < MIN_REGIONS or not np.isfinite(self.lo):
            return "not_enough"
        if self.hi < limit:
            return "not_enough" if self.one_place else "fail"
        return "pass" if self.lo > limit and self.p < SIGNIFICANT else "not_enough"


def patch_of(size: int) -> tuple[int, int]:
    """Side and step of the patches in pixels: 8 and 4 for 64."""
    side = max(2, size // 8)
    return side, max(1, side // 2)


def neutral(images: Images) -> Images:
    """The azimuthal median of each channel about the stamp's centre, as images."""
    size = images.shape[-1]
    centre = stamp_centre(size)
    ring = radius_map(size, centre, centre).astype(int)
    out = np.empty_like(images)
    for r in np.unique(ring):
        member = ring == r
        out[..., member] = np.median(images[..., member], axis=-1, keepdims=True)
    return out


def occlusion(images: Images, logits: Callable[[Images], Floats]) -> Floats:
    """What hiding each patch costs in log odds, (image, row of patches, column of patches).

    Parameters
    ----------
    images : ndarray (image, channel, y, x)
        As the network is given them.
    logits : callable
        Log odds (n,) of n such images.
    """
    size = images.shape[-1]
    side, step = patch_of(size)
    starts = range(0, size - side + 1, step)
    plain, whole = neutral(images), logits(images)
    out = np.empty((len(images), len(starts), len(starts)))
    for i, y in enumerate(starts):
        for j, x in enumerate(starts):
            hidden = images.copy()
            part = (..., slice(y, y + side), slice(x, x + side))
            hidden[part] = plain[part]
            out[:, i, j] = whole - logits(hidden)
    return out


def patch_light(arcs: Floats) -> Floats:
    """Light of each patch, (image, patch), of arcs (image, y, x) >= 0."""
    size = arcs.shape[-1]
    side, step = patch_of(size)
    table = np.zeros((len(arcs), size + 1, size + 1))
    table[:, 1:, 1:] = arcs.cumsum(axis=1).cumsum(axis=2)
    a = np.arange(0, size - side + 1, step)
    b = a + side
    light = (
        table[:, b][:, :, b] - table[:, a][:, :, b] - table[:, b][:, :, a] + table[:, a][:, :, a]
    )
    return np.asarray(light.reshape(len(arcs), -1))


def localisation(cost: Floats, arcs: Floats, region: NDArray[np.int64], seed: int) -> Localisation:
    """Compare where patches matter with where arcs are.

    Parameters
    ----------
    cost : ndarray (stamp, row, column)
        :func:`occlusion`.
    arcs : ndarray (stamp, y, x)
        The arcs that the parameters promise, bands added up in any one unit.
    region : ndarray of int64 (stamp,)
    seed : int
    """
    n = len(cost)
    keys, index = np.unique(region, return_inverse=True)
    regions = len(keys)
    if n < 2:
        nan = float("nan")
        return Localisation(nan, nan, nan, nan, nan, nan, n, regions)
    light = patch_light(arcs)
    best = light.max(axis=1, keepdims=True)
    on_arc = light >= SHARE * np.where(best > 0, best, np.inf)
    where = cost.reshape(n, -1).argmax(axis=1)
    # Stamp i's patch on arc j: the diagonal is what is asked, the rest what chance would do.
    matrix = on_arc[:, where].T
    own = np.diag(matrix).astype(float)
    others = (matrix.sum(axis=1) - own) / (n - 1)
    anywhere = on_arc.mean(axis=1)
    expected = max((others, anywhere), key=lambda v: float(v.mean()))
    gain = own - expected
    weights = resample_weights(regions, seed)
    top = weights @ np.bincount(index.reshape(-1), weights=gain, minlength=regions)
    bottom = weights @ np.bincount(index.reshape(-1), minlength=regions).astype(float)
    replicates = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
    excess = float(gain.mean())
    lo, hi = region_interval(excess, replicates, regions)
    return Localisation(
        float(own.mean()),
        float(expected.mean()),
        excess,
        lo,
        hi,
        _p(matrix, float(own.sum()), seed),
        n,
        regions,
    )


def _p(matrix: NDArray[np.bool_], seen: float, seed: int) -> float:
    """How often stamps and arcs that are put together at random hit as often."""
    rng = generator(seed, 7)
    n = len(matrix)
    order = rng.permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)
    drawn = matrix[np.arange(n), order].sum(axis=1)
    return float((1 + (drawn >= seen).sum()) / (1 + PERMUTATIONS))
